"""What every model is, to those who train, score and show it: normalize -> backbone -> head.

Shapes: B batch, C D channels, T frames, H W pixels or map, K boxes per frame, S flow stacks per
    frame, L flow frames per stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vidgraph.backbones.base import Backbone
from vidgraph.errors import DataError
from vidgraph.models.normalize import Normalize
from vidgraph.records import Explanation, InputSpec, Regions


class Head(Protocol):
    """A module that takes a feature map to scores: [B, D, T', H', W'] to [B, num_classes]."""

    num_classes: int

    def __call__(self, features: Tensor, regions: Regions | None = None) -> Tensor: ...

    def explain(self, features: Tensor, regions: Regions | None = None) -> list[Explanation]:
        """Per clip what the head looked at, at each step of the map; [] where there is nothing."""
        ...


@dataclass(frozen=True)
class HeadInput:
    """What a head is built for; every record of options of a head has `build(on: HeadInput)`.

    Attributes:
        backbone: whose maps it takes.
        map_size: rows and columns of these maps (H', W') at the size of the model's clips.
        num_classes: of its scores.
        multi_label: a clip may have several labels.
    """

    backbone: Backbone
    map_size: tuple[int, int]
    num_classes: int
    multi_label: bool = False

    @property
    def channels(self) -> int:
        """Of the maps (D)."""
        return self.backbone.out_channels


@runtime_checkable
class Explains(Protocol):
    """A layer of a backbone that can say what it looked at in its input [B, C, T', H', W']."""

    def explain(self, features: Tensor) -> list[Explanation]: ...


class VideoModel(nn.Module):
    """What training, evaluation, prediction and profiles know of a model.

    Args:
        spec: which clips it takes.
        num_classes: of its scores.

    Attributes:
        name: published name, or name of the head, that `create_model` was called with.
        options: complete; with `num_classes` enough to build the model again.
        class_names: one per class, where they are known.
        multi_label: a clip may have several labels.
    """

    def __init__(self, spec: InputSpec, num_classes: int) -> None:
        super().__init__()
        self.spec, self.num_classes = spec, num_classes
        self.name = ""
        self.options: Any = None
        self.class_names: list[str] | None = None
        self.multi_label = False

    def forward(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> Tensor:
        """Clips to logits. `ClipBatch.inputs(model.spec)` has what a model takes of these.

        Args:
            video: [B, C, T, H, W], uint8 or float from 0 to 1.
            flow: stacks at each frame, [B, T, S, 2 L, H, W], uint8 or float from 0 to 1.
            regions: boxes of every frame, [B, T, K, ...].

        Returns:
            [B, num_classes].

        Raises:
            DataError: one of them is missing, or of another shape than the model takes.
        """
        raise NotImplementedError

    def training_logits(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> list[tuple[float, Tensor]]:
        """The logits that training takes its losses of, [B, num_classes] each, with their weights;
        what counts as right goes by the first."""
        return [(1.0, self(video, flow, regions))]

    def explain(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> list[Explanation]:
        """Per clip what the model looked at in each frame; [] where there is nothing to explain."""
        return []


class ClipModel(VideoModel):
    """normalize -> backbone -> head.

    Args:
        spec: which clips it takes.
        normalize: of pixels.
        backbone: clip to feature map.
        head: feature map to scores.
    """

    def __init__(
        self, spec: InputSpec, normalize: Normalize, backbone: Backbone, head: Head
    ) -> None:
        super().__init__(spec, head.num_classes)
        self.normalize = normalize
        self.backbone: Backbone = backbone
        self.head: Head = head

    def forward(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> Tensor:
        """See `VideoModel.forward`."""
        check_inputs(self.spec, video, flow, regions)
        assert video is not None
        return self.forward_head(self.forward_features(video), regions)

    def forward_features(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] to the feature map [B, D, T', H', W'], which a store may hold."""
        return self.backbone(self.normalize(video))

    def forward_head(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """The feature map [B, D, T', H', W'] to logits [B, num_classes]."""
        return self.head(features, regions)

    @torch.no_grad()
    def explain(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> list[Explanation]:
        """See `VideoModel.explain`. Stages of layers inside the backbone come before the head's,
        where the head has the same nodes; else the head alone explains."""
        check_inputs(self.spec, video, flow, regions)
        assert video is not None
        found: list[list[Explanation]] = []

        def ask(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            found.append(layer.explain(*inputs))

        assert isinstance(self.backbone, nn.Module)
        inside = [layer for layer in self.backbone.modules() if isinstance(layer, Explains)]
        hooks = [layer.register_forward_pre_hook(ask) for layer in inside]
        try:
            features = self.forward_features(video)
        finally:
            for hook in hooks:
                hook.remove()
        found.append(self.head.explain(features, regions))
        frames = video.shape[2]
        by_clip = zip(*(explanations for explanations in found if explanations), strict=True)
        return [_joined([part.at_frames(frames) for part in parts]) for parts in by_clip]


def _joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of one clip as one, stage after stage, those with the last one's nodes."""
    stages = [part.attention for part in parts if part.names == parts[-1].names]
    return replace(parts[-1], attention=torch.cat(stages))


def check_inputs(
    spec: InputSpec, video: Tensor | None, flow: Tensor | None, regions: Regions | None
) -> None:
    """Says what a clip lacks of what a model takes.

    Args:
        spec: of the model.
        video: [B, C, T, H, W].
        flow: [B, T, S, 2 L, H, W].
        regions: boxes of every frame, [B, T, K, ...]; a model takes another K too.

    Raises:
        DataError: one that the spec asks for is missing, or of another shape.
    """
    if spec.channels and video is None:
        raise DataError("this model takes frames, and the clips came without; give it video")
    if spec.channels and video is not None and video.shape[1:2] != (spec.channels,):
        wanted = f"[B, {spec.channels}, T, H, W]"
        raise DataError(f"this model takes clips {wanted}, not {list(video.shape)}")
    if spec.flow_length and flow is None:
        raise DataError(
            "this model takes optical flow, and the clips came without; give a store of flow "
            "(data.table.flow, --flow)"
        )
    if spec.boxes_per_frame and regions is None:
        raise DataError(
            "this model takes regions, and the clips came without boxes; give a store of boxes "
            "(data.table.boxes, --boxes)"
        )
    stack = (spec.num_stacks, 2 * spec.flow_length)
    if flow is not None and spec.flow_length and (flow.dim() != 6 or flow.shape[2:4] != stack):
        raise DataError(
            f"this model takes flow [B, T, {stack[0]}, {stack[1]}, H, W] (stacks, x and y of each "
            f"flow frame), not {list(flow.shape)}"
        )
    if video is None or not spec.channels:
        return
    beside = {
        "flow": flow if spec.flow_length else None,
        "boxes": None if regions is None else regions.mask,
    }
    clips, frames = len(video), video.shape[2]
    for name, tensor in beside.items():
        if tensor is not None and tensor.shape[:2] != (clips, frames):
            raise DataError(
                f"the video is of {clips} clips of {frames} frames, and the {name} of "
                f"{tensor.shape[0]} clips of {tensor.shape[1]} frames; give {name} for every frame"
            )
