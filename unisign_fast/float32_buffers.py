"""Buffers that must not lose precision when a model is cast to bfloat16."""

from torch import nn


class Float32Buffers(nn.Module):
    """A module whose own buffers move between devices with the model but keep their dtype and values."""

    def _apply(self, fn, recurse=True):
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            if kept[name].dtype != moved.dtype:
                self._buffers[name] = kept[name].to(moved.device)
        return self
