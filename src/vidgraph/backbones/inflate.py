"""Image ResNets to clip ResNets: every kernel is repeated over time and divided by the number of
repeats.

On a clip that does not change, an inflated convolution then computes what the image's convolution
computes, except near the first and the last frames, where it also sees padding.

Shapes: O outputs and I inputs of a layer, T frames and H W pixels of a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vidgraph.errors import WeightsError

_BLOCK = re.compile(
    r"layer(?P<layer>[1-4])\.(?P<index>\d+)\.(?P<part>conv[123]|bn[123]|downsample\.[01])\.(?P<te"
    r"nsor>\w+)"
)
_STEM = {"conv1": "stem.conv", "bn1": "stem.norm"}
_PARTS = {
    "conv1": "a",
    "bn1": "a_norm",
    "conv2": "b",
    "bn2": "b_norm",
    "conv3": "c",
    "bn3": "c_norm",
}
_PARTS |= {"downsample.0": "shortcut", "downsample.1": "shortcut_norm"}


def inflate_resnet(images: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of torchvision's ResNet-50 or -101 as a state dict of a `ResNet3D` of the same
    depth.

    The source has its stride on the 3 x 3 convolutions, as torchvision's have and the original
    Caffe ones have not. Its classifier is left out; layers that follow a block of ours keep what
    they have.

    Args:
        images: state dict of the image network.
        backbone: the `ResNet3D`; it says how long each kernel is, and is not changed.

    Raises:
        WeightsError: a tensor that has no place, does not fit, or is missing: another depth or
            width.
    """
    wanted = backbone.state_dict()
    state = {name: value for name, value in wanted.items() if name.startswith("after.")}
    for foreign, value in images.items():
        if foreign.startswith("fc."):
            continue
        name = our_name(foreign)
        if name not in wanted:
            raise WeightsError(
                f"tensor {foreign!r} has no place in this backbone; give a ResNet of its depth"
            )
        state[name] = inflate(value, wanted[name].shape) if value.ndim == 4 else value
        if state[name].shape != wanted[name].shape:
            raise WeightsError(
                f"tensor {foreign!r}: {list(value.shape)} where {name!r} is "
                f"{list(wanted[name].shape)}; give a ResNet of its width"
            )
    missing = [name for name in wanted if name not in state]
    if missing:
        raise WeightsError(
            f"no tensor of the image network fills {missing[0]!r} ({len(missing)} in all); give a "
            "ResNet of its depth"
        )
    return {name: state[name] for name in wanted}


def our_name(foreign: str) -> str:
    """Our name of one of torchvision's tensors: `layer1.0.conv2.weight` is `res2.0.b.weight`."""
    module, _, tensor = foreign.rpartition(".")
    if module in _STEM:
        return f"{_STEM[module]}.{tensor}"
    match = _BLOCK.fullmatch(foreign)
    if match is None:
        raise WeightsError(
            f"tensor {foreign!r} is none that a torchvision ResNet with bottlenecks has; give "
            "resnet50 or resnet101"
        )
    return (
        f"res{int(match['layer']) + 1}.{match['index']}.{_PARTS[match['part']]}.{match['tensor']}"
    )


def inflate(kernel: Tensor, shape: torch.Size) -> Tensor:
    """[O, I, H, W] to [O, I, T, H, W] with the T of `shape`: each of the T slices is a T-th of the
    kernel.
    """
    frames = shape[2]
    return (kernel[:, :, None] / frames).repeat(1, 1, frames, 1, 1)
