"""Cross entropy of a large vocabulary, without its logits."""
