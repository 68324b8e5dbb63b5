"""From a name and overrides to options, and from options to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from vidgraph.backbones.base import Backbone, clip_of_shapes, of_shapes
from vidgraph.backbones.digits import DigitsBackbone, DigitsOptions, SimpleC2D, SimpleC2DOptions
from vidgraph.backbones.resnet3d import LAYERS, ResNet3D, ResNet3DOptions, channels_after
from vidgraph.errors import RecipeError, nearest
from vidgraph.models import build_snippets
from vidgraph.models.base import ClipModel, Head, VideoModel
from vidgraph.models.baselines import (
    ConvLSTMHead,
    ConvLSTMOptions,
    EvidenceHead,
    EvidenceOptions,
    MeanLSTMHead,
    MeanLSTMOptions,
    PooledHead,
    PooledOptions,
)
from vidgraph.models.nonlocal_block import NonLocalBlock, NonLocalOptions
from vidgraph.models.normalize import Normalize
from vidgraph.models.published import NAMED, HeadOptions, ModelOptions
from vidgraph.models.rstg import RSTGOptions
from vidgraph.models.rstg_heads import (
    GraphResidual,
    GraphVectorResidual,
    InsertedRSTGOptions,
    RSTGHead,
)
from vidgraph.models.strg import STRGHead, STRGOptions
from vidgraph.records import validated

NetworkOptions = ModelOptions  # of any model; a union, where there are several kinds

_FLAT = {
    function.__name__: function
    for function in (
        *(build_snippets.stpyramid_bn_inception, build_snippets.stpyramid_r50),
        *(build_snippets.stpyramid_vgg16, build_snippets.stpyramid_small),
        *(build_snippets.two_stream_bn_inception, build_snippets.two_stream_vgg16),
        *(build_snippets.two_stream_small, build_snippets.lrcn_bn_inception),
        build_snippets.lrcn_small,
    )
}


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return [*NAMED, *_FLAT]


def create_model(
    name: str,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    **overrides: Any,
) -> VideoModel:
    """Builds a model with fresh weights.

    Args:
        name: one of `list_models()`: a published model, or a head for any backbone.
        num_classes: classes of the last layer; None: as many as `class_names`, or as the data set
            has that the model was published for.
        class_names: one name per class, kept with the model.
        multi_label: a clip may have several labels.
        **overrides: parts of the options that differ, such as `head={"num_stages": 2}`: mappings,
            or whole records of options. Where the `type` differs, the part is replaced.

    Raises:
        RecipeError: an unknown name or option, options that do not fit together, or names that do
            not match the number of classes.
    """
    if name in _FLAT:
        count = len(class_names) if class_names is not None else num_classes or 101
        flat = _FLAT[name](count, **overrides)
        flat.name, flat.options, flat.multi_label = name, dict(overrides), multi_label
        flat.class_names = None if class_names is None else list(class_names)
        return flat
    options = resolve_options(name, overrides, name)
    if class_names is not None and num_classes not in (None, len(class_names)):
        raise RecipeError(f"{len(class_names)} class names were given for {num_classes} classes")
    classes = num_classes if class_names is None else len(class_names)
    if classes is None:
        classes = NAMED[name][1]
    if classes is None or classes < 1:
        raise RecipeError(f"{name} needs at least one class; give num_classes or class_names")
    model = build_model(options, classes, multi_label)
    model.name = name
    model.class_names = None if class_names is None else list(class_names)
    return model


def resolve_options(
    name: str, overrides: Mapping[str, Any], where: str, prefix: str = ""
) -> ModelOptions:
    """The complete options of a named model with some of them changed.

    Args:
        name: one of `list_models()`.
        overrides: see `create_model`.
        where: what is read, for messages.
        prefix: of its keys, such as "model.", for messages.

    Raises:
        RecipeError: an unknown name or option.
    """
    if name not in NAMED:
        raise RecipeError(f"{where}: there is no model {name!r}{nearest(name, NAMED)}")
    named = NAMED[name][0]()
    return validated(type(named), merged(asdict(named), overrides), where, prefix)


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` over it, key by key at every depth; a part of another `type`
    is replaced whole.
    """
    result = dict(base)
    for key, value in top.items():
        value = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        here = result.get(key)
        if isinstance(value, Mapping) and isinstance(here, Mapping):
            same = value.get("type", here.get("type")) == here.get("type")
            value = merged(here, value) if same else value
        result[key] = value
    return result


