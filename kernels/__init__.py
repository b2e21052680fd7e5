"""The operations worth a fused kernel, each a folder with its PyTorch reference. Imports nothing of the project."""
