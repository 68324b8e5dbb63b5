"""From a name and overrides to options, and from options to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from vidgraph.backbones.base import Backbone, blank_clip, shown
from vidgraph.backbones.digits import DigitsBackbone, DigitsOptions
from vidgraph.backbones.image import (
    BNInceptionOptions,
    SmallResNet2DOptions,
    TimmNetwork,
    TimmOptions,
    image_backbone,
    timm_config,
)
from vidgraph.backbones.resnet3d import ResNet3D, ResNet3DOptions, channels_after
from vidgraph.backbones.video import HFOptions, VideoTransformer, video_clip, video_statistics
from vidgraph.errors import RecipeError, nearest
from vidgraph.models.base import AveragedHead, ClipModel, Head, HeadInput, VideoModel
from vidgraph.models.baselines import EvidenceOptions
from vidgraph.models.nonlocal_block import NonLocalBlock, NonLocalOptions
from vidgraph.models.normalize import Normalize, NormalizeOptions
from vidgraph.models.published import (
    NAMED,
    BackboneOptions,
    HeadOptions,
    InsertedOptions,
    ModelOptions,
    NetworkOptions,
    PyramidOptions,
    ScoredStreamOptions,
    StreamOptions,
    TwoStreamOptions,
)
from vidgraph.models.pyramid import STPyramid
from vidgraph.models.rstg_heads import GraphResidual
from vidgraph.models.strg import STRGOptions
from vidgraph.models.two_stream import Stream, TwoStream
from vidgraph.records import InputSpec, validated


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return list(NAMED)


def create_model(
    name: str,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    pretrained: bool = True,
    **overrides: Any,
) -> VideoModel:
    """Builds a model with fresh weights but for those that its backbone is said to start from.

    Args:
        name: one of `list_models()`: a published model, or a head for any backbone.
        num_classes: classes of the last layer; None: as many as `class_names`, or as the data set
            has that the model was published for.
        class_names: one name per class, kept with the model.
        multi_label: a clip may have several labels.
        pretrained: False leaves the weights of the backbone random, whatever its options say.
        **overrides: parts of the options that differ, such as `head={"num_stages": 2}`: mappings,
            or whole records of options. Where the `type` differs, the part is replaced.

    Raises:
        RecipeError: an unknown name or option, options that do not fit together, or names that do
            not match the number of classes.
        WeightsError: a file of weights of the backbone does not fit it.
    """
    options = resolve_options(name, overrides, name)
    classes = NAMED[name][1] if num_classes is None else num_classes
    if class_names is not None:
        if num_classes not in (None, len(class_names)):
            raise RecipeError(f"{len(class_names)} class names were given for {classes} classes")
        classes = len(class_names)
    if classes is None or classes < 1:
        raise RecipeError(f"{name} needs at least one class; give num_classes or class_names")
    model = build_model(options, classes, multi_label)
    for part in model.modules():
        if pretrained and isinstance(part, TimmNetwork | VideoTransformer):
            part.load_weights()
    model.name = name
    model.class_names = None if class_names is None else list(class_names)
    return model


def resolve_options(
    name: str, overrides: Mapping[str, Any], where: str, prefix: str = ""
) -> NetworkOptions:
    """The complete options of a named model with some of them changed; see `create_model`.

    `where` is what is read and `prefix` that of its keys, such as "model.", for messages.
    """
    if name not in NAMED:
        raise RecipeError(f"{where}: there is no model {name!r}{nearest(name, NAMED)}")
    named = NAMED[name][0]
    options: NetworkOptions = validated(
        type(named), merged(asdict(named), overrides), where, prefix
    )
    match options:
        case ModelOptions(backbone=TimmOptions() as how, input=InputSpec(channels=3)):
            config = timm_config(how.name)
            if how.weights == "pretrained":
                options = replace(options, backbone=replace(how, license=config.license))
            if "normalize" not in overrides:  # the pixels that the network's own weights take
                pixels = NormalizeOptions(tuple(config.mean), tuple(config.std))
                options = replace(options, normalize=pixels)
        case ModelOptions(backbone=HFOptions() as video):
            given = merged({}, {"input": overrides.get("input", {})})["input"]
            own: dict[str, Any] = {k: v for k, v in video_clip(video).items() if k not in given}
            options = replace(options, input=replace(options.input, **own))
            if "normalize" not in overrides:
                pixels = NormalizeOptions(*video_statistics(video))
                options = replace(options, normalize=pixels)
    return options


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `top` over it at every depth; a part of another `type` is replaced whole."""
    result = dict(base)
    for key, value in top.items():
        value = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        here = result.get(key)
        if isinstance(value, Mapping) and isinstance(here, Mapping):
            same = value.get("type", here.get("type")) == here.get("type")
            value = merged(here, value) if same else value
        result[key] = value
    return result


def build_model(options: NetworkOptions, num_classes: int, multi_label: bool = False) -> VideoModel:
    """A model with fresh weights, from complete options.

    Raises:
        RecipeError: options that do not fit together.
    """
    model: VideoModel
    match options:
        case ModelOptions():
            model = _clip_model(options, num_classes, multi_label)
        case TwoStreamOptions():
            model = _two_stream(options, num_classes, multi_label)
        case PyramidOptions():
            model = _pyramid(options, num_classes)
        case _:
            assert_never(options)
    model.options, model.multi_label = options, multi_label
    return model


