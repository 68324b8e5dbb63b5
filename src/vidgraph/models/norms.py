"""Norms over channels-last tensors that torch does not have.

Shapes: ... any leading axes, D width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on the device of `x`, where that knows any: the meta device does not."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()


class JointLayerNorm(nn.Module):
    """Layer norm over several trailing axes jointly, with a gain and bias per channel.

    `torch.nn.LayerNorm(D)` normalises each vector by itself; TensorFlow's contrib layer norm, which
    RSTG uses, normalises all axes of a sample together and scales the last one.

    Args:
        width: size of the last axis (D).
        num_axes: how many trailing axes share one mean and variance.
        eps: added to the variance.
        zero_scale: the gain starts at zero and acts after the bias too, so that the output is
            exactly zero at initialisation: the form in which RSTG's output joins its backbone.
    """

    def __init__(
        self, width: int, num_axes: int, eps: float = 1e-12, zero_scale: bool = False
    ) -> None:
        super().__init__()
        self.num_axes, self.eps, self.zero_scale = num_axes, eps, zero_scale
        self.weight = nn.Parameter(torch.zeros(width) if zero_scale else torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to the same shape; fp32 inside, since 1e-12 vanishes in bf16."""
        axes = tuple(range(-self.num_axes, 0))
        with full_precision(x):
            wide = x.float()
            variance, mean = torch.var_mean(wide, dim=axes, correction=0, keepdim=True)
            normal = (wide - mean) * torch.rsqrt(variance + self.eps)
            if self.zero_scale:
                return ((normal + self.bias) * self.weight).to(x.dtype)
            return (normal * self.weight + self.bias).to(x.dtype)


class LastAxisBatchNorm(nn.BatchNorm1d):
    """Batch norm of the last axis, with statistics over all others: [..., D] to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def make_norm(kind: str, width: int, num_axes: int) -> nn.Module:
    """`layer` over the last `num_axes` axes, `batch` over all but the last, or nothing."""
    if kind == "layer":
        return JointLayerNorm(width, num_axes)
    return LastAxisBatchNorm(width, eps=1e-3, momentum=0.01) if kind == "batch" else nn.Identity()
