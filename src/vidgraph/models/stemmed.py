"""A clip network that stands on a per-frame stem, so that it starts from the stem that other models
start from.

Shapes: B batch, C channels, T frames, H W map.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from vidgraph.records import InputSpec


class StemmedClassifier(nn.Module):
    """Stem, backbone over the stem's maps, mean over space and time, classifier.

    Stem and backbone have names of their own (`PooledClassifier` has one for both), so that the
    stem alone can be loaded, frozen, or keep its statistics.

    Args:
        input_spec: what the model eats.
        pixels: pixel normalisation.
        stem: clip to feature map.
        backbone: that map to another, with `out_channels`.
        num_classes: classes of the last layer.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        pixels: nn.Module,
        stem: nn.Module,
        backbone: nn.Module,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.pixels, self.stem, self.backbone = pixels, stem, backbone
        self.classifier = nn.Linear(cast(int, backbone.out_channels), num_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Clips [B, C, T, H, W], uint8 or in [0, 1], to logits [B, num_classes]."""
        # Pixels to one map per frame: [B, C, T, H, W]
        frames = self.stem(self.pixels(video))
        # Maps through space and time together: [B, C', T', H', W']
        features = self.backbone(frames)
        # Mean over frames and map, then one score per class: [B, num_classes]
        logits: Tensor = self.classifier(features.mean(dim=(2, 3, 4)))
        return logits
