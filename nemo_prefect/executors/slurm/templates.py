"""The parts of batch scripts that are the same for every job, in bash."""

from __future__ import annotations

#: How every batch script begins: its lock, its record, its signals. A format string.
PROLOGUE = """\
#!/bin/bash
# {title}
dir={directory}
me=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}} me=${{me:-$SLURM_JOB_ID}}
started=$(date +%s) terminated= interrupted= children=

# Once: of several submissions of the same attempt the first one runs.
if mkdir "$dir/lock" 2>/dev/null; then
  echo "$me" > "$dir/lock/owner"
else
  owner=$(cat "$dir/lock/owner")
  if [ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || [ "${{owner:-$me}}" != "$me" ]; then exit {duplicate}; fi
  if grep -q '"exit_code": 0' "$dir/exit.json" 2>/dev/null; then exit 0; fi
  rm -f "$dir/terminated" "$dir/exit.json" "$dir"/.ended.* "$dir"/*/.ended.*  # Slurm queued this same job again
fi

cause() {{  # directory, exit code: what slurmstepd wrote of the memory, which not every Slurm keeps as the job's state
  [ "$2" = 0 ] || ! grep -qsE '^slurmstepd.*(exceeded .*memory limit|oom.kill)' "$1"/stderr.log "$1"/*/stderr.log ||
    echo OUT_OF_MEMORY
}}

record() {{  # directory, exit code, message, whether it was stopped
  printf '{{"exit_code": %d, "signal": null, "attempt": {attempt}, "key": "{key}", "start": %d, "end": %d, ' \\
    "$2" "$started" "$(date +%s)" > "$1/.exit.json.$$" &&
    printf '"host": "%s", "message": "%s", "cancelled": %s, "cause": "%s"}}\\n' \\
      "${{SLURMD_NODENAME:-$HOSTNAME}}" "${{3:-}}" "${{4:-false}}" "$(cause "$1" "$2")" >> "$1/.exit.json.$$" &&
    mv -f "$1/.exit.json.$$" "$1/exit.json"
}}

finish() {{  # exit code, message
  # Who was told to end did not end by itself: Slurm knows whether it was cancelled, preempted or out of time.
  if [ -n "$terminated" ]; then
    while [ -n "$(tasks)" ] && kill -0 "$sweeper" 2>/dev/null; do sleep 0.3; done
    exit 143
  fi
  record "$dir" "$1" "${{2:-}}"
  exit "$1"
}}

# srun can end with exit code 0 although its tasks were killed: when the node is lost, for instance. A job has succeeded when
# each of its tasks said so itself.
proven() {{  # directory
  local n=0 count=1 code
  while [ "$n" -lt "$count" ]; do
    for _ in $(seq {patience}); do [ ! -s "$1/.ended.$n" ] || break; sleep 1; done
    read -r code count 2>/dev/null < "$1/.ended.$n" && [ "$code" = 0 ] || break
    n=$((n + 1))
  done
  [ "$n" -ge "$count" ] || {{ unproven="srun ended without an error, but task $n did not"; return 1; }}
}}

fail() {{ echo "nemo-prefect: $1" >&2; finish 1 "$1"; }}

pass_on() {{ interrupted=1; [ -z "$children" ] || kill -s "$1" $children 2>/dev/null; }}
forward_signals() {{ {traps}; }}
tasks() {{ grep -lzx 'NEMO_PREFECT_KEY={key}' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }}
sweep() {{  # what a cancel leaves of the tasks on this node, processes that left their session included
  sleep {grace}
  [ -e {root}/cancelled ] || exit 0  # a time limit or a preemption: Slurm's own KillWait counts
  for _ in 1 2 3; do tasks | xargs -r kill -KILL 2>/dev/null; sleep 0.2; done
}}
on_term() {{
  [ -n "$terminated" ] && return
  terminated=1
  interrupted=1
  echo TERM >> "$dir/terminated"
  sweep > /dev/null 2>&1 &
  sweeper=$!
}}
trap on_term TERM
forward_signals

await() {{  # process id; signals are taken meanwhile
  while :; do
    interrupted=
    wait "$1"; code=$?
    [ -n "$interrupted" ] || return "$code"
  done
}}
"""

#: How the members of a group run side by side; ``{monitor}`` is to be replaced.
MEMBERS = """
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

left= failed= last= message= monitor={monitor}
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
"""
