"""Training runs: recipes, first weights, the loop, DeepSpeed, checkpoints, what is logged."""