def _clip_model(options: ModelOptions, num_classes: int, multi_label: bool) -> ClipModel:
    spec, how = options.input, options.backbone
    if isinstance(options.head, STRGOptions):
        if options.head.graph == "none":
            spec = replace(spec, boxes_per_frame=0)
        elif not spec.boxes_per_frame:
            raise RecipeError("a graph over regions needs input.boxes_per_frame of at least 1")
    if isinstance(options.head, EvidenceOptions):
        if not isinstance(how, DigitsOptions):
            raise RecipeError("the head evidence needs the backbone digits")
        how = replace(how, num_evidence=num_classes)
    clip = blank_clip(spec)
    backbone = _backbone(how, options.inserted, clip)
    heads = [
        _head(options.head, backbone, clip, num_classes, multi_label) for _ in range(options.copies)
    ]
    head = heads[0] if len(heads) == 1 else AveragedHead(heads)
    return ClipModel(spec, Normalize(options.normalize), backbone, head)


def _two_stream(options: TwoStreamOptions, num_classes: int, multi_label: bool) -> TwoStream:
    takes = options.frames is not None, options.flow is not None
    if not any(takes):
        raise RecipeError("a model of two streams needs frames, flow, or both")
    spec, frames, flow = _streams(options, *takes, num_classes, multi_label)
    return TwoStream(spec, num_classes, frames, flow, options.flow_weight)


def _pyramid(options: PyramidOptions, num_classes: int) -> STPyramid:
    fusion = options.fusion
    spec, frames, flow = _streams(options, fusion.takes_frames, fusion.takes_flow, num_classes)
    return STPyramid(spec, num_classes, frames, flow, fusion)


def _streams(
    options: TwoStreamOptions | PyramidOptions,
    takes_frames: bool,
    takes_flow: bool,
    num_classes: int,
    multi_label: bool = False,
) -> tuple[InputSpec, Stream | None, Stream | None]:
    """The clips of a model that takes frames, flow, or both, and the streams for them."""
    spec = options.input
    if takes_flow and not spec.flow_length:
        raise RecipeError("a stream of flow needs input.flow_length of at least 1")
    channels, length = spec.channels if takes_frames else 0, spec.flow_length if takes_flow else 0
    spec = replace(spec, channels=channels, flow_length=length)
    size = (spec.num_frames * spec.num_stacks, spec.height, spec.width)
    stacks = torch.zeros(1, 2 * length, *size)  # frames of 2 L channels

    def stream(how: StreamOptions | None, clip: Tensor) -> Stream | None:
        if how is None or not clip.shape[1]:
            return None
        normalize, backbone = Normalize(how.normalize), _backbone(how.backbone, None, clip)
        if isinstance(how, ScoredStreamOptions):
            head = _head(how.head, backbone, clip, num_classes, multi_label)
            return Stream(normalize, backbone, head)
        if backbone.stride[0] != 1:
            kind = how.backbone.type
            raise RecipeError(f"a pyramid needs a map of every frame; no {kind} has it")
        return Stream(normalize, backbone)

    return spec, stream(options.frames, blank_clip(spec)), stream(options.flow, stacks)


def _backbone(how: BackboneOptions, inserted: InsertedOptions | None, clip: Tensor) -> Backbone:
    """The backbone for such clips, with the layers that are inserted in it."""
    channels, frames, *size = clip.shape[1:]
    backbone: Backbone
    match how:
        case ResNet3DOptions():
            backbone = _resnet3d(how, inserted, clip)
        case DigitsOptions(resnet3d=ResNet3DOptions()):
            maps = shown(DigitsBackbone(how.num_evidence, channels), clip)
            assert how.resnet3d is not None
            resnet3d = _resnet3d(how.resnet3d, inserted, maps)
            backbone = DigitsBackbone(how.num_evidence, channels, resnet3d=resnet3d)
        case _ if inserted is not None:
            raise RecipeError(f"layers can be inserted in a resnet3d, not in a {how.type}")
        case TimmOptions() | BNInceptionOptions() | SmallResNet2DOptions():
            backbone = image_backbone(how, channels, (size[0], size[1]))
        case _:
            backbone = how.build(channels, (size[0], size[1]))
    if frames < backbone.stride[0] or min(size) < backbone.stride[1]:
        raise RecipeError(
            f"clips of {frames} frames of {size[0]} x {size[1]} leave no map; the backbone needs "
            f"num_frames >= {backbone.stride[0]} and sides >= {backbone.stride[1]}"
        )
    return backbone


def _resnet3d(how: ResNet3DOptions, inserted: InsertedOptions | None, clip: Tensor) -> ResNet3D:
    """With the layers that follow its blocks."""
    layers: dict[str, nn.Module] = {}
    if isinstance(inserted, NonLocalOptions):
        for block in inserted.blocks:
            layers[block] = NonLocalBlock(channels_after(how, block), how.norm, inserted.pool)
    elif inserted is not None:
        with torch.device("meta"), torch.no_grad():
            plain = ResNet3D(how, in_channels=clip.shape[1])
            maps = plain.forward_intermediates(clip.to("meta"), plain.layers)
        for block in inserted.blocks:
            channels = channels_after(how, block)
            size = maps[block.partition("_")[0]].shape[3:]
            layers[block] = GraphResidual(channels, (size[0], size[1]), inserted.graph)
    return ResNet3D(how, layers, in_channels=clip.shape[1])


def _head(
    how: HeadOptions, backbone: Backbone, clip: Tensor, num_classes: int, multi_label: bool
) -> Head:
    """The head for a backbone's maps of such clips."""
    whole = isinstance(backbone, VideoTransformer)  # others show the size on the fewest frames
    size = shown(backbone, clip if whole else clip[:, :, : backbone.stride[0]]).shape[3:]
    return how.build(HeadInput(backbone, (size[0], size[1]), num_classes, multi_label))
