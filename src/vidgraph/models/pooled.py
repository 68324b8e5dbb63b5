"""Models that pool a feature map and classify: no graph, no recurrence.

Shapes: B batch, C channels, T frames, H W map, P windows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from vidgraph.layers.pooling import window_means
from vidgraph.records import InputSpec


class PooledClassifier(nn.Module):
    """Stem, mean over space and time, dropout, classifier: C2D and I3D, and plain stems.

    Frames of another size than the model was trained on need no crops: the mean runs over the whole map. With `window`, every part of
    the map that has the training size is classified by itself, and their scores are averaged, as the authors of RSTG ("logits") and of
    the non-local networks ("probabilities", for one label per clip) test. At the training size all are the same.

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: clip to feature map.
        in_channels: channels of that map (C).
        num_classes: classes of the last layer (K).
        dropout: share of the pooled channels that training leaves out.
        window: rows and columns of the map at the training size; None for the mean over the whole map.
        average: what is averaged over windows.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.0,
        window: tuple[int, int] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        self.input_spec, self.window, self.average = input_spec, window, average
        self.pixels, self.stem = pixels, stem
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, K]."""
        # Pixels to a feature map: [B, C, T, H, W]
        features = self.stem(self.pixels(video))
        # Mean over frames and each window of the map: [B, P, C]
        pooled = window_means(features, self.window)
        # One score per class and window: [B, P, K]
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits.mean(dim=1) if self.average == "logits" else _mean_probability(logits)


class EvidenceClassifier(nn.Module):
    """The mean of a stem's own evidence over frames and map, and a bias: what pre-trains a stem that says where it sees what.

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: an `EvidenceStem` with one map of evidence per class.
        num_classes: of those maps.
    """

    def __init__(self, input_spec: InputSpec, pixels: nn.Module, stem: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.pixels, self.stem = pixels, stem
        self.classifier = _Bias(num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, K]."""
        # Pixels to the mean of the evidence for each class: [B, K]
        evidence = cast(Callable[[Tensor], Tensor], self.stem.logits)(self.pixels(video))
        # How likely each class is without any: [B, K]
        logits: Tensor = self.classifier(evidence)
        return logits


class _Bias(nn.Module):
    """Adds one number to each class; all else of the linear classifier is the stem's evidence."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.out_features = num_classes
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, evidence: Tensor) -> Tensor:
        """[B, K] to the same shape."""
        return evidence + self.bias


def _mean_probability(logits: Tensor) -> Tensor:
    """Logits whose softmax is the mean of the windows' softmaxes: [B, P, K] to [B, K]. One window keeps its own."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])