def build_model(options: ModelOptions, num_classes: int, multi_label: bool = False) -> VideoModel:
    """A model with fresh weights, from complete options.

    Raises:
        RecipeError: options that do not fit together.
    """
    spec = options.input
    if isinstance(options.head, STRGOptions):
        if options.head.graph == "none":
            spec = replace(spec, boxes_per_frame=0)
        elif not spec.boxes_per_frame:
            raise RecipeError("a graph over regions needs input.boxes_per_frame of at least 1")
    if isinstance(options.head, EvidenceOptions):
        if not isinstance(options.backbone, DigitsOptions):
            raise RecipeError("the head evidence needs the backbone digits")
        options = replace(options, backbone=replace(options.backbone, num_evidence=num_classes))
    clip = clip_of_shapes(spec)
    backbone = _backbone(options, clip)
    if spec.num_frames < backbone.stride[0] or min(spec.height, spec.width) < backbone.stride[1]:
        raise RecipeError(
            f"clips of {spec.num_frames} frames of {spec.height} x {spec.width} leave no map; the "
            f"backbone needs num_frames >= {backbone.stride[0]} and sides >= {backbone.stride[1]}"
        )
    map_size = of_shapes(backbone, clip).shape[3:]
    head = _head(options.head, backbone, (map_size[0], map_size[1]), num_classes, multi_label)
    model = ClipModel(spec, Normalize(options.normalize), backbone, head)
    model.options, model.multi_label = options, multi_label
    return model


def _backbone(options: ModelOptions, clip: Tensor) -> Backbone:
    """The backbone for clips of such shapes, with the layers that are inserted in it."""
    how, channels = options.backbone, clip.shape[1]
    match how:
        case ResNet3DOptions():
            return _resnet3d(how, options.inserted, clip)
        case DigitsOptions(resnet3d=ResNet3DOptions()):
            maps = of_shapes(DigitsBackbone(how.num_evidence, channels), clip)
            assert how.resnet3d is not None
            resnet3d = _resnet3d(how.resnet3d, options.inserted, maps)
            return DigitsBackbone(how.num_evidence, channels, resnet3d=resnet3d)
        case _ if options.inserted is not None:
            raise RecipeError(f"layers can be inserted in a resnet3d, not in a {how.type}")
        case DigitsOptions():
            return DigitsBackbone(how.num_evidence, channels)
        case SimpleC2DOptions():
            return SimpleC2D(how.width, channels)
        case _:
            assert_never(how)


def _resnet3d(
    how: ResNet3DOptions, inserted: NonLocalOptions | InsertedRSTGOptions | None, clip: Tensor
) -> ResNet3D:
    """With the layers that follow its blocks."""
    layers: dict[str, nn.Module] = {}
    if isinstance(inserted, NonLocalOptions):
        sizes = (inserted.affinity, how.norm, inserted.pool, inserted.group_frames)
        for block in inserted.blocks:
            layers[block] = NonLocalBlock(channels_after(how, block), *sizes)
    elif inserted is not None:
        with torch.device("meta"), torch.no_grad():
            maps = ResNet3D(how, in_channels=clip.shape[1]).forward_intermediates(clip, LAYERS)
        for block in inserted.blocks:
            channels = channels_after(how, block)
            size = maps[block.partition("_")[0]].shape[3:]
            layers[block] = GraphResidual(
                channels, (size[0], size[1]), inserted.graph, inserted.norm
            )
    return ResNet3D(how, layers, in_channels=clip.shape[1])


def _head(
    how: HeadOptions,
    backbone: Backbone,
    map_size: tuple[int, int],
    num_classes: int,
    multi_label: bool,
) -> Head:
    channels = backbone.out_channels
    match how:
        case PooledOptions():
            rstg = None
            if how.rstg is not None:
                rstg = GraphVectorResidual(channels, map_size, how.rstg.graph, how.rstg.norm)
            return PooledHead(channels, num_classes, how, map_size, multi_label, rstg)
        case MeanLSTMOptions():
            return MeanLSTMHead(channels, num_classes, how)
        case ConvLSTMOptions():
            return ConvLSTMHead(channels, num_classes, how, map_size)
        case EvidenceOptions():
            assert isinstance(backbone, DigitsBackbone)
            return EvidenceHead(backbone)
        case RSTGOptions():
            return RSTGHead(channels, num_classes, how, map_size)
        case STRGOptions():
            return STRGHead(channels, num_classes, how)
        case _:
            assert_never(how)
