"""Normalisation layers that torch does not have, and batch norms folded into convolutions.

Shapes: * any, B batch, C channels, D width.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vidgraph.errors import RecipeError, nearest


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on the device of `x`, where that knows any: the meta device, on which models are
    profiled, does not.
    """
    kind = x.device.type
    return (
        torch.autocast(kind, enabled=False)
        if torch.amp.is_autocast_available(kind)
        else nullcontext()
    )


class JointLayerNorm(nn.Module):
    """Layer norm whose mean and variance run over several trailing axes jointly, with one gain and
    bias per channel.

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
            scaled = (
                (normal + self.bias) * self.weight
                if self.zero_scale
                else normal * self.weight + self.bias
            )
        return scaled.to(x.dtype)


class LastAxisBatchNorm(nn.BatchNorm1d):
    """Batch norm of the last axis, with statistics over all others: [..., D] to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def make_norm(kind: str, width: int, num_axes: int) -> nn.Module:
    """The norm of that kind: `layer` over the last `num_axes` axes, `batch` over all but the last,
    or nothing.
    """
    if kind == "layer":
        return JointLayerNorm(width, num_axes)
    return LastAxisBatchNorm(width, eps=1e-3, momentum=0.01) if kind == "batch" else nn.Identity()


NormKind = Literal["batch", "frozen", "frozen_statistics"]


class FrozenBatchNorm(nn.Module):
    """Batch norm that never leaves the statistics it was loaded with, whatever `.train()` says: an
    affine map per channel.

    Its tensors have the names of `nn.BatchNorm3d`, so that the weights of one fit the other.

    Args:
        width: channels (C).
        learn_affine: gain and bias go on learning; by default they are frozen too.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, learn_affine: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width), requires_grad=learn_affine)
        self.bias = nn.Parameter(torch.zeros(width), requires_grad=learn_affine)
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] to the same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def make_batch_norm(kind: NormKind, width: int) -> nn.Module:
    """The norm after a 3D convolution.

    Args:
        kind: "batch"; "frozen": statistics, gain and bias stay as they were loaded;
            "frozen_statistics": gain and bias learn.
        width: channels.

    Raises:
        RecipeError: another kind.
    """
    if kind == "batch":
        return nn.BatchNorm3d(width)
    if kind not in get_args(NormKind):
        raise RecipeError(f"there is no batch norm {kind!r}{nearest(kind, get_args(NormKind))}")
    return FrozenBatchNorm(width, learn_affine=kind == "frozen_statistics")


def partial_batch_norm(network: nn.Module, learn_affine: bool = True) -> nn.Module:
    """All batch norms of a network but the first keep the statistics that they come with, through
    every `.train()`.

    Temporal Segment Networks (ECCV 2016), section 3.2: the first one is learned anew, since flow is
    distributed otherwise than images. Names of tensors stay. For networks that start from trained
    weights: of random ones the statistics normalise nothing.

    Args:
        network: of images, in which norms stand in the order of its layers; it is changed in place.
        learn_affine: their gains and biases go on learning. False: these stay too, as in the
            authors' Caffe networks.

    Returns:
        The same network.
    """
    places = [
        (name, norm)
        for name, norm in network.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
    ]
    for name, norm in places[1:]:
        frozen = FrozenBatchNorm(norm.num_features, learn_affine, norm.eps).to(
            norm.weight.device, norm.weight.dtype
        )
        frozen.load_state_dict(norm.state_dict())
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, frozen)
    return network


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy for inference in which every batch norm has become part of the convolution before it.

    Found by name: a norm called `X_norm` or `X_bn`, or `norm`, belongs to its sibling `X`, or
    `conv`. The norms themselves become identities. The statistics are those of this moment, so that
    the copy is not to be trained.
    """
    folded = copy.deepcopy(model).eval()
    for parent in list(folded.modules()):
        for name, norm in list(parent.named_children()):
            before = name.rpartition("_")[0] if name.endswith(("_norm", "_bn")) else "conv"
            conv = getattr(parent, before, None)
            if not isinstance(
                norm, (FrozenBatchNorm, nn.BatchNorm2d, nn.BatchNorm3d)
            ) or not isinstance(conv, (nn.Conv2d, nn.Conv3d)):
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            setattr(parent, name, nn.Identity())
    return folded
