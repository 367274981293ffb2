#!/usr/bin/env bash
# bin/tpu_pod.sh NAME ZONE CONFIG RUN_DIR [--section.key=value ...]
#
# Meta-trains on all workers of the TPU pod slice NAME; the same command goes on with a run that was interrupted. Every
# worker has this repository in ~/gpicl_jax, with jax[tpu] in its .venv; RUN_DIR is on a file system that all of them mount.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: bin/tpu_pod.sh NAME ZONE CONFIG RUN_DIR [--section.key=value ...]" >&2
  exit 2
fi
name=$1 zone=$2 config=$3 run_dir=$4
shift 4

on() { # on WORKER COMMAND
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="cd ~/gpicl_jax && $2"
}

# shellcheck disable=SC2016  # the workers expand it
installed='[ -x .venv/bin/gpicl ] || { echo "$(hostname): no .venv/bin/gpicl in $PWD; clone gpicl_jax into ~ on every worker," \
  "and there: python3 -m venv .venv && .venv/bin/pip install -e . \"jax[tpu]\"" >&2; exit 2; }'
on all "$installed; .venv/bin/python bin/check_node.py tpu"
resume=$(on 0 "if [ -f $(printf %q "$run_dir/config.toml") ]; then echo --resume; fi")
command=(.venv/bin/gpicl train "$config" --run-dir "$run_dir" --distributed=auto ${resume:+"$resume"} "$@")
on all "$(printf '%q ' "${command[@]}")"
