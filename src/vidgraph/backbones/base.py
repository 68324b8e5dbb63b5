"""What a backbone is, and the batch norms that all of them choose from.

Shapes: B batch, C D channels, T frames, H W pixels or map.
"""

from __future__ import annotations

from itertools import chain
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.records import InputSpec
from vidgraph.util import SMALL_MODEL

NormKind = Literal["batch", "frozen", "frozen_statistics"]


class Backbone(Protocol):
    """A module from a normalised clip [B, C, T, H, W] to a feature map [B, D, T', H', W'].

    Attributes:
        out_channels: channels of the map (D).
        stride: frames, rows and columns of the clip per cell of the map.
    """

    out_channels: int
    stride: tuple[int, int, int]

    def __call__(self, clip: Tensor) -> Tensor: ...


def blank_clip(spec: InputSpec) -> Tensor:
    """A black clip, [1, C, T, H, W]."""
    return torch.zeros(1, spec.channels, spec.num_frames, spec.height, spec.width)


def shown(network: object, clip: Tensor) -> Tensor:
    """The map that a new network makes of a clip, to see its size.

    A large network passes on the meta device, which has shapes only. For that, torch imports its
    compiler, which takes longer than a real pass of a small network.
    """
    assert isinstance(network, nn.Module)
    own = dict(chain(network.named_parameters(), network.named_buffers()))
    if sum(tensor.numel() for tensor in own.values()) > SMALL_MODEL:
        own = {name: torch.empty_like(tensor, device="meta") for name, tensor in own.items()}
    clip = clip.to(next(iter(own.values())).device)
    with torch.no_grad():
        found: Tensor = torch.func.functional_call(network.eval(), own, (clip,))
    network.train()
    return found


def frame_by_frame(network: nn.Module, clip: Tensor) -> Tensor:
    """A network of images on every frame: [B, C, T, H, W] to [B, C', T, H', W']."""
    maps: Tensor = network(clip.transpose(1, 2).flatten(0, 1))  # [B * T, C', H', W']
    return maps.unflatten(0, (len(clip), -1)).transpose(1, 2)


class FrozenBatchNorm(nn.Module):
    """Batch norm that keeps the statistics it was loaded with, whatever `.train()` says.

    Its tensors have the names of `nn.BatchNorm3d`, so that the weights of one fit the other.

    Args:
        width: channels (C).
        learn_affine: gain and bias go on learning; by default they are frozen too.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

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
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


def make_batch_norm(kind: NormKind, width: int) -> nn.Module:
    """The norm after a 3D convolution: "batch"; "frozen", whose statistics, gain and bias stay as
    they were loaded; or "frozen_statistics", whose gain and bias learn."""
    if kind == "batch":
        return nn.BatchNorm3d(width)
    return FrozenBatchNorm(width, learn_affine=kind == "frozen_statistics")


def partial_batch_norm(network: nn.Module, learn_affine: bool = True) -> nn.Module:
    """All batch norms of a network but the first keep their statistics through every `.train()`.

    Temporal Segment Networks (ECCV 2016), section 3.2: the first one is learned anew, since flow is
    distributed otherwise than images. Names of tensors stay. For networks that start from trained
    weights: of random ones the statistics normalise nothing.

    Args:
        network: of images, with norms in the order of its layers; changed in place and returned.
        learn_affine: their gains and biases go on learning. False: these stay too, as in the
            authors' Caffe networks.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    norms = [(name, norm) for name, norm in network.named_modules() if isinstance(norm, batch_norm)]
    for name, norm in norms[1:]:
        frozen = FrozenBatchNorm(norm.num_features, learn_affine, norm.eps)
        frozen.to(norm.weight.device, norm.weight.dtype).load_state_dict(norm.state_dict())
        network.set_submodule(name, frozen)
    return network
