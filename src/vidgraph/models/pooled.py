"""Models that pool a feature map and classify: no graph, no recurrence.

Shapes: B batch, C channels, T frames, S snippets at each frame, L flow fields per snippet, H W map,
    P windows, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidgraph.models.base import VideoModel
from vidgraph.models.frame_stream import FrameStream, check_streams
from vidgraph.records import InputSpec, Regions


class SegmentStream(FrameStream):
    """One stream of Temporal Segment Networks: every image is classified by itself, and their
    scores are averaged before any softmax.

    Source: Temporal Segment Networks (Wang et al., ECCV 2016), its average consensus.

    Args:
        pixels: normalisation of the frames or of the flow.
        backbone: images to maps, with `out_channels`.
        num_classes: classes of the last layer (K).
        dropout: share of the pooled channels that training leaves out.
    """

    def __init__(
        self, pixels: nn.Module, backbone: nn.Module, num_classes: int, dropout: float = 0.8
    ) -> None:
        super().__init__(pixels, backbone)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.out_channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Classifier: normal of deviation 0.001, bias zero, as the authors of Temporal Segment
        Networks start it.
        """
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """Frames [B, C, T, H, W] or flow [B, T, S, 2 L, H, W] to logits [B, K]."""
        # Every image to the mean of its map: [B, T, C']
        pooled = self.maps(clip).mean(dim=(3, 4))
        # One score per class and image, and the mean over images: [B, K]
        scores: Tensor = self.classifier(self.dropout(pooled))
        return scores.mean(dim=1)


class TwoStream(VideoModel):
    """Frames and flow, each scored by a network of its own, and the weighted mean of both scores
    ("late fusion"); or one of the two alone.

    Sources: Two-Stream Convolutional Networks (Simonyan and Zisserman, NIPS 2014); with segments,
        Temporal Segment Networks. Each stream is
    trained on a loss of its own, as if the other were not there.

    Args:
        input_spec: what the model eats.
        spatial: frames [B, C, T, H, W] to logits [B, K]; None without.
        temporal: flow [B, T, S, 2 L, H, W] to logits [B, K]; None without.
        num_classes: of both (K).
        weights: of frames and flow in the mean; the authors of Temporal Segment Networks have 1 to
            1.5.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        spatial: nn.Module | None,
        temporal: nn.Module | None,
        num_classes: int,
        weights: Sequence[float] = (1.0, 1.5),
    ) -> None:
        super().__init__(input_spec, num_classes)
        self.spatial, self.temporal = spatial, temporal
        there = [
            weight
            for weight, stream in zip(weights, (spatial, temporal), strict=True)
            if stream is not None
        ]
        self.classifier = _WeightedMean(there, num_classes)

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
        # Each stream by itself: [B, K] each
        scores = [stream(clip) for stream, clip in self._streams(video, flow)]
        # Their weighted mean: [B, K]
        logits: Tensor = self.classifier(*scores)
        return logits

    def training_logits(
        self,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        regions: Regions | None = None,
    ) -> list[tuple[float, Tensor]]:
        """The logits that training takes its loss of, [B, K] each, with their weights: of every
        stream that learns.
        """
        pairs = self._streams(video, flow)
        learning = [
            pair
            for pair in pairs
            if any(parameter.requires_grad for parameter in pair[0].parameters())
        ]
        return [(1.0, stream(clip)) for stream, clip in learning or pairs]

    def _streams(self, video: Tensor | None, flow: Tensor | None) -> list[tuple[nn.Module, Tensor]]:
        """The streams that there are, each with what it sees."""
        check_streams(self.spec, video, flow)
        pairs = ((self.spatial, video), (self.temporal, flow))
        return [(stream, clip) for stream, clip in pairs if stream is not None and clip is not None]


class _WeightedMean(nn.Module):
    """The weighted mean of some scores; what stands where other models have their last layer."""

    def __init__(self, weights: Sequence[float], num_classes: int) -> None:
        super().__init__()
        self.shares = [weight / sum(weights) for weight in weights]
        self.out_features = num_classes

    def forward(self, *scores: Tensor) -> Tensor:
        """[B, K] each, to the same shape."""
        return torch.stack(
            [share * score for share, score in zip(self.shares, scores, strict=True)]
        ).sum(dim=0)
