"""Dropout as a module around the operation in kernels/dropout, which dispatches to its backends."""

from torch import Tensor, nn

from unisign_fast.kernels.dropout.op import dropout


class Dropout(nn.Dropout):
    """torch.nn.Dropout, computed by kernels/dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x


def replace_dropout(model: nn.Module, kind: type[nn.Dropout]) -> None:
    """Replace every torch.nn.Dropout in `model` by a `kind` with the same probability."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, kind(child.p))
