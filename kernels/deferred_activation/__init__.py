"""BatchNorm, residual and ReLU around a convolution: batch statistics of its output, activation of its input."""
