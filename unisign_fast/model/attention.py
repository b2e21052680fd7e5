"""The backends that PyTorch's attention may choose from: all but cuDNN's.

On Hopper and Blackwell, PyTorch prefers cuDNN's for bfloat16. It builds an execution plan for every new shape, which
took 0.4 s forward and 0.5 s backward on a B200 with torch 2.11 (github.com/modelscope/FunASR/issues/3704). The number
of crops changes with every micro-batch, and the number of keys with every generated token.
"""

from torch.nn.attention import SDPBackend

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
