#!/usr/bin/env bash
# Compiles every kernel for sm_80, sm_90 and sm_100 with another Triton than the pinned one, by hand; needs no GPU.
#   bash tests/compile_with_triton.sh 3.6.0
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh test
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" "triton==${1:?version of Triton}"
PYTHONPATH="$folder" .venv/bin/python benchmarks/kernels.py --compile-only
