"""Pre-training, stages 1 (pose-only) and 2 (RGB-pose).

deepspeed launch/pretrain.py                     the demo recipe on the demo corpus, stage 1
deepspeed launch/pretrain.py --stage 2           ... stage 2, from stage 1's weights
deepspeed launch/pretrain.py --recipe base --stores STORE [STORE ...]      the paper's recipe
"""

from unisign_fast.training.cli import training_command

if __name__ == "__main__":
    training_command(__doc__, stages=(1, 2))
