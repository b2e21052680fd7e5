#!/usr/bin/env bash
# From nothing to a table of scores: installs, writes the demo corpus, trains all stages and tasks, evaluates.
#   bash launch/quickstart.sh           short training: about 15 minutes on two cores after the installation
#   bash launch/quickstart.sh --full    the demo recipe as it stands: about an hour on two cores
# A second call reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in "" | --full) ;; *) sed -n 's/^#   //p' launch/quickstart.sh; exit 2 ;; esac
bash launch/install.sh
export PATH="$PWD/.venv/bin:$PATH"
deepspeed() { command deepspeed --quiet "$@"; } # without the launcher's own lines

# epochs SHORT [FULL]: without FULL, the full training takes the recipe's own number
if [ "${1:-}" = --full ]; then
  runs=runs/demo
  epochs() { if [ $# = 2 ]; then echo --epochs "$2"; fi; }
  echo "The full demo recipe takes about an hour on two cores. After an interruption, the next call resumes it."
else
  runs=runs/quickstart
  epochs() { echo --epochs "$1"; }
  echo "Short training, about 15 minutes on two cores; --full trains the demo recipe as it stands (about an hour)."
fi
deepspeed launch/pretrain.py --stage 1 --out $runs/stage1 $(epochs 16)
# Stage 2 in two steps: RGB is learned from words, where one sign is the whole target, and then taken to sentences. More
# sampled hands and a higher learning rate teach it in half the epochs.
deepspeed launch/pretrain.py --stage 2 --out $runs/stage2 --start-from $runs/stage1/last --p-samp 0.25 \
  --learning-rate 1e-3 $(epochs 6)
deepspeed launch/pretrain.py --stage 2 --stores data/demo/words data/demo/sentences --out $runs/stage2-sentences \
  --start-from $runs/stage2/last --learning-rate 1e-3 $(epochs 4 8)
deepspeed launch/finetune.py --task slt --p-samp 0 --out $runs/slt-pose --start-from $runs/stage1/last $(epochs 6)
deepspeed launch/finetune.py --task slt --out $runs/slt-rgb --start-from $runs/stage2-sentences/last $(epochs 3)
deepspeed launch/finetune.py --task cslr --out $runs/cslr-rgb --start-from $runs/stage2-sentences/last $(epochs 3)
deepspeed launch/finetune.py --task islr --out $runs/islr-rgb --start-from $runs/stage2-sentences/last $(epochs 5 12)
python launch/summary.py $runs --beside benchmarks/results/untrained.json benchmarks/results/full.json
