# Sourced by the sbatch scripts, in the submit folder. They define what differs between them:
#   job          the name of the job for scontrol
#   saved        prints what has been saved until now
#   terminate    sends SIGTERM to the worker

run() { # run COMMAND ...: runs the worker, queues the job again if it was stopped, and exits with the worker's code
  local before code seconds stopped=''
  before=$(saved)
  trap 'stopped=1' TERM
  "$@" &
  worker=$!
  while lives && [ -z "$stopped" ]; do sleep 1; done
  if lives; then terminate; fi
  for ((seconds = 0; seconds < 90; seconds++)); do # of the 120 before the limit: `wait` would not come back if it hangs
    lives || break
    sleep 1
  done
  if lives; then
    echo "job $job: the worker still runs 90 s after SIGTERM; it is left behind" >&2
    code=143
  else
    wait "$worker"
    code=$?
  fi
  # A preemption may send SIGTERM to the worker alone. Only its exit code tells of it then.
  if [ "$code" != 0 ] && { [ -n "$stopped" ] || [ "$code" = 143 ]; }; then
    requeue
  fi
  exit "$code"
}

lives() { kill -0 "$worker" 2>/dev/null; }

requeue() {
  if [ "$(squeue --noheader --format=%T --jobs="$job")" = COMPLETING ]; then # scancel, whose SIGTERM looks like the others
    echo "job $job: cancelled, not queued again" >&2
  elif [ "$(saved)" = "$before" ]; then
    echo "job $job: stopped before it saved anything new, not queued again: it might never end; submit it with more --time" >&2
  elif ! scontrol requeue "$job"; then
    echo "job $job: cannot be queued again; submit the same command, which goes on from the last checkpoint" >&2
  fi
}
