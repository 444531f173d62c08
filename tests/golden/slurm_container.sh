sbatch --parsable --job-name=golden.job.410bbe08beb2 --no-requeue --kill-on-invalid-dep=yes --open-mode=append --output=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/stdout.log --error=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/stderr.log --account=research --time=00:10:00 --partition=debug --nodes=1 --ntasks-per-node=1 /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/job.sh

# ---- job.sh
#!/bin/bash
# golden_1, job job, attempt 1
dir=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1
me=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} me=${me:-$SLURM_JOB_ID}
started=$(date +%s) terminated= interrupted= children=

# Once: of several submissions of the same attempt the first one runs.
if mkdir "$dir/lock" 2>/dev/null; then
  echo "$me" > "$dir/lock/owner"
else
  owner=$(cat "$dir/lock/owner")
  if [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || [ "${owner:-$me}" != "$me" ]; then exit 111; fi
  if grep -q '"exit_code": 0' "$dir/exit.json" 2>/dev/null; then exit 0; fi
  rm -f "$dir/terminated" "$dir/exit.json" "$dir"/.ended.* "$dir"/*/.ended.*  # Slurm queued this same job again
fi

cause() {  # directory, exit code: what slurmstepd wrote of the memory, which not every Slurm keeps as the job's state
  [ "$2" = 0 ] || ! grep -qsE '^slurmstepd.*(exceeded .*memory limit|oom.kill)' "$1"/stderr.log "$1"/*/stderr.log ||
    echo OUT_OF_MEMORY
}

record() {  # directory, exit code, message, whether it was stopped
  printf '{"exit_code": %d, "signal": null, "attempt": 1, "key": "410bbe08beb2", "start": %d, "end": %d, ' \
    "$2" "$started" "$(date +%s)" > "$1/.exit.json.$$" &&
    printf '"host": "%s", "message": "%s", "cancelled": %s, "cause": "%s"}\n' \
      "${SLURMD_NODENAME:-$HOSTNAME}" "${3:-}" "${4:-false}" "$(cause "$1" "$2")" >> "$1/.exit.json.$$" &&
    mv -f "$1/.exit.json.$$" "$1/exit.json"
}

finish() {  # exit code, message
  # Who was told to end did not end by itself: Slurm knows whether it was cancelled, preempted or out of time.
  if [ -n "$terminated" ]; then
    while [ -n "$(tasks)" ] && kill -0 "$sweeper" 2>/dev/null; do sleep 0.3; done
    exit 143
  fi
  record "$dir" "$1" "${2:-}"
  exit "$1"
}

# srun can end with exit code 0 although its tasks were killed: when the node is lost, for instance. A job has succeeded when
# each of its tasks said so itself.
proven() {  # directory
  local n=0 count=1 code
  while [ "$n" -lt "$count" ]; do
    for _ in $(seq 10); do [ ! -s "$1/.ended.$n" ] || break; sleep 1; done
    read -r code count 2>/dev/null < "$1/.ended.$n" && [ "$code" = 0 ] || break
    n=$((n + 1))
  done
  [ "$n" -ge "$count" ] || { unproven="srun ended without an error, but task $n did not"; return 1; }
}

fail() { echo "nemo-prefect: $1" >&2; finish 1 "$1"; }

pass_on() { interrupted=1; [ -z "$children" ] || kill -s "$1" $children 2>/dev/null; }
forward_signals() { trap 'pass_on USR2' USR2; }
tasks() { grep -lzx 'NEMO_PREFECT_KEY=410bbe08beb2' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }
sweep() {  # what a cancel leaves of the tasks on this node, processes that left their session included
  sleep 4
  [ -e /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/cancelled ] || exit 0  # a time limit or a preemption: Slurm's own KillWait counts
  for _ in 1 2 3; do tasks | xargs -r kill -KILL 2>/dev/null; sleep 0.2; done
}
on_term() {
  [ -n "$terminated" ] && return
  terminated=1
  interrupted=1
  echo TERM >> "$dir/terminated"
  sweep > /dev/null 2>&1 &
  sweeper=$!
}
trap on_term TERM
forward_signals

await() {  # process id; signals are taken meanwhile
  while :; do
    interrupted=
    wait "$1"; code=$?
    [ -n "$interrupted" ] || return "$code"
  done
}

. /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/env.sh
export num_nodes="${SLURM_JOB_NUM_NODES:-1}" nproc_per_node=1
export head_node_ip=$(hostname -I 2>/dev/null | cut -d' ' -f1)
: "${head_node_ip:=127.0.0.1}"
mkdir -p /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/code
cd /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/code || fail 'its working directory is not there'

srun --kill-on-bad-exit=1 --wait=60 '--container-image=nvcr.io#nvidia/nemo:25.04' --container-mounts=/tmp/golden/home/experiments/golden/golden_1:/tmp/golden/home/experiments/golden/golden_1,/tmp/golden/home/experiments/golden/golden_1/job/attempt-1:/nemo_run,/data:/data:ro,/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/ckpt:/ckpt --container-workdir=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/code --no-container-mount-home --mpi=pmix sh /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/task.sh &
children=$!
await "$children"; code=$?
[ "$code$terminated" != 0 ] || proven "$dir" || finish 1 "$unproven"
finish "$code"

# ---- env.sh
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1

# ---- task.sh
#!/bin/sh
# Every task runs this.
export PYTHONUNBUFFERED=1
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
cd /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/code || exit 1
trap : HUP INT QUIT TERM USR1 USR2  # they are for the task; this shell waits for it
bash /tmp/golden/home/experiments/golden/golden_1/job/script.sh
code=$?
echo "$code ${SLURM_NTASKS:-1}" > /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/.ended."${SLURM_PROCID:-0}"
exit $code
