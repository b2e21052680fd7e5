"""One clip: which frames of it, normalised how, and which of its hands are sampled."""
