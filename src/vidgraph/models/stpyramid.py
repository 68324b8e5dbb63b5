"""STPyramid: one frame and snippets of optical flow, fused on three levels by compact bilinear
pooling.

Source: Spatiotemporal Pyramid Network for Video Action Recognition (CVPR 2017), its slides 13 to
    18; there is no code of its authors.

Shapes: B batch, T anchors (frames with snippets), N = B * T, S snippets at each anchor, L flow
    fields per snippet, C channels, H W pixels,
h w map, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vidgraph.errors import RecipeError, nearest
from vidgraph.models.attention_pool import AttentionPool
from vidgraph.models.base import VideoModel
from vidgraph.models.compact_bilinear import CompactBilinear, Post
from vidgraph.models.frame_stream import FrameStream, check_streams
from vidgraph.records import Explanation, InputSpec, Regions

Feature = Literal["visual", "attention", "motion"]
Fusion = Literal["stcb", "concat", "sum"]
Guidance = Literal["map", "pooled"]


@dataclass(frozen=True)
class PyramidOptions:
    """Which levels there are, and how each of them fuses.

    Attributes:
        features: what is fused on the third level: "visual", the mean of the frame's map;
            "attention", its mean under the attention of the second level; "motion", the mean of the
            first level's map. A single one goes to the classifier as it is.
        snippet_fusion: of the first level: "stcb", compact bilinear; "concat"; or "sum". One
            snippet is not fused.
        stream_fusion: of the third level, likewise.
        guidance: what the second level merges with each cell of the frame's map: the same cell of
            the motion "map", or that map "pooled".
        snippet_width: channels of the motion map, where it is compact bilinear.
        guidance_width: channels of the merged map that the weights come from.
        width: of the fused vector, where it is compact bilinear (D).
        attention_width: channels between the two convolutions of the attention.
        attention_relu: ReLU between them.
        snippet_post: normalisation of the motion map.
        guidance_post: normalisation of the merged map, per cell.
        stream_post: normalisation of the fused vector.
        sketch_seed: of the hashes and signs.
        auxiliary: weight in training of a loss on "visual" and of one on "motion" alone; 0 for the
            one loss of the paper.
        dropout: share of the fused vector that training leaves out.
    """

    features: tuple[Feature, ...] = ("visual", "attention", "motion")
    snippet_fusion: Fusion = "stcb"
    stream_fusion: Fusion = "stcb"
    guidance: Guidance = "map"
    snippet_width: int = 1024
    guidance_width: int = 2048
    width: int = 4096
    attention_width: int = 64
    attention_relu: bool = True
    snippet_post: Post = "ssqrt"
    guidance_post: Post = "ssqrt_l2"
    stream_post: Post = "ssqrt_l2"
    sketch_seed: int = 0
    auxiliary: float = 0.0
    dropout: float = 0.8

    def __post_init__(self) -> None:
        known = get_args(Feature)
        if wrong := next((name for name in self.features if name not in known), None):
            raise RecipeError(f"features: there is no {wrong!r}{nearest(wrong, known)}")
        if not self.features or len(set(self.features)) < len(self.features):
            raise RecipeError(
                f"features must be some of {', '.join(known)}, each once, not {list(self.features)}"
            )
        if min(self.snippet_width, self.guidance_width, self.width, self.attention_width) < 1:
            raise RecipeError(
                "snippet_width, guidance_width, width and attention_width must be at least 1"
            )
        if not 0 <= self.dropout < 1:
            raise RecipeError(
                f"dropout is a share from 0 up to, but not including, 1, not {self.dropout}"
            )
        if self.auxiliary < 0:
            raise RecipeError(
                f"auxiliary is the weight of further losses, at least 0, not {self.auxiliary}"
            )

    @property
    def sees_frames(self) -> bool:
        return "visual" in self.features or "attention" in self.features

    @property
    def sees_flow(self) -> bool:
        return "motion" in self.features or "attention" in self.features


class BilinearFusion(nn.Module):
    """Several vectors, or maps cell by cell, to one: compact bilinear, side by side, or their sum.
    One alone stays as it is.

    Args:
        in_channels: of each input.
        kind: how they are fused.
        width: channels of the compact bilinear form.
        post: its normalisation. Unit length is scaled by the root of `width`, so that a channel has
            the size that a batch norm gives it.
        seed: of its hashes and signs.

    Raises:
        RecipeError: another kind, or a sum of inputs that differ in their channels.
    """

    def __init__(
        self, in_channels: list[int], kind: Fusion, width: int, post: Post, seed: int
    ) -> None:
        super().__init__()
        if kind not in get_args(Fusion):
            raise RecipeError(f"there is no fusion {kind!r}{nearest(kind, get_args(Fusion))}")
        if kind == "sum" and len(set(in_channels)) > 1:
            raise RecipeError(
                f"a sum needs inputs with equal channels, not {in_channels}; choose stcb or concat"
            )
        self.kind = "none" if len(in_channels) == 1 else kind
        scale = width**0.5 if post.endswith("l2") else 1.0
        self.sketch = (
            CompactBilinear(in_channels, width, seed=seed, post=post, scale=scale)
            if self.kind == "stcb"
            else None
        )
        self.out_channels = {
            "none": in_channels[0],
            "stcb": width,
            "concat": sum(in_channels),
            "sum": in_channels[0],
        }[self.kind]

    def forward(self, *parts: Tensor) -> Tensor:
        """Maps [N, C, h, w] to a map [N, D, h, w], or vectors [N, C] to a vector [N, D]; beside
        maps, a vector is seen at every cell.
        """
        if self.sketch is not None:
            fused: Tensor = (
                self.sketch.of_maps(*parts) if parts[0].dim() == 4 else self.sketch(*parts)
            )
            return fused
        if len(parts) == 1:
            return parts[0]
        if self.kind == "sum":
            return torch.stack(parts).sum(dim=0)
        return torch.cat(parts, dim=1)


class MotionAttention(nn.Module):
    """Level 2: where in the frame to look, told by what the frame shows and what moves there.

    Args:
        channels: of the frame's map and of the motion map.
        options: of the pyramid.
    """

    def __init__(self, channels: tuple[int, int], options: PyramidOptions) -> None:
        super().__init__()
        self.guidance = options.guidance
        self.merge = BilinearFusion(
            list(channels),
            "stcb",
            options.guidance_width,
            options.guidance_post,
            options.sketch_seed + 1,
        )
        self.pool = AttentionPool(
            options.guidance_width, options.attention_width, relu=options.attention_relu
        )

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [N, C, h, w] and [N, C', h, w] to the weighted mean of the first, [N, C], and its
        weights, [N, h, w], which sum to 1.
        """
        if self.guidance == "pooled":
            motion = motion.mean(dim=(2, 3))  # [N, C']
        merged = self.merge(appearance, motion)  # [N, guidance_width, h, w]
        pooled, weights = self.pool(appearance, merged)
        return pooled, weights


