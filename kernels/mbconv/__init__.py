"""Inverted bottleneck (MBConv): expand, depthwise convolution, squeeze and excitation, project, each normalized."""
