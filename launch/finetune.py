"""Fine-tuning, stage 3: sentences (slt), glosses (cslr) or words (islr), then scores on the test split.

deepspeed launch/finetune.py --task slt                 RGB-pose, from stage 2's weights
deepspeed launch/finetune.py --task slt --p-samp 0      pose-only, from stage 1's weights
deepspeed launch/finetune.py --recipe base --task islr --stores STORE [STORE ...] --max-frames 64
"""

from unisign_fast.training.cli import training_command

if __name__ == "__main__":
    training_command(__doc__, stages=(3,))
