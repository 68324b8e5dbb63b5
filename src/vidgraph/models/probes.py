"""Heads for the maps of frozen backbones: statistics of the clip, and attention over its frames or
cells.

Shapes: B batch, D channels, T steps of the map, H W map, C width, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidgraph.models.base import HeadInput
from vidgraph.models.rstg import RecurrentSpaceTimeGraph, RSTGOptions
from vidgraph.records import Explanation, Positive, Regions, Share, options

_LEAST_VARIANCE = 1e-4  # of a statistic: what hardly varies is not blown up, nor its rounding
_EPSILON = 1e-6  # under a root whose slope at zero is infinite


@options
class StatisticsOptions:
    """Mean and deviation over time of what the frames show, and one linear layer.

    Attributes:
        deviation: the deviation over time of each channel beside its mean.
        change: its mean absolute change from frame to frame too.
        dropout: share of the statistics that training leaves out.
        rstg: a recurrent space-time graph whose vector stands beside them.
    """

    deviation: bool = True
    change: bool = False
    dropout: Share = 0.0
    rstg: RSTGOptions | None = None
    type: Literal["statistics"] = "statistics"

    def build(self, on: HeadInput) -> StatisticsHead:
        graph = None
        if self.rstg is not None:
            graph = RecurrentSpaceTimeGraph(on.channels, on.map_size, self.rstg)
        return StatisticsHead(on.channels, on.num_classes, self, graph)


@options
class TemporalTransformerOptions:
    """A transformer over the frames, each the mean of its map.

    Attributes:
        width: of its tokens (C).
        num_layers: one after another.
        num_heads: of each layer's attention.
        dropout: in its layers and before the classifier.
    """

    width: Positive = 256
    num_layers: Positive = 1
    num_heads: Positive = 4
    dropout: Share = 0.3
    type: Literal["temporal_transformer"] = "temporal_transformer"

    def build(self, on: HeadInput) -> TemporalTransformer:
        return TemporalTransformer(on.channels, on.num_classes, self)


@options
class AttentiveProbeOptions:
    """One learned query attends to all cells of the map.

    Attributes:
        width: of keys and values (C).
        num_heads: of the attention.
        dropout: before the classifier.
    """

    width: Positive = 256
    num_heads: Positive = 4
    dropout: Share = 0.3
    type: Literal["attentive_probe"] = "attentive_probe"

    def build(self, on: HeadInput) -> AttentiveProbe:
        return AttentiveProbe(on.channels, on.num_classes, self)


class StatisticsHead(nn.Module):
    """[mean | deviation | change | graph] of a clip, and a classifier, which starts at zero.

    The statistics are standardised by a batch norm without gain and bias, as linear probes of
    frozen features are (Masked Autoencoders, CVPR 2022, appendix A.1).

    Args:
        in_channels: of the map (D).
        num_classes: classes of the last layer (K).
        options: which statistics.
        graph: of `options.rstg`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        options: StatisticsOptions,
        graph: RecurrentSpaceTimeGraph | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.options, self.graph = num_classes, options, graph
        size = in_channels * (1 + options.deviation + options.change)
        self.standardize = nn.BatchNorm1d(size, eps=_LEAST_VARIANCE, affine=False)
        self.graph_norm = None if graph is None else nn.LayerNorm(graph.out_channels)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(size + (graph.out_channels if graph else 0), num_classes)
        nn.init.zeros_(self.classifier.weight[:, :size])
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        # What each frame shows, and its statistics over time: [B, D], [B, 2 D] or [B, 3 D]
        frames = features.mean(dim=(3, 4))  # [B, D, T]
        mean = frames.mean(dim=2)
        parts = [mean]
        if self.options.deviation:
            squares = (frames - mean[..., None]).square().mean(dim=2)
            parts.append((squares + _EPSILON).sqrt())
        if self.options.change:
            later = frames[:, :, min(1, frames.shape[2] - 1) :]  # of a single frame: itself
            parts.append((later - frames[:, :, : later.shape[2]]).abs().mean(dim=2))
        vector = self.standardize(torch.cat(parts, dim=1))
        # What regions say to each other, beside it: [B, ... + C]
        if self.graph is not None and self.graph_norm is not None:
            said = self.graph_norm(self.graph.to_vector(self.graph(features)))
            vector = torch.cat([vector, said], dim=1)
        # One score per class: [B, K]
        logits: Tensor = self.classifier(self.dropout(vector))
        return logits


class TemporalTransformer(nn.Module):
    """Frames, with their positions, attend to each other; their mean is classified.

    Args:
        in_channels: of the map (D).
        num_classes: classes of the last layer (K).
        options: width and depth.
    """

    def __init__(
        self, in_channels: int, num_classes: int, options: TemporalTransformerOptions
    ) -> None:
        super().__init__()
        width, self.num_classes = options.width, num_classes
        self.reduce = nn.Sequential(nn.LayerNorm(in_channels), nn.Linear(in_channels, width))
        how: dict[str, Any] = {"dropout": options.dropout, "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(width, options.num_heads, 2 * width, **how)
        self.layers = nn.TransformerEncoder(
            layer, options.num_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        # One token per frame, which tells its position: [B, T, C]
        tokens = self.reduce(features.mean(dim=(3, 4)).transpose(1, 2))
        tokens = self.layers(tokens + positions(tokens.shape[1], tokens))
        # One score per class: [B, K]
        logits: Tensor = self.classifier(self.dropout(tokens.mean(dim=1)))
        return logits


class AttentiveProbe(nn.Module):
    """A query that is learned attends to the cells of all frames, which tell their frame.

    Source: attentive probing, V-JEPA (Bardes et al. 2024), section 4; positions of frames as in
    STEP (arXiv 2503.24298).

    Args:
        in_channels: of the map (D).
        num_classes: classes of the last layer (K).
        options: width.
    """

    def __init__(self, in_channels: int, num_classes: int, options: AttentiveProbeOptions) -> None:
        super().__init__()
        width, self.num_classes = options.width, num_classes
        self.reduce = nn.Sequential(nn.LayerNorm(in_channels), nn.Linear(in_channels, width))
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(width, options.num_heads, batch_first=True)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(options.dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        vector, _ = self.attend(features)
        logits: Tensor = self.classifier(self.dropout(self.norm(vector)))
        return logits

    def attend(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the query finds, [B, C], and the weight of every cell, [B, T, H, W]."""
        batch, _, steps, *size = features.shape
        cells = self.reduce(features.permute(0, 2, 3, 4, 1))  # [B, T, H, W, C]
        cells = cells + positions(steps, cells)[:, None, None]
        tokens, query = cells.flatten(1, 3), self.query.expand(batch, -1, -1)
        found, weights = self.attention(query, tokens, tokens)  # [B, 1, C], [B, 1, T * H * W]
        return found[:, 0], weights.reshape(batch, steps, *size)

    def explain(self, features: Tensor, regions: Regions | None = None) -> list[Explanation]:
        """The weight of every cell, as a share of its frame."""
        weights = self.attend(features)[1].detach().cpu()
        shares = weights / weights.sum(dim=(2, 3), keepdim=True)
        return [Explanation.of_maps(clip) for clip in shares]


def positions(num_steps: int, like: Tensor) -> Tensor:
    """Sines and cosines of each step's number, [T, C], of the type and width of other tokens.

    Source: Attention Is All You Need (NeurIPS 2017), section 3.5.
    """
    width = like.shape[-1]
    frequencies = 10_000 ** -(torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(num_steps, device=like.device)[:, None] * frequencies  # [T, C / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like.dtype)
