#!/usr/bin/env bash
# Everything that is measured on an accelerator, on a machine with torch, transformers and peft and without a network:
#
#     benchmarks/accelerator.sh OUT [SECONDS]      at most 600 s unless another number is given; again to continue
#     benchmarks/accelerator.sh OUT --smoke        a dry run on any machine, about a minute
#
# WHEELS=DIR   wheels of packages that are missing there; they are installed first, without looking for others
# QUICKSTART=1 also whole runs of the quickstart, whose packages (extra "quickstart") must be there
# DATA=DIR MODEL=DIR   with the time that is left, the paper's protocol on these rows: 16 clients, 1,000 rows, 25 rounds,
#              both methods, local and fedit
# ONLY=protocol        that alone, with all the time there is
#
# OUT/tests.txt has the tests marked gpu, OUT/steps.jsonl and OUT/steps.txt what a step takes, OUT/runs.jsonl and
# OUT/runs.txt whole runs, OUT/protocol the comparison. What is in OUT is not measured again.
set -eu
usage="usage: benchmarks/accelerator.sh OUT [SECONDS | --smoke]"
out=${1:?$usage} limit=${2:-600} smoke=""
[ "$limit" = --smoke ] && { smoke=--smoke; limit=60; }
case $limit in *[!0-9]* | "") echo "$usage; received $limit" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=$(command -v python || command -v python3)
export PYTHONPATH=src HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
left() { echo $((limit - SECONDS)); }

[ -z "${WHEELS:-}" ] || "$python" -m pip install -q --no-index --no-deps "$WHEELS"/*.whl

steps() {
  "$python" benchmarks/accelerator_step.py "$out/steps.jsonl" --passes "$1" --seconds "$(left)" $smoke > "$out/steps.txt"
}
if [ "${ONLY:-}" != protocol ]; then
  steps 1  # over all bases, before a second pass over any
  if [ -z "$smoke" ]; then
    if [ ! -s "$out/tests.txt" ]; then
      # pytest-benchmark, where it is installed, warns beside xdist, and warnings are errors here.
      # A test that fails says so in the file, and the figures are wanted anyway.
      timeout 60 "$python" -m pytest -q -m gpu -p no:cacheprovider -p no:benchmark tests/client tests/models tests/use \
        > "$out/tests.tmp" 2>&1 || true
      mv "$out/tests.tmp" "$out/tests.txt"
      tail -n 1 "$out/tests.txt"
    fi
    steps 3
  fi
  cat "$out/steps.txt"
  if [ -n "${QUICKSTART:-}" ] && [ "$(left)" -gt 30 ]; then
    "$python" benchmarks/accelerator.py "$out/runs.jsonl" --seconds "$(left)" $smoke | tee "$out/runs.txt"
  fi
fi
if [ -n "${DATA:-}" ] && [ -n "${MODEL:-}" ] && [ "$(left)" -gt 30 ]; then
  timeout "$(left)" "$python" -m fedlease compare --preset paper-nlu --methods fedlease,fedlease-plus,local,fedit \
    --set "model=$MODEL" --set "data.path=$DATA" --out "$out/protocol" || echo "the protocol is not finished: call again"
fi
