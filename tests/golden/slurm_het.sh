sbatch --parsable --job-name=golden.job.410bbe08beb2 --no-requeue --kill-on-invalid-dep=yes --open-mode=append --output=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/stdout.log --error=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/stderr.log --account=research --time=00:10:00 --partition=debug --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 : --account=research --time=00:10:00 --partition=cpu --nodes=2 --ntasks-per-node=1 /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/job.sh

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
export num_nodes="${SLURM_JOB_NUM_NODES:-1}" nproc_per_node=8
first_of() { scontrol show hostnames "$1" | head -n 1; }
address_of() { scontrol show node -o "$1" | sed -n 's/.* NodeAddr=\([^ ]*\) .*/\1/p'; }
head_node=$(first_of "${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}")
head_node_ip=$(address_of "$head_node"); export head_node_ip="${head_node_ip:-$head_node}"
export het_group_host_0="$(address_of "$(first_of "$SLURM_JOB_NODELIST_HET_GROUP_0")")"
export het_group_host_1="$(address_of "$(first_of "$SLURM_JOB_NODELIST_HET_GROUP_1")")"
cd /tmp/golden || fail 'its working directory is not there'

launch() {  # member: run it, and write down how it ended
  interrupted= stopped=
  "run_$1" >> "$dir/$1/stdout.log" 2>> "$dir/$1/stderr.log" &
  children=$!
  trap 'stopped=1; [ ! -e "$dir/stopping" ] || pass_on TERM; interrupted=1' TERM
  forward_signals
  await "$children"; code=$?
  [ ! -e "$dir/terminated" ] || exit "$code"
  [ "$code" != 0 ] || proven "$dir/$1" || code=1
  if [ -n "$stopped" ]; then record "$dir/$1" "$code" "" true; else record "$dir/$1" "$code"; fi
  exit "$code"
}

left= failed= last= message= monitor=1
look() {  # which members ended; the first that failed takes the others along
  local n code still=
  for n in $left; do
    if kill -0 "${pids[$n]}" 2>/dev/null; then still="$still $n"; continue; fi
    wait "${pids[$n]}"; code=$?
    if [ "$code" != 0 ] && [ -z "$failed" ]; then failed=$code message="member $n ended with exit code $code"; fi
  done
  left=$still
  if [ -n "$failed" ] && [ -n "$monitor" ] && [ -z "$last" ]; then
    last=$((SECONDS + 30))
    echo "nemo-prefect: $message" >&2
    touch "$dir/stopping"
    for n in $left; do kill -TERM "${pids[$n]}" 2>/dev/null; done
  fi
}
pause() { sleep "$1" & wait $!; look; }
run_0() { exec srun --kill-on-bad-exit=1 --wait=60 --nodes=1 --ntasks=1 --ntasks-per-node=1 --het-group=0 sh /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/0/task.sh; }
run_1() { exec srun --kill-on-bad-exit=1 --wait=60 --nodes=2 --ntasks=2 --ntasks-per-node=1 --het-group=1 --label sh /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/1/task.sh; }
run_2() { exec srun --kill-on-bad-exit=1 --wait=60 --nodes=2 --ntasks=2 --ntasks-per-node=1 --het-group=1 --label sh /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/2/task.sh; }

for n in $(seq 0 2); do
  [ -z "$failed$terminated" ] || { record "$dir/$n" 143 "" true; continue; }
  ( launch "$n" ) &
  pids[$n]=$! children="$children $!" left="$left $n"
  [ $n = 2 ] || for _ in $(seq 0); do [ -n "$failed$terminated" ] || pause 1; done
done
while [ -n "$left" ]; do
  pause 0.5
  [ -z "$last" ] || [ "$SECONDS" -lt "$last" ] || break  # what is left ends with the job
done
for n in $left; do record "$dir/$n" 137 "" true; done
finish "${failed:-0}" "${message:-}"

# ---- env.sh
export ROLE=server
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1

# ---- 0/task.sh
#!/bin/sh
# Every task runs this.
export PYTHONUNBUFFERED=1
export ROLE=server
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
export PATH=/usr/bin:"$PATH"
cd /tmp/golden || exit 1
trap : HUP INT QUIT TERM USR1 USR2  # they are for the task; this shell waits for it
bash /tmp/golden/home/experiments/golden/golden_1/job/0/script.sh
code=$?
echo "$code ${SLURM_NTASKS:-1}" > /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/0/.ended."${SLURM_PROCID:-0}"
exit $code

# ---- 1/task.sh
#!/bin/sh
# Every task runs this.
export PYTHONUNBUFFERED=1
export ROLE=client
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
export PATH=/usr/bin:"$PATH"
cd /tmp/golden || exit 1
trap : HUP INT QUIT TERM USR1 USR2  # they are for the task; this shell waits for it
python3 client.py --host "${het_group_host_0}"
code=$?
echo "$code ${SLURM_NTASKS:-1}" > /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/1/.ended."${SLURM_PROCID:-0}"
exit $code

# ---- 2/task.sh
#!/bin/sh
# Every task runs this.
export PYTHONUNBUFFERED=1
export ROLE=client
export NEMO_PREFECT_EXPERIMENT_ID=golden_1
export NEMO_PREFECT_JOB_ID=job
export NEMO_PREFECT_JOB_DIR=/tmp/golden/home/experiments/golden/golden_1/job
export NEMO_PREFECT_ARTIFACTS=/tmp/golden/home/experiments/golden/golden_1/job/attempt-1/artifacts
export NEMO_PREFECT_ATTEMPT=1
export NEMO_PREFECT_KEY=410bbe08beb2
export PATH=/usr/bin:"$PATH"
cd /tmp/golden || exit 1
trap : HUP INT QUIT TERM USR1 USR2  # they are for the task; this shell waits for it
python3 client.py --host "${het_group_host_0}"
code=$?
echo "$code ${SLURM_NTASKS:-1}" > /tmp/golden/home/experiments/golden/golden_1/job/attempt-1/2/.ended."${SLURM_PROCID:-0}"
exit $code
