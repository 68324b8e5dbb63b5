"""Heads without a graph: the mean of the map, and an LSTM over the frames.

Shapes: B batch, D channels, T frames or steps of the map, H W map, P windows, C' channels after
    convolutions, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.digits import DigitsBackbone
from vidgraph.models.base import HeadInput
from vidgraph.models.rstg import RSTGOptions
from vidgraph.models.rstg_heads import GraphVectorResidual
from vidgraph.records import Positive, Regions, Share, options


@options
class PooledOptions:
    """The mean of the map, and one linear layer.

    Attributes:
        dropout: share of the pooled channels that training leaves out.
        windows: scores on larger frames than in training: "whole", the mean over the map; "logits"
            or "probabilities", their mean over every part of the map that has the training size, as
            the authors of RSTG and of the non-local networks test.
        rstg: a recurrent space-time graph whose vector is added to the mean; None for the mean
            alone.
    """

    dropout: Share = 0.0
    windows: Literal["whole", "logits", "probabilities"] = "whole"
    rstg: RSTGOptions | None = None
    type: Literal["pooled"] = "pooled"

    def build(self, on: HeadInput) -> PooledHead:
        return PooledHead(on.channels, on.num_classes, self, on.map_size, on.multi_label)


@options
class MeanLSTMOptions:
    """The RSTG paper's "Mean + LSTM"; or, averaged, the LSTM of LRCN.

    Attributes:
        width: of the LSTM.
        dropout: share of the LSTM's inputs and of its outputs that training leaves out.
        average: the mean of the scores after every step counts, not the score after the last.
    """

    width: Positive = 512
    dropout: Share = 0.0
    average: bool = False
    type: Literal["mean_lstm"] = "mean_lstm"

    def build(self, on: HeadInput) -> MeanLSTMHead:
        return MeanLSTMHead(on.channels, on.num_classes, self)


@options
class ConvLSTMOptions:
    """The RSTG paper's "Conv + LSTM"; it gives neither number nor widths of the convolutions.

    Attributes:
        width: of the LSTM.
        conv_width: channels of both convolutions.
    """

    width: Positive = 512
    conv_width: Positive = 448
    type: Literal["conv_lstm"] = "conv_lstm"

    def build(self, on: HeadInput) -> ConvLSTMHead:
        return ConvLSTMHead(on.channels, on.num_classes, self, on.map_size)


@options
class EvidenceOptions:
    """Pre-trains `DigitsBackbone`: its evidence maps are the scores."""

    type: Literal["evidence"] = "evidence"

    def build(self, on: HeadInput) -> EvidenceHead:
        assert isinstance(on.backbone, DigitsBackbone)
        return EvidenceHead(on.backbone)


class PooledHead(nn.Module):
    """Mean over space and time, dropout, classifier: C2D and I3D.

    Args:
        in_channels: of the map (D).
        num_classes: classes of the last layer (K).
        options: dropout, windows, and the graph.
        window: rows and columns of the map at the training size.
        multi_label: probabilities of windows are of each class by itself.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        options: PooledOptions,
        window: tuple[int, int],
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.windows, self.multi_label = num_classes, options.windows, multi_label
        self.rstg: nn.Module | None = None
        if options.rstg is not None:
            self.rstg = GraphVectorResidual(in_channels, window, options.rstg)
        self.window = None if options.windows == "whole" else window
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        # Mean over frames and each window of the map: [B, P, D]
        pooled = window_means(features, self.window)
        # What the regions of the map have to add: [B, P, D]
        if self.rstg is not None:
            pooled = pooled + self.rstg(features)[:, None]
        # One score per class and window: [B, P, K]
        logits: Tensor = self.classifier(self.dropout(pooled))
        if self.windows == "probabilities" and logits.shape[1] > 1:
            return mean_probability(logits, self.multi_label)
        return logits.mean(dim=1)


