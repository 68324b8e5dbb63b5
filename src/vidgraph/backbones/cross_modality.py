"""Weights of image networks for backbones of images and of optical flow: cross-modality
initialisation.

Source: Temporal Segment Networks (ECCV 2016), section 3.2: a network of flow starts from ImageNet's
    weights; its first convolution is the
mean over RGB, once per channel of flow.

Shapes: O outputs and I inputs of a layer, H W pixels of a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from vidgraph.errors import WeightsError

# What wrappers put before the names: data parallelism, and temporal segment networks in PyTorch.
_WRAPPERS = re.compile(r"^(?:module\.|base_model\.)+")
# Last layers of published image networks, and side exits of torchvision's inception networks.
_HEAD = re.compile(r"(?:last_linear|fc|new_fc|classifier|heads?|aux\d|AuxLogits)\..*|fc_action\..*")
_COUNTER = "num_batches_tracked"


def mean_over_rgb(kernel: Tensor, channels: int) -> Tensor:
    """[O, 3, H, W] to [O, channels, H, W]: the mean over the inputs, for every channel, without
    another scale.
    """
    return kernel.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1)


def bare_name(foreign: str) -> str:
    """The name of a tensor without what wrappers put before it."""
    return _WRAPPERS.sub("", foreign)


def is_head(foreign: str) -> bool:
    """True for the tensors of an image network's classifier."""
    return _HEAD.fullmatch(bare_name(foreign)) is not None


def image_weights(
    images: Mapping[str, Tensor], backbone: nn.Module, cross_modality: bool = False
) -> dict[str, Tensor]:
    """The weights of an image network as a state dict of a 2D backbone with the same names.

    Args:
        images: state dict of the image network: of torchvision, or the published BN-Inception,
            whose first version has norms of [1, C]. Its classifier is left out.
        backbone: says which tensors are wanted, and is not changed.
        cross_modality: where the backbone's first convolution takes another number of channels than
            the 3 of images, such as 20 of flow, it becomes the mean over these.

    Raises:
        WeightsError: a tensor that has no place, does not fit, or is missing.
    """
    wanted = backbone.state_dict()
    first = next(
        name for name, value in wanted.items() if value.dim() == 4
    )  # the first layer of every backbone is a convolution
    state = {name: value for name, value in wanted.items() if name.endswith(_COUNTER)}
    for foreign, value in images.items():
        name = bare_name(foreign)
        if is_head(foreign) or (name.endswith(_COUNTER) and name not in wanted):
            continue
        if name not in wanted:
            raise WeightsError(
                f"tensor {foreign!r} has no place in this backbone; give weights of the same "
                "network"
            )
        state[name] = _fitting(
            foreign,
            _without_first_axis(value, wanted[name]),
            wanted[name],
            name == first,
            cross_modality,
        )
    missing = [name for name in wanted if name not in state]
    if missing:
        raise WeightsError(
            f"no tensor of the image network fills {missing[0]!r} ({len(missing)} in all); give "
            "weights of the same network"
        )
    return {name: state[name] for name in wanted}


def _without_first_axis(value: Tensor, wanted: Tensor) -> Tensor:
    return value[0] if value.dim() == 2 and value.shape[0] == 1 and wanted.dim() == 1 else value


def _fitting(
    foreign: str, value: Tensor, wanted: Tensor, first: bool, cross_modality: bool
) -> Tensor:
    if value.shape == wanted.shape:
        return value.detach().to(wanted.dtype)
    shapes = f"{list(value.shape)} where the backbone has {list(wanted.shape)}"
    if not first or (value.shape[:1], value.shape[1:2], value.shape[2:]) != (
        wanted.shape[:1],
        (3,),
        wanted.shape[2:],
    ):
        raise WeightsError(f"tensor {foreign!r}: {shapes}; give weights of the same network")
    if not cross_modality:
        raise WeightsError(
            f"tensor {foreign!r}: {value.shape[1]} channels of images where the backbone takes "
            f"{wanted.shape[1]}; "
            "start it by cross-modality initialisation: vidgraph convert does that"
        )
    return mean_over_rgb(value.detach().to(wanted.dtype), wanted.shape[1])
