"""STPyramid: a frame and stacks of optical flow, fused on three levels by compact bilinear pooling.

Source: Spatiotemporal Pyramid Network for Video Action Recognition (CVPR 2017), its slides 13 to
    18; there is no code of its authors.

Shapes: B batch, T frames with their flow stacks, N = B * T, S flow stacks at each frame, L flow
    frames per stack, C D G channels, H W pixels, h w map, K classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError
from vidgraph.models.base import Boxes, Clip, VideoModel, check_inputs
from vidgraph.models.compact_bilinear import CompactBilinear, Post
from vidgraph.models.norms import full_precision
from vidgraph.models.two_stream import Stream, start_small
from vidgraph.records import Explanation, InputSpec, Positive, Share, options

Feature = Literal["visual", "attention", "motion"]
Fusion = Literal["stcb", "concat", "sum"]
_ALL: tuple[Feature, ...] = ("visual", "attention", "motion")


@options
class FusionOptions:
    """Which levels there are, and how each of them fuses.

    Attributes:
        features: what is fused on the third level: "visual", the mean of the frame's map;
            "attention", its mean under the attention of the second level; "motion", the mean of the
            first level's map. A single one goes to the classifier as it is.
        stack_fusion: of the first level: "stcb", compact bilinear; "concat"; or "sum". One flow
            stack is not fused.
        stream_fusion: of the third level, likewise.
        guidance: what the second level merges with each cell of the frame's map: the same cell of
            the motion "map", or that map "pooled".
        stack_width: channels of the motion map, where it is compact bilinear.
        guidance_width: channels of the merged map that the weights come from (G).
        width: of the fused vector, where it is compact bilinear.
        attention_width: channels between the two convolutions of the attention.
        attention_relu: ReLU between them.
        stack_post: normalisation of the motion map.
        guidance_post: normalisation of the merged map, per cell.
        stream_post: normalisation of the fused vector.
        sketch_seed: of the hashes and signs.
        dropout: share of the fused vector that training leaves out.
    """

    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = _ALL
    stack_fusion: Fusion = "stcb"
    stream_fusion: Fusion = "stcb"
    guidance: Literal["map", "pooled"] = "map"
    stack_width: Positive = 1024
    guidance_width: Positive = 2048
    width: Positive = 4096
    attention_width: Positive = 64
    attention_relu: bool = True
    stack_post: Post = "ssqrt"
    guidance_post: Post = "ssqrt_l2"
    stream_post: Post = "ssqrt_l2"
    sketch_seed: int = 0
    dropout: Share = 0.8

    @property
    def takes_frames(self) -> bool:
        return "visual" in self.features or "attention" in self.features

    @property
    def takes_flow(self) -> bool:
        return "motion" in self.features or "attention" in self.features


class BilinearFusion(nn.Module):
    """Several vectors or maps to one: compact bilinear of `width` channels (D), concatenated, or
    their sum.

    Unit length is scaled by the root of `width`, so that a channel has the size that a batch norm
    gives it.
    """

    def __init__(
        self, in_channels: list[int], kind: Fusion, width: int, post: Post, seed: int
    ) -> None:
        super().__init__()
        self.kind, self.out_channels = kind, in_channels[0]
        self.sketch: CompactBilinear | None = None
        if len(in_channels) == 1:
            return
        if kind == "stcb":
            scale = width**0.5 if post.endswith("l2") else 1.0
            self.sketch = CompactBilinear(in_channels, width, seed, post, scale)
            self.out_channels = width
        elif kind == "concat":
            self.out_channels = sum(in_channels)
        elif len(set(in_channels)) > 1:
            raise RecipeError(
                f"a sum needs inputs with equal channels, not {in_channels}; choose stcb or concat"
            )

    def forward(self, *parts: Tensor) -> Tensor:
        """Maps [N, C, h, w] to a map [N, D, h, w], or vectors [N, C] to a vector [N, D]; beside
        maps, a vector is seen at every cell."""
        if len(parts) == 1:
            return parts[0]
        if self.sketch is None:
            return torch.cat(parts, dim=1) if self.kind == "concat" else torch.stack(parts).sum(0)
        if parts[0].dim() == 2:
            return self.sketch(*parts)
        last = [x.movedim(1, -1) if x.dim() == 4 else x[:, None, None] for x in parts]
        return self.sketch(*last).movedim(-1, 1)


class AttentionPool(nn.Module):
    """A weighted mean over a map's cells: softmax of conv2(relu(conv1(guidance))).

    The second convolution starts at zero, so that all weights are equal and training starts from
    average pooling. It has no bias: a softmax does not see one.
    """

    def __init__(self, guidance_channels: int, width: int = 64, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.conv1 = nn.Conv2d(guidance_channels, width, 1)
        self.conv2 = nn.Conv2d(width, 1, 1, bias=False)
        nn.init.xavier_uniform_(self.conv1.weight)
        assert self.conv1.bias is not None
        nn.init.zeros_(self.conv1.bias)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, features: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [N, C, h, w] and, of the same cells, [N, G, h, w] to the weighted mean of the first,
        [N, C], and its weights, float32 [N, h, w], which sum to 1."""
        # One number per cell: [N, 1, h, w]
        hidden = self.conv1(guidance)
        logits = self.conv2(F.relu(hidden) if self.relu else hidden)
        with full_precision(logits):
            # Weights of the cells: [N, h, w]
            weights = logits.float().flatten(1).softmax(dim=1).unflatten(1, logits.shape[2:])
            # Their mean of the features: [N, C]
            pooled = torch.einsum("nchw,nhw->nc", features.float(), weights)
        return pooled.to(features.dtype), weights


