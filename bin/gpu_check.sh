#!/usr/bin/env bash
# bin/gpu_check.sh [OUT]   the first thing to run on a machine with a GPU: at most nine minutes, all that it finds in OUT
#
# It leaves log.txt, doctor.json, tasks.json, step.json, population.json, and of a training run metrics.jsonl, summary.json and
# learning_curves.csv. A part that fails does not stop the others. The exit code is 1 where one failed.
# PYTHON names the interpreter (default: .venv/bin/python, else python3). It needs pytest, and no tensorflow-datasets.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$root/runs/gpu_check-$(date +%Y%m%d-%H%M%S)}")
cd "$root" && mkdir -p "$out" || exit 2
if [ -n "$(ls -A "$out")" ]; then
  echo "$out is not empty; give another folder: bin/gpu_check.sh OUT" >&2
  exit 2
fi
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
run=$out/run summary='' failed=0
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
trap 'rm -rf "$run" "$out/part.txt"' EXIT # the run has checkpoints

say() { echo "$@" | tee -a "$out/log.txt"; }

found() { # found KEY VALUE: whether doctor.json says so
  "$python" -c 'import json, sys; sys.exit(all(sys.argv[2] not in row.get(sys.argv[1], ()) for row in json.load(sys.stdin)))' \
    "$1" "$2" 2>/dev/null <"$out/doctor.json"
}

part() { # part NAME SECONDS ARGUMENT ...: runs Python, for so long at most, and logs the end of what it prints
  local name=$1 limit=$2 begun=$SECONDS code
  say "== $name, at most $limit s: $python ${*:3}"
  timeout --preserve-status --kill-after=10 "$limit" "$python" "${@:3}" >"$out/part.txt" 2>&1 </dev/null
  code=$?
  tail -c 100000 "$out/part.txt" | tee -a "$out/log.txt"
  if [ "$name" = train ] && [ "$code" = 143 ] && [ -s "$run/metrics.jsonl" ]; then
    code=0 # its limit ends it: at SIGTERM it saves
  elif [ "$name" = doctor ] && found platform cpu; then
    say "no GPU is checked: JAX uses the CPU"
    code=1
  fi
  summary+=$(printf '%s  %-10s %4d s' "$([ "$code" = 0 ] && echo passed || echo FAILED)" "$name" $((SECONDS - begun)))$'\n'
  [ "$code" = 0 ] || failed=1
}

gpicl() { # gpicl NAME SECONDS ARGUMENT ...
  part "$1" "$2" -m gpicl_jax "${@:3}"
}

words='words or exact or projecting or gram_matrix or the_same_alone or in_chunks or gram_draws or bijection'
precision='rotations_and_scalings or permutes_the_logits or order_of_the_context or equal_points or (bfloat16_is_near and transformer)'

gpicl doctor 80 doctor --json "$out/doctor.json"
# Their tolerances are those of float32, to which a GPU does not multiply unless it is asked to.
JAX_DEFAULT_MATMUL_PRECISION=highest XLA_FLAGS=${XLA_FLAGS:-} part tests 75 -m pytest -q -p no:xdist -p no:cacheprovider \
  -o addopts="" -k "($words or $precision) and not float64 and not transformer-" tests/test_projection.py tests/test_augmented.py \
  tests/test_equivariant_transformer.py tests/test_learners.py
gpicl tasks 85 bench tasks --repeats 3 --json "$out/tasks.json"
gpicl step 80 bench step --repeats 3 --json "$out/step.json"
gpicl population 45 bench population --repeats 3 --json "$out/population.json"
data=(--data.train=digits --data.size=8)
if found ready mnist; then data=(); fi
left=$((480 - SECONDS)) # of nine minutes, without the evaluation
gpicl train $((left < 300 ? left : 300)) train comparison/paper/transformer "${data[@]}" --train.chunk=20 \
  --train.validate_every=500 --run-dir "$run"
gpicl evaluate 40 evaluate "$run" --episodes 1024
for file in metrics.jsonl summary.json learning_curves.csv; do
  if [ -f "$run/$file" ]; then cp "$run/$file" "$out"; fi
done
say "== summary"
say "${summary%$'\n'}"
exit "$failed"