def window_means(features: Tensor, window: tuple[int, int] | None) -> Tensor:
    """Mean over frames and each window of the map, or all of it: [B, D, T, H, W] to [B, P, D].

    Windows of so many rows and columns stand one cell apart, and a smaller map is one window.
    """
    height, width = features.shape[-2:]
    size = (height, width) if window is None else (min(window[0], height), min(window[1], width))
    return F.avg_pool2d(features.mean(dim=2), size, stride=1).flatten(2).transpose(1, 2)


def mean_probability(logits: Tensor, multi_label: bool) -> Tensor:
    """Logits [B, K] whose probabilities are the mean of those of logits [B, P, K]: of their softmax
    or, with several labels per clip, of their sigmoid."""
    if multi_label:
        return F.logsigmoid(logits).logsumexp(dim=1) - F.logsigmoid(-logits).logsumexp(dim=1)
    return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])


class MeanLSTMHead(nn.Module):
    """Mean over the map, LSTM over the frames, classifier on its last state or on all of them.

    Source of the averaged form: Long-term Recurrent Convolutional Networks (Donahue et al., CVPR
        2015), whose image network ends in a fully connected layer where this takes the mean.
    """

    def __init__(self, in_channels: int, num_classes: int, options: MeanLSTMOptions) -> None:
        super().__init__()
        self.num_classes, self.average = num_classes, options.average
        self.dropout = nn.Dropout(options.dropout)
        self.lstm = nn.LSTM(in_channels, options.width, batch_first=True)
        self.classifier = nn.Linear(options.width, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        # One vector per frame: [B, T, D]
        frames = self.dropout(features.mean(dim=(3, 4)).transpose(1, 2))
        # Through time, and the last step or all of them: [B, steps, width]
        hidden, _ = self.lstm(frames)
        hidden = hidden if self.average else hidden[:, -1:]
        # One score per class and step, and their mean: [B, K]
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits.mean(dim=1)


class ConvLSTMHead(nn.Module):
    """Convolutions take each frame's map to a vector; LSTM; classifier on its last state.

    Where `MeanLSTMHead` averages the map, two convolutions are learned: the first halves it, the
    second is as large as what is left, so that the vector can say where in the frame something is.
    Not the LSTM whose gates are convolutions, which goes by a similar name.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        options: ConvLSTMOptions,
        map_size: tuple[int, int],
    ) -> None:
        super().__init__()
        width, halved = options.conv_width, ((map_size[0] + 1) // 2, (map_size[1] + 1) // 2)
        self.num_classes = num_classes
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, halved, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(width, options.width, batch_first=True)
        self.classifier = nn.Linear(options.width, num_classes)

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        # Each frame's map to one vector that keeps positions apart: [B, T, C']
        maps = features.transpose(1, 2).flatten(0, 1)  # [B * T, D, H, W]
        vectors = self.reduce(maps).flatten(1).unflatten(0, (len(features), -1))
        # Through time: [B, T, width]
        hidden, _ = self.lstm(vectors)
        # One score per class, from the last frame: [B, K]
        logits: Tensor = self.classifier(hidden[:, -1])
        return logits


class EvidenceHead(nn.Module):
    """The mean of a backbone's own evidence over frames and map, and a bias."""

    def __init__(self, backbone: DigitsBackbone) -> None:
        super().__init__()
        self.num_classes = backbone.evidence.out_channels
        self._backbone = [backbone]  # in a list, so that its tensors are not the head's too
        self.classifier = nn.ParameterDict({"bias": torch.zeros(self.num_classes)})

    def forward(self, features: Tensor, regions: Regions | None = None) -> Tensor:
        """[B, D, T, H, W] to logits [B, K]."""
        evidence = self._backbone[0].evidence
        # The features beside the evidence maps, pooled: [B, C', 1, 1]
        pooled = features[:, : evidence.in_channels].mean(dim=(2, 3, 4))[..., None, None]
        # Evidence for each class: [B, K]
        scores: Tensor = evidence(pooled).flatten(1)
        return scores + self.classifier["bias"]
