"""The authors' checkpoints, to this model and back."""
