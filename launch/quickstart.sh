#!/usr/bin/env bash
# From nothing to a table of scores: installs, writes the demo corpus, trains all stages and tasks, evaluates.
#   bash launch/quickstart.sh    about 14 minutes on two cores after the installation
# A second call reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || { sed -n 's/^#   //p' launch/quickstart.sh; exit 2; }
bash launch/install.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 # a model this small gains nothing from a second thread; a second run at the same time does
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
runs=runs/quickstart

# train PORT NAME SCRIPT ARGUMENTS: one run, without the launcher's own lines; its name stands before each of its lines.
# Augmentation keeps so small a corpus from being memorised: a clip recognised by the noise of its keypoints would leave
# RGB nothing to learn.
train() {
  local port=$1 name=$2 script=$3
  shift 3
  deepspeed --quiet --master_port "$port" "launch/$script.py" --out "$runs/$name" "$@" \
    --augment time_warp=0.3 rotation=12 scale=0.15 noise=0.02 joint_dropout=0.1 2>&1 | sed -u "s/^/$name: /"
}

train 29501 stage1 pretrain --stage 1 --epochs 10 --dropout-rate 0 # augmentation suffices
train 29502 slt-pose finetune --task slt --p-samp 0 --start-from $runs/stage1/last --epochs 10 &
# RGB is learned from words, where one sign is the whole target and many hands are seen, and then taken to sentences.
train 29501 stage2 pretrain --stage 2 --start-from $runs/stage1/last --p-samp 0.5 --learning-rate 1e-3 --epochs 4
wait $!
train 29501 stage2-sentences pretrain --stage 2 --stores data/demo/words data/demo/sentences \
  --start-from $runs/stage2/last --learning-rate 1e-3 --epochs 3
{
  train 29502 slt-rgb finetune --task slt --start-from $runs/stage2-sentences/last --epochs 5
  train 29502 islr-rgb-seed0 finetune --task islr --start-from $runs/stage2-sentences/last --epochs 3
} &
train 29501 cslr-rgb finetune --task cslr --start-from $runs/stage2-sentences/last --epochs 3
for seed in 1 2; do
  train 29501 islr-rgb-seed$seed finetune --task islr --start-from $runs/stage2-sentences/last --epochs 3 --seed $seed
done
wait $!
python launch/summary.py $runs --beside benchmarks/results/untrained.json
