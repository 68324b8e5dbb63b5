"""Recurrent baselines: those that RSTG is measured against, and that of the pyramid.

Shapes: B batch, C channels, T frames, S snippets at each frame, L flow fields per snippet, H W map,
    D width, K classes.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from vidgraph.models.frame_stream import FrameStream
from vidgraph.records import InputSpec


class MeanLSTM(nn.Module):
    """Stem, mean over the map, LSTM over the frames, classifier on its last state (the RSTG paper's
    "Mean + LSTM").

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: clip to feature map, with `out_channels`.
        width: of the LSTM (D).
        num_classes: classes of the last layer.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        in_channels: int,
        width: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.pixels, self.stem = pixels, stem
        self.lstm = nn.LSTM(in_channels, width, batch_first=True)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, num_classes]."""
        # Pixels to one vector per frame: [B, T, C]
        frames = self.stem(self.pixels(video)).mean(dim=(3, 4)).transpose(1, 2)
        # Through time: [B, T, D]
        hidden, _ = self.lstm(frames)
        # One score per class, from the last frame: [B, num_classes]
        logits: Tensor = self.classifier(hidden[:, -1])
        return logits


class ConvLSTM(nn.Module):
    """Stem, convolutions that take each frame's map to one vector, LSTM over the frames, classifier
    on its last state ("Conv + LSTM").

    Where `MeanLSTM` averages the map, two convolutions are learned: the first halves it, the second
    is as large as what is left, so that the vector can say where in the frame something is. The
    paper gives neither their number nor their widths; these are ours. Not to be mixed up with the
    LSTM whose gates are convolutions, which goes by a similar name.

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: clip to feature map, with `out_channels` and `map_size`.
        conv_width: channels of both convolutions (C').
        width: of the LSTM (D).
        num_classes: classes of the last layer.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        conv_width: int,
        width: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.pixels, self.stem = pixels, stem
        self.reduce = _map_to_vector(
            cast(int, stem.out_channels), conv_width, cast(tuple[int, int], stem.map_size)
        )
        self.lstm = nn.LSTM(conv_width, width, batch_first=True)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, num_classes]."""
        # Pixels to a feature map per frame: [B, C, T, H, W]
        features = self.stem(self.pixels(video))
        # Each frame's map to one vector that keeps places apart: [B, T, C']
        batch, frames = features.shape[0], features.shape[2]
        vectors = self.reduce(features.transpose(1, 2).flatten(0, 1)).reshape(batch, frames, -1)
        # Through time: [B, T, D]
        hidden, _ = self.lstm(vectors)
        # One score per class, from the last frame: [B, num_classes]
        logits: Tensor = self.classifier(hidden[:, -1])
        return logits


class RecurrentStream(FrameStream):
    """One stream of LRCN: an image network on every image, LSTM over them, and the mean of the
    scores after every step.

    Source: Long-term Recurrent Convolutional Networks (Donahue et al., CVPR 2015), "single-layer
        LSTM" after the image network. Its image
    network ends in a fully connected layer; here the mean of the map takes that layer's place.

    Args:
        pixels: normalisation of the frames or of the flow.
        backbone: images to maps, with `out_channels`.
        width: of the LSTM (D).
        num_classes: classes of the last layer (K).
        dropout: share of the LSTM's inputs and of its outputs that training leaves out.
    """

    def __init__(
        self,
        pixels: nn.Module,
        backbone: nn.Module,
        width: int,
        num_classes: int,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(pixels, backbone)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(self.out_channels, width, batch_first=True)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Frames [B, C, T, H, W] or flow [B, T, S, 2 L, H, W] to logits [B, K]."""
        # Every image to one vector: [B, T, C']
        images = self.dropout(self.maps(clip).mean(dim=(3, 4)))
        # Through time: [B, T, D]
        hidden, _ = self.lstm(images)
        # One score per class and step, and the mean over steps: [B, K]
        scores: Tensor = self.classifier(self.dropout(hidden))
        return scores.mean(dim=1)


def _map_to_vector(in_channels: int, width: int, map_size: tuple[int, int]) -> nn.Sequential:
    """Two convolutions with batch norm and ReLU: [B, C, H, W] to [B, C', 1, 1]."""
    halved = ((map_size[0] + 1) // 2, (map_size[1] + 1) // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, halved, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
