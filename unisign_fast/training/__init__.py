"""Training runs: recipes, initial weights, the training loop, DeepSpeed, checkpoints, logs."""
