docker network create nemo-job-410bbe08beb2
(export PYTHONUNBUFFERED=1
export head_node_ip=localhost
export num_nodes=1
export nproc_per_node=1
export node_rank=0
export het_group_host_0=job-0
export het_group_host_1=job-1
export SEED=1
export GREETING='it'"'"'s "odd" $HOME
second line'
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
export NEMO_PREFECT_MEMBER=0
docker run --detach --name nemo-job-410bbe08beb2-0 --log-driver json-file --init --label nemo-prefect/key=410bbe08beb2 --label nemo-prefect/experiment-id=golden_1 --label nemo-prefect/job-id=job --label nemo-prefect/attempt=1 --label nemo-prefect/member=0 --hostname job-0 --mount type=bind,source=/tmp/golden/home/experiments/golden/golden_1,target=/tmp/golden/home/experiments/golden/golden_1 --mount type=bind,source=/tmp/golden/home/experiments/golden/golden_1/job,target=/nemo_run --network nemo-job-410bbe08beb2 --network-alias job-0 --network-alias member-0 --env PYTHONUNBUFFERED --env head_node_ip --env num_nodes --env nproc_per_node --env node_rank --env het_group_host_0 --env het_group_host_1 --env SEED --env GREETING --env NEMO_PREFECT_EXPERIMENT_ID --env NEMO_PREFECT_JOB_ID --env NEMO_PREFECT_JOB_DIR --env NEMO_PREFECT_ARTIFACTS --env NEMO_PREFECT_ATTEMPT --env NEMO_PREFECT_KEY --env NEMO_PREFECT_MEMBER registry.example/train:1 bash /tmp/golden/home/experiments/golden/golden_1/job/0/script.sh
)
(export PYTHONUNBUFFERED=1
export head_node_ip=localhost
export num_nodes=1
export nproc_per_node=1
export node_rank=0
export het_group_host_0=job-0
export het_group_host_1=job-1
export SEED=1
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
export NEMO_PREFECT_MEMBER=1
docker run --detach --name nemo-job-410bbe08beb2-1 --log-driver json-file --init --label nemo-prefect/key=410bbe08beb2 --label nemo-prefect/experiment-id=golden_1 --label nemo-prefect/job-id=job --label nemo-prefect/attempt=1 --label nemo-prefect/member=1 --hostname job-1 --mount type=bind,source=/tmp/golden/home/experiments/golden/golden_1,target=/tmp/golden/home/experiments/golden/golden_1 --mount type=bind,source=/tmp/golden/home/experiments/golden/golden_1/job,target=/nemo_run --network nemo-job-410bbe08beb2 --network-alias job-1 --network-alias member-1 --env PYTHONUNBUFFERED --env head_node_ip --env num_nodes --env nproc_per_node --env node_rank --env het_group_host_0 --env het_group_host_1 --env SEED --env NEMO_PREFECT_EXPERIMENT_ID --env NEMO_PREFECT_JOB_ID --env NEMO_PREFECT_JOB_DIR --env NEMO_PREFECT_ARTIFACTS --env NEMO_PREFECT_ATTEMPT --env NEMO_PREFECT_KEY --env NEMO_PREFECT_MEMBER registry.example/train:1 bash train.sh --head job-0
)
