"""Image networks of torchvision as backbones.

Shapes: N images, C channels, H W pixels or map.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vidgraph.errors import RecipeError, nearest

# Parts of torchvision's classifiers, which begin with the first of these; and side exits of its
# inception networks.
_HEAD = {"avgpool", "classifier", "fc", "head", "heads"}
_PROBE = 224  # pixels, to find the size of the map


class TorchvisionBackbone(nn.Module):
    """A network of torchvision without its classifier, under its own names of tensors.

    For networks that are a chain of parts up to their pool: ResNet, ResNeXt, VGG, MobileNet,
    EfficientNet, ConvNeXt, RegNet, ShuffleNet, GoogLeNet (with `aux_logits=False`) and others.
    DenseNet ends before its last ReLU.

    Args:
        name: as torchvision has it, such as "resnet50".
        in_channels: of the images: 3, or 2 L of a snippet of flow, for which the first convolution
            is made anew.
        last_pool: False: without the max-pool that ends VGG; conv5_3, 14 x 14 cells of 224 x 224
            pixels.
        **options: of torchvision's builder.

    Attributes:
        out_channels: channels of the map.
        stride: pixels per cell of the map.

    Raises:
        RecipeError: torchvision has no such network, or it is no chain that ends in a map.
    """

    def __init__(
        self, name: str, in_channels: int = 3, last_pool: bool = True, **options: Any
    ) -> None:
        super().__init__()
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise RecipeError(
                f"torchvision has no network of images {name!r}{nearest(name, known)}"
            )
        for part, module in torchvision.models.get_model(
            name, weights=None, **options
        ).named_children():
            if part in _HEAD:
                break
            self.add_module(part, module)
        if not last_pool:
            _drop_last_pool(self, name)
        self.name, self.in_channels = name, in_channels
        if in_channels != 3:
            _replace_first_convolution(self, in_channels)
        self.out_channels, self.stride = _probe(self, name, in_channels)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        x = images
        for part in self.children():
            x = part(x)
        return x


def _drop_last_pool(network: nn.Module, name: str) -> None:
    features = getattr(network, "features", None)
    if not isinstance(features, nn.Sequential) or not isinstance(features[-1], nn.MaxPool2d):
        raise RecipeError(
            f"{name} does not end in a max-pool that could be left out; leave last_pool at True, "
            "or take a VGG"
        )
    network.features = features[:-1]


def _replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    """A new one for images of other channels, which starts as torch's layers do."""
    place, conv = next(
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    parent, _, child = place.rpartition(".")
    sizes = (
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
    )
    setattr(network.get_submodule(parent), child, nn.Conv2d(in_channels, *sizes, conv.padding_mode))  # type: ignore[arg-type]


def _probe(network: nn.Module, name: str, in_channels: int) -> tuple[int, int]:
    """Channels of the map and pixels per cell, from a pass that computes shapes only."""
    shapes = {
        key: torch.empty_like(value, device="meta") for key, value in network.state_dict().items()
    }
    try:
        found = torch.func.functional_call(
            network, shapes, torch.empty(1, in_channels, _PROBE, _PROBE, device="meta")
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{name} is no chain of parts that ends in a map; take a ResNet, a VGG or another "
            "network of convolutions"
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 4:
        raise RecipeError(
            f"{name} does not end in a map [N, C, H, W]; take a ResNet, a VGG or another network "
            "of convolutions"
        )
    return found.shape[1], _PROBE // found.shape[3]