class STPyramid(VideoModel):
    """A frame and its flow stacks, a network each; three levels of fusion; one classifier.

    What `features` leave out is not built: the motion alone is a network of flow with fused stacks,
    the attention alone a network of frames that flow only guides. With several frames per clip,
    their scores are averaged.

    Args:
        spec: which clips it takes.
        num_classes: classes of the last layer (K).
        frames: video to one map per frame; None where no feature needs it.
        flow: flow to one map per stack; None where no feature needs it.
        options: which levels there are, and how they fuse.
    """

    def __init__(
        self,
        spec: InputSpec,
        num_classes: int,
        frames: Stream | None,
        flow: Stream | None,
        options: FusionOptions,
    ) -> None:
        super().__init__(spec, num_classes)
        self.frames, self.flow, self.features = frames, flow, options.features
        self.guidance = options.guidance
        self.stack_fusion = self.guidance_fusion = self.attention = None
        seed, channels = options.sketch_seed, dict[str, int]()
        if frames is not None:
            channels["visual"] = channels["attention"] = frames.backbone.out_channels
        if flow is not None:
            stacks = [flow.backbone.out_channels] * spec.num_stacks
            self.stack_fusion = BilinearFusion(
                stacks, options.stack_fusion, options.stack_width, options.stack_post, seed
            )
            channels["motion"] = self.stack_fusion.out_channels
        if "attention" in options.features:
            merged, width = [channels["visual"], channels["motion"]], options.guidance_width
            self.guidance_fusion = BilinearFusion(
                merged, "stcb", width, options.guidance_post, seed + 1
            )
            self.attention = AttentionPool(width, options.attention_width, options.attention_relu)
        fused = [channels[name] for name in options.features]
        self.stream_fusion = BilinearFusion(
            fused, options.stream_fusion, options.width, options.stream_post, seed + 2
        )
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(self.stream_fusion.out_channels, num_classes)
        start_small(self.classifier)

    def forward(self, video: Clip = None, flow: Clip = None, regions: Boxes = None) -> Tensor:
        """See `VideoModel.forward`."""
        # The frame's map: [N, C, h, w]; level 1, the motion in all flow stacks: [N, D, h, w]
        appearance, motion = self.maps(video, flow)
        # Their means over the cells and, level 2, a mean of the cells to look at: [N, C] or [N, D]
        vectors = {}
        if appearance is not None:
            vectors["visual"] = appearance.mean(dim=(2, 3))
        if motion is not None:
            vectors["motion"] = motion.mean(dim=(2, 3))
        if self.attention is not None and appearance is not None and motion is not None:
            vectors["attention"], _ = self.attend(appearance, motion)
        # Level 3, those asked for as one: [N, width]
        fused = self.stream_fusion(*(vectors[name] for name in self.features))
        # One score per class and frame, and the mean over a clip's frames: [B, K]
        scores: Tensor = self.classifier(self.dropout(fused))
        clips = flow if video is None else video
        assert clips is not None
        return scores.unflatten(0, (len(clips), -1)).mean(dim=1)

    def maps(self, video: Clip, flow: Clip) -> tuple[Tensor | None, Tensor | None]:
        """Maps of each frame, [N, C, h, w], and of the motion around it, [N, D, h, w], or None."""
        check_inputs(self.spec, video, flow, None)
        appearance = motion = None
        if self.frames is not None and video is not None:
            maps = self.frames.forward_features(video)  # [B, C, T, h, w]
            appearance = maps.transpose(1, 2).flatten(0, 1)  # [N, C, h, w]
        if self.flow is not None and self.stack_fusion is not None and flow is not None:
            maps = self.flow.forward_features(flow)  # [B, C, T * S, h, w]
            stacks = maps.transpose(1, 2).flatten(0, 1)  # [N * S, C, h, w]
            motion = self.stack_fusion(*stacks.unflatten(0, (-1, flow.shape[2])).unbind(1))
        return appearance, motion

    def attend(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Level 2, where in the frame to look, told by what it shows and what moves there: the
        weighted mean of the frame's map, [N, C], and its weights, [N, h, w]."""
        assert self.guidance_fusion is not None
        assert self.attention is not None
        guide = motion if self.guidance == "map" else motion.mean(dim=(2, 3))
        merged = self.guidance_fusion(appearance, guide)  # [N, G, h, w]
        pooled, weights = self.attention(appearance, merged)
        return pooled, weights

    @torch.no_grad()
    def explain(
        self, video: Clip = None, flow: Clip = None, regions: Boxes = None
    ) -> list[Explanation]:
        """Where level 2 looks in each frame: one explanation per clip; none without attention."""
        appearance, motion = self.maps(video, flow)
        if self.attention is None or video is None or appearance is None or motion is None:
            return []
        _, weights = self.attend(appearance, motion)  # [N, h, w]
        of_clips = weights.cpu().unflatten(0, (len(video), -1))  # [B, T, h, w]
        return [Explanation.of_maps(maps) for maps in of_clips]
