export PYTHONUNBUFFERED=1
export head_node_ip=localhost
export num_nodes=1
export nproc_per_node=1
export node_rank=0
export SEED=1
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
docker run --detach --name nemo-job-410bbe08beb2 --log-driver json-file --init --label 'team=a b' --label nemo-prefect/key=410bbe08beb2 --label nemo-prefect/experiment-id=golden_1 --label nemo-prefect/job-id=job --label nemo-prefect/attempt=1 --mount type=bind,source=/tmp/golden/home/experiments/golden/golden_1,target=/tmp/golden/home/experiments/golden/golden_1 --mount type=bind,source=/tmp/golden/home/experiments/golden/golden_1/job,target=/nemo_run --volume /tmp/golden/home/experiments/golden/golden_1/job/data:/data --volume /x:/y:ro --user 1000:1000 --platform linux/amd64 --runtime nvidia --ipc host --shm-size 8g --memory 16g --memory-swap 16g --cpus 2.5 --privileged --ulimit memlock=-1:-1 --ulimit stack=67108864:67108864 --health-cmd true --health-interval 1000000000ns --gpus all --cap-add SYS_PTRACE --add-host db:10.0.0.1 --network host --env PYTHONUNBUFFERED --env head_node_ip --env num_nodes --env nproc_per_node --env node_rank --env SEED --env NEMO_PREFECT_EXPERIMENT_ID --env NEMO_PREFECT_JOB_ID --env NEMO_PREFECT_JOB_DIR --env NEMO_PREFECT_ARTIFACTS --env NEMO_PREFECT_ATTEMPT --env NEMO_PREFECT_KEY registry.example/train:1 python3 /tmp/golden/home/experiments/golden/golden_1/worker/run.py /tmp/golden/home/experiments/golden/golden_1/job/task.json
