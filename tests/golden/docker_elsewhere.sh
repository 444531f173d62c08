export PYTHONUNBUFFERED=1
export head_node_ip=localhost
export num_nodes=1
export nproc_per_node=1
export node_rank=0
export SEED=1
export GREETING='it'"'"'s "odd" $HOME
second line'
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
docker create --name nemo-job-410bbe08beb2 --log-driver json-file --init --label nemo-prefect/key=410bbe08beb2 --label nemo-prefect/experiment-id=golden_1 --label nemo-prefect/job-id=job --label nemo-prefect/attempt=1 --workdir /nemo_run/code --env PYTHONUNBUFFERED --env head_node_ip --env num_nodes --env nproc_per_node --env node_rank --env SEED --env GREETING --env NEMO_PREFECT_EXPERIMENT_ID --env NEMO_PREFECT_JOB_ID --env NEMO_PREFECT_JOB_DIR --env NEMO_PREFECT_ARTIFACTS --env NEMO_PREFECT_ATTEMPT --env NEMO_PREFECT_KEY registry.example/train:1 bash /tmp/golden/home/experiments/golden/golden_1/job/script.sh
# /tmp/golden/home/experiments/golden/golden_1/job is copied into it, and back when it has ended.
docker start nemo-job-410bbe08beb2
