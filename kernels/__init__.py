"""The operations worth a fused kernel, each a folder with its PyTorch reference. Knows torch and nothing else of the project."""
