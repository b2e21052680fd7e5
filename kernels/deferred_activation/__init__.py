"""BatchNorm, residual and ReLU around a convolution: moments of what it writes, activation of what it loads."""
