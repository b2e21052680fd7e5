#!/usr/bin/env bash
# Every GPU measurement of the project, in calls of less than ten minutes; needs no network.
#   bash benchmarks/gpu_suite.sh              all of it
#   bash benchmarks/gpu_suite.sh timing       one part: correct | timing
# Rows go to benchmarks/results/, with GPU, versions and commit. What is skipped is named, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)
part=${1:-all}
case "$part" in all | correct | timing) ;; *) echo "gpu_suite.sh: no part '$part'; choose correct or timing" >&2; exit 2 ;; esac
if ! gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))' 2>/dev/null); then
  echo "gpu_suite.sh: skipped all: PyTorch finds no GPU" >&2
  exit 1
fi
rows="benchmarks/results/kernels-$gpu.json"

# within_ten_minutes NAME COMMAND...: a call that fails or takes too long is named, and the others go on.
failed=()
within_ten_minutes() {
  echo "== $1"
  timeout 590 "${@:2}" || { echo "== $1: failed with status $?" >&2; failed+=("$1"); }
}

if [ "$part" != timing ]; then
  within_ten_minutes "kernels against the reference" "$python" -m pytest tests/test_kernels.py
fi
if [ "$part" != correct ]; then
  within_ten_minutes "time of the kernels" "$python" benchmarks/kernels.py --json "$rows"
  if "$python" -c 'import matplotlib' 2>/dev/null; then
    within_ten_minutes "picture" "$python" benchmarks/kernels.py --draw-rows "$rows"
  else
    echo "== picture: skipped, matplotlib is not installed; later: python benchmarks/kernels.py --draw-rows $rows"
  fi
fi
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
