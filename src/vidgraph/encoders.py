"""The frozen backbone of a model, as what feature maps are computed by and known by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vidgraph.backbones.image import FrameByFrame, TimmOptions
from vidgraph.backbones.video import HFOptions
from vidgraph.errors import RecipeError
from vidgraph.models.base import ClipModel, VideoModel
from vidgraph.models.build import create_model
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.features import FeatureJob, FrozenNetwork, feature_method
from vidgraph.precompute.store import Method
from vidgraph.records import InputSpec


def feature_job(
    backbone: str | Mapping[str, Any],
    spec: InputSpec,
    mirrored: bool = False,
    boxes: Path | None = None,
) -> FeatureJob:
    """What computes the maps of a backbone with its published weights, or its features of things.

    Args:
        backbone: such as timm:tf_efficientnet_lite0@head, or its options.
        spec: which clip of each video: frames spread over all of it; with `box_crops`, how many
            things.
        mirrored: of mirrored clips too.
        boxes: the store of boxes that things are found in.

    Raises:
        VidgraphError: there is no such backbone or store, or its weights cannot be had.
    """
    load, found = partial(load_network, backbone, spec), BoxStore(boxes).method if boxes else None
    method = feature_method(*_known_by(load()), spec, mirrored, found)
    return FeatureJob(method, load, spec, mirrored, boxes)


def method_of(model: VideoModel, boxes: Method | None = None) -> Method:
    """How the maps are made that a model takes in place of frames; or, where it is said how boxes
    are, the features that it takes in place of crops.

    Raises:
        RecipeError: the model does not take one map of a clip that is spread over the video.
    """
    if not isinstance(model, ClipModel) or model.spec.flow_length or not model.spec.whole_video:
        raise RecipeError(
            f"{model.name} cannot take features: it needs one backbone, and input.whole_video"
        )
    return feature_method(*_known_by(_frozen(model)), model.spec, boxes=boxes)


def load_network(backbone: str | Mapping[str, Any], spec: InputSpec) -> FrozenNetwork:
    """A backbone for such clips with the pixels' normalisation of its weights."""
    model = create_model("pooled", 1, backbone=backbone, input=spec)
    assert isinstance(model, ClipModel)
    return _frozen(model)


def _frozen(model: ClipModel) -> FrozenNetwork:
    backbone, how = model.backbone, model.options.backbone
    assert isinstance(backbone, torch.nn.Module)
    images = None
    if isinstance(backbone, FrameByFrame) and backbone.shift is None:
        images = backbone.network
    match how:
        case TimmOptions():
            shift = f" shifted by {how.temporal_shift}" if how.temporal_shift else ""
            name = f"timm:{how.name}@{how.level}{shift}"
        case HFOptions():
            name = f"hf:{how.id}"
        case _:
            name = how.type
    return FrozenNetwork(model.normalize, backbone, images, name)


def _known_by(network: FrozenNetwork) -> tuple[str, str]:
    """Its name, and the SHA-256 of its tensors."""
    digest = hashlib.sha256()
    for part in (network.normalize, network.backbone):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return network.name, digest.hexdigest()
