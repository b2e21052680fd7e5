"""Attention of packed sequences with a bias of their logits."""
