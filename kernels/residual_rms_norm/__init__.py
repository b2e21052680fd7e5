"""A residual sum and the RMS norm behind it."""