class STPyramid(VideoModel):
    """A frame and its snippets of flow through an image network each, then three levels of fusion
    and one classifier.

    What `features` leave out is not built: the motion alone is a network of flow with fused
    snippets, the attention alone a network of frames that flow only guides. With several anchors
    per clip, their scores are averaged.

    Args:
        input_spec: what the model eats.
        spatial: stream of the frames; None where no feature needs it.
        temporal: stream of the snippets; None where no feature needs it.
        num_classes: classes of the last layer (K).
        levels: which levels there are, and how they fuse.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        spatial: FrameStream | None,
        temporal: FrameStream | None,
        num_classes: int,
        levels: PyramidOptions | None = None,
    ) -> None:
        super().__init__(input_spec, num_classes)
        self.levels = levels or PyramidOptions()
        how, self.spatial, self.temporal = self.levels, spatial, temporal
        channels = (
            {}
            if spatial is None
            else {"visual": spatial.out_channels, "attention": spatial.out_channels}
        )
        self.snippet_fusion = self.attention = None
        if temporal is not None:
            of_snippets = [temporal.out_channels] * input_spec.num_stacks
            self.snippet_fusion = BilinearFusion(
                of_snippets,
                how.snippet_fusion,
                how.snippet_width,
                how.snippet_post,
                how.sketch_seed,
            )
            channels["motion"] = self.snippet_fusion.out_channels
        if "attention" in how.features:
            self.attention = MotionAttention((channels["visual"], channels["motion"]), how)
        of_streams = [channels[name] for name in how.features]
        self.stream_fusion = BilinearFusion(
            of_streams, how.stream_fusion, how.width, how.stream_post, how.sketch_seed + 2
        )
        self.dropout = nn.Dropout(how.dropout)
        self.classifier = nn.Linear(self.stream_fusion.out_channels, num_classes)
        helped = [name for name in ("visual", "motion") if how.auxiliary and name in channels]
        self.auxiliary = nn.ModuleDict(
            {name: nn.Linear(channels[name], num_classes) for name in helped}
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Classifiers: normal of deviation 0.001, biases zero, as Temporal Segment Networks start
        them.
        """
        for layer in (self.classifier, *self.auxiliary.values()):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> Tensor:
        """Clips to logits.

        Args:
            video: frames, [B, C, T, H, W], uint8 or in [0, 1].
            flow: snippets at each frame, [B, T, S, 2 L, H, W], uint8.

        Returns:
            [B, K].

        Raises:
            DataError: frames or flow are missing, or of another shape than the model takes.
        """
        # Level 0, the frame's map: [N, C, h, w]; level 1, the map of motion over all snippets: [N,
        # C', h, w]
        appearance, motion = self.maps(video, flow)
        # Level 2, among others: a vector per feature, [N, C] each
        vectors = self.vectors(appearance, motion)
        # Level 3, all of them as one: [N, D]
        fused = self.stream_fusion(*(vectors[name] for name in self.levels.features))
        # One score per class and anchor, and the mean over a clip's anchors: [B, K]
        return _mean_over_anchors(self.classifier(self.dropout(fused)), video, flow)

    def maps(
        self, video: Tensor | None, flow: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The map of each frame, [N, C, h, w], and of the motion around it, [N, C', h, w]; None
        where the pyramid has none.
        """
        check_streams(self.spec, video, flow)
        appearance = motion = None
        if self.spatial is not None and video is not None:
            appearance = self.spatial(video).flatten(0, 1)  # [N, C, h, w]
        if self.temporal is not None and self.snippet_fusion is not None and flow is not None:
            snippets = (
                self.temporal(flow).flatten(0, 1).unflatten(0, (-1, self.spec.num_stacks))
            )  # [N, S, C, h, w]
            motion = self.snippet_fusion(*snippets.unbind(1))
        return appearance, motion

    def vectors(self, appearance: Tensor | None, motion: Tensor | None) -> dict[str, Tensor]:
        """The features that can be had from these maps, [N, C] each; the attended one only where it
        is asked for.
        """
        found = {}
        if appearance is not None:
            found["visual"] = appearance.mean(dim=(2, 3))
        if motion is not None:
            found["motion"] = motion.mean(dim=(2, 3))
        if self.attention is not None:
            found["attention"], _ = self.attention(appearance, motion)
        return found

    def training_logits(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> list[tuple[float, Tensor]]:
        """The logits that training takes its loss of, [B, K] each, with their weights: those of
        `forward`, and any auxiliary ones.
        """
        vectors = self.vectors(*self.maps(video, flow))
        fused = self.stream_fusion(*(vectors[name] for name in self.levels.features))
        scores = [(1.0, self.classifier(self.dropout(fused)))]  # [N, K]
        scores += [
            (self.levels.auxiliary, head(vectors[name])) for name, head in self.auxiliary.items()
        ]
        return [(weight, _mean_over_anchors(part, video, flow)) for weight, part in scores]

    @torch.no_grad()
    def explain(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> list[Explanation]:
        """Where the second level looks in each frame: one explanation per clip; none without
        attention.
        """
        if self.attention is None or video is None:
            return []
        _, weights = self.attention(*self.maps(video, flow))  # [N, h, w]
        of_clips = weights.float().cpu().unflatten(0, (len(video), -1))  # [B, T, h, w]
        return [Explanation.of_maps(maps) for maps in of_clips]


def _mean_over_anchors(scores: Tensor, video: Tensor | None, flow: Tensor | None) -> Tensor:
    """[N, K] to [B, K]; anchors of a clip lie together."""
    clips = video if flow is None else flow
    assert clips is not None
    return scores.unflatten(0, (len(clips), -1)).mean(dim=1)
