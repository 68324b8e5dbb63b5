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

# What a model is called with: some take video, some flow, some boxes too.
Clip = Tensor | None
Boxes = Regions | None


class Head(Protocol):
    """A module that takes a feature map to scores: [B, D, T', H', W'] to [B, num_classes]."""

    num_classes: int

    def __call__(self, features: Tensor, regions: Boxes = None) -> Tensor: ...


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
    """A head, or a layer anywhere in a model, that can say what it looked at in its inputs."""

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

    def forward(self, video: Clip = None, flow: Clip = None, regions: Boxes = None) -> Tensor:
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
        self, video: Clip = None, flow: Clip = None, regions: Boxes = None
    ) -> list[tuple[float, Tensor]]:
        """The logits that training takes its losses of, [B, num_classes] each, with their weights;
        what counts as right goes by the first."""
        return [(1.0, self(video, flow, regions))]

    def explain(
        self, video: Clip = None, flow: Clip = None, regions: Boxes = None
    ) -> list[Explanation]:
        """Per clip what the model looked at in each frame; [] where there is nothing to explain."""
        return []


class AveragedHead(nn.Module):
    """The mean of the logits of several heads of one kind, trained apart; the first one explains.

    Args:
        heads: with the same classes.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.num_classes = heads[0].num_classes
        self.heads = nn.ModuleList(head for head in heads if isinstance(head, nn.Module))

    def forward(self, features: Tensor, regions: Boxes = None) -> Tensor:
        """[B, D, T', H', W'] to logits [B, K]."""
        return torch.stack([head(features, regions) for head in self.heads]).mean(dim=0)


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
        video: Clip = None,
        flow: Clip = None,
        regions: Boxes = None,
        features: Clip = None,
    ) -> Tensor:
        """See `VideoModel.forward`; or from the map of such clips, [B, D, T', H', W'], alone."""
        if features is None:
            check_inputs(self.spec, video, flow, regions)
            assert video is not None
            features = self.forward_features(video)
        if regions is not None and regions.crops is not None:
            regions = self.forward_crops(regions)
        return self.forward_head(features.to(next(self.parameters()).dtype), regions)

    def forward_features(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] to the feature map [B, D, T', H', W'], which a store may hold."""
        return self.backbone(self.normalize(video))

    def forward_crops(self, regions: Regions) -> Regions:
        """Things with the features that a store may hold, in place of their crops; zero for those
        that are not in the clip."""
        assert regions.crops is not None
        clips, count = regions.crops.shape[:2]
        maps = self.forward_features(regions.crops.flatten(0, 1))  # [B * K, D, T', H', W']
        means = maps.mean(dim=(3, 4))
        means = means.reshape(clips, count, *means.shape[1:]).permute(0, 3, 1, 2)  # [B, T', K, D]
        means = means * regions.mask.any(1)[:, None, :, None]
        return replace(regions, crops=None, features=means)

    def forward_head(self, features: Tensor, regions: Boxes = None) -> Tensor:
        """The feature map [B, D, T', H', W'] to logits [B, num_classes]."""
        return self.head(features, regions)

    def training_logits(
        self,
        video: Clip = None,
        flow: Clip = None,
        regions: Boxes = None,
        features: Clip = None,
    ) -> list[tuple[float, Tensor]]:
        """See `VideoModel.training_logits`."""
        return [(1.0, self(video, flow, regions, features))]

    @torch.no_grad()
    def explain(
        self, video: Clip = None, flow: Clip = None, regions: Boxes = None
    ) -> list[Explanation]:
        """See `VideoModel.explain`. The stages of several graphs follow one another, where they
        have the nodes of the last one; else that one alone explains."""
        found: list[list[Explanation]] = []

        def ask(layer: Any, inputs: tuple[Any, ...]) -> None:
            found.append(layer.explain(*inputs))

        others = "head.heads."  # of an AveragedHead, of which the first explains
        named = [*self.named_modules()][1:]
        parts: list[nn.Module] = [p for n, p in named if others not in n or f"{others}0" in n]
        layers = [part for part in parts if isinstance(part, Explains)]
        hooks = [layer.register_forward_pre_hook(ask) for layer in layers]
        try:
            self(video, flow, regions)
        finally:
            for hook in hooks:
                hook.remove()
        assert video is not None
        by_clip = zip(*(explanations for explanations in found if explanations), strict=True)
        return [_joined(parts, video.shape[2]) for parts in by_clip]


def _joined(parts: Sequence[Explanation], num_frames: int) -> Explanation:
    """Explanations of one clip as one, stage after stage, those with the last one's nodes."""
    parts = [part.at_frames(num_frames) for part in parts]
    stages = [part.attention for part in parts if part.names == parts[-1].names]
    return replace(parts[-1], attention=torch.cat(stages))


def check_inputs(spec: InputSpec, video: Clip, flow: Clip, regions: Boxes) -> None:
    """Says what clips lack of what a model takes; other numbers of frames and boxes are allowed.

    Raises:
        DataError: one that the spec asks for is missing, or of another shape.
    """
    without = "and the clips came without"
    if spec.channels and video is None:
        raise DataError(f"this model takes frames, {without}; give it video")
    if spec.flow_length and flow is None:
        how = "give a store of flow (data.table.flow, --flow)"
        raise DataError(f"this model takes optical flow, {without}; {how}")
    if spec.boxes_per_frame and regions is None:
        how = "give a store of boxes (data.table.boxes, --boxes)"
        raise DataError(f"this model takes regions, {without} boxes; {how}")
    video, flow = video if spec.channels else None, flow if spec.flow_length else None
    if video is not None and video.shape[1:2] != (spec.channels,):
        wanted = f"[B, {spec.channels}, T, H, W]"
        raise DataError(f"this model takes clips {wanted}, not {list(video.shape)}")
    stack = (spec.num_stacks, 2 * spec.flow_length)
    if flow is not None and (flow.dim() != 6 or flow.shape[2:4] != stack):
        raise DataError(
            f"this model takes flow [B, T, {stack[0]}, {stack[1]}, H, W] (stacks, x and y of each "
            f"flow frame), not {list(flow.shape)}"
        )
    for name, tensor in (("flow", flow), ("boxes", None if regions is None else regions.mask)):
        if video is None or tensor is None:
            continue
        (clips, frames), others = (len(video), video.shape[2]), tuple(tensor.shape[:2])
        if others != (clips, frames):
            raise DataError(
                f"the video is of {clips} clips of {frames} frames, and the {name} of "
                f"{others[0]} clips of {others[1]} frames; give {name} for every frame"
            )
