"""Recurrent baselines: those that RSTG is measured against, and that of the pyramid.

Shapes: B batch, C channels, T frames, S snippets at each frame, L flow fields per snippet, H W map,
    D width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from vidgraph.models.frame_stream import FrameStream


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
