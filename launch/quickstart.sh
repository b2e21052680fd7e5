#!/usr/bin/env bash
# From nothing to a table of scores: installs, writes the demo corpus, trains all stages and tasks, evaluates.
#   bash launch/quickstart.sh           about 15 minutes on two cores after the installation
#   bash launch/quickstart.sh --full    longer training of the same runs; says beforehand how long it takes
# A second call reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
export DS_SKIP_CUDA_CHECK=1 TOKENIZERS_PARALLELISM=false
bash launch/install.sh
export PATH="$PWD/.venv/bin:$PATH"

deepspeed launch/pretrain.py --stage 1
deepspeed launch/pretrain.py --stage 2
deepspeed launch/finetune.py --task slt --p-samp 0
deepspeed launch/finetune.py --task slt
deepspeed launch/finetune.py --task cslr
deepspeed launch/finetune.py --task islr
python launch/summary.py runs/demo
