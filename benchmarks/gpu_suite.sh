#!/usr/bin/env bash
# Every GPU measurement of the project, for a machine with a GPU and the whole environment, in calls of less than ten
# minutes; needs no network. A host with little else than PyTorch runs benchmarks/gpu_call.py instead.
#   bash benchmarks/gpu_suite.sh              all of it; a run that was cut short goes on where it stopped
#   bash benchmarks/gpu_suite.sh step         one part: correct | kernels | step | input
# Rows go to benchmarks/results/, with GPU, versions and commit. What is skipped is named, with the reason. Calls that
# finished on this GPU at this commit are listed in runs/gpu_suite.txt and not repeated; remove it to measure again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)
part=${1:-all}
case "$part" in
  all | correct | kernels | step | input) ;;
  *) echo "gpu_suite.sh: no part '$part'; choose correct, kernels, step or input" >&2; exit 2 ;;
esac
if ! gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))' 2>/dev/null); then
  echo "gpu_suite.sh: skipped all: PyTorch finds no GPU" >&2
  exit 1
fi
rows=benchmarks/results

finished=runs/gpu_suite.txt
mkdir -p runs
touch "$finished"
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)

# within_ten_minutes NAME COMMAND...: a call that fails or takes too long is named, and the others go on.
failed=()
within_ten_minutes() {
  local call="$gpu $commit $1"
  if grep -qxF -- "$call" "$finished"; then
    echo "== $1: done before ($finished)"
  else
    echo "== $1"
    if timeout 590 "${@:2}"; then
      echo "$call" >> "$finished"
    else
      echo "== $1: failed with status $?" >&2
      failed+=("$1")
    fi
  fi
}
wanted() { [ "$part" = all ] || [ "$part" = "$1" ]; }
# needs NAME MODULE: whether the module is there; what does without it is skipped, and says so.
needs() { "$python" -c "import $2" 2>/dev/null || { echo "== $1: skipped, $2 is not installed" >&2; false; }; }

if wanted correct; then
  within_ten_minutes "kernels against the reference" "$python" -m pytest tests/kernels/test_kernels.py
fi
if wanted kernels; then
  within_ten_minutes "time of the kernels" "$python" benchmarks/kernels.py --json "$rows/kernels-$gpu.json"
  if needs "picture of the kernels" matplotlib; then
    within_ten_minutes "picture of the kernels" "$python" benchmarks/kernels.py --draw-rows "$rows/kernels-$gpu.json"
  fi
fi
if wanted step && needs "training step" deepspeed; then
  within_ten_minutes "stage 1" "$python" benchmarks/throughput.py --stage 1 --p-samp 0 --json "$rows/stage1-$gpu.json"
  if needs "RGB" nvidia.dali; then
    within_ten_minutes "what RGB costs" "$python" benchmarks/throughput.py --stage 3 --p-samp 0,0.1,0.25,0.5,1 \
      --json "$rows/throughput-$gpu.json" --picture "$rows/throughput-$gpu.png"
  fi
fi
if wanted input && needs "data path" nvidia.dali; then
  within_ten_minutes "data path" "$python" benchmarks/data_path.py --json "$rows/data_path-$gpu.json" \
    --picture "$rows/data_path-$gpu.png"
fi
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
