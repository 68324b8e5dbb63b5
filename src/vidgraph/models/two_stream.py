"""Frames and optical flow, each through a network of its own: two streams, Temporal Segment
Networks and LRCN.

Shapes: B batch, C D channels, T frames, S flow stacks at each frame, L flow frames per stack, H W
    pixels, h w map, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vidgraph.backbones.base import Backbone
from vidgraph.models.base import Boxes, Clip, Head, HeadInput, VideoModel, check_inputs
from vidgraph.models.normalize import Normalize
from vidgraph.records import InputSpec, Share, options


@options
class SegmentsOptions:
    """The head of Temporal Segment Networks.

    Attributes:
        dropout: share of the pooled channels that training leaves out.
    """

    dropout: Share = 0.8
    type: Literal["segments"] = "segments"

    def build(self, on: HeadInput) -> SegmentsHead:
        return SegmentsHead(on.channels, on.num_classes, self)


class SegmentsHead(nn.Module):
    """Every image is classified by itself, and their scores are averaged before any softmax.

    Source: Temporal Segment Networks (Wang et al., ECCV 2016), its average consensus; with one
        segment, the head of Two-Stream Convolutional Networks.
    """

    def __init__(self, in_channels: int, num_classes: int, options: SegmentsOptions) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        start_small(self.classifier)

    def forward(self, features: Tensor, regions: Boxes = None) -> Tensor:
        """[B, D, T, h, w] to logits [B, K]."""
        # Every image to the mean of its map: [B, T, D]
        pooled = features.mean(dim=(3, 4)).transpose(1, 2)
        # One score per class and image, and the mean over images: [B, K]
        scores: Tensor = self.classifier(self.dropout(pooled))
        return scores.mean(dim=1)


def start_small(classifier: nn.Linear) -> None:
    """Normal of deviation 0.001, bias zero, as in the code of Temporal Segment Networks."""
    nn.init.normal_(classifier.weight, std=0.001)
    nn.init.zeros_(classifier.bias)


class Stream(nn.Module):
    """normalize -> backbone -> head, of frames or of flow; the pyramid's streams have no head.

    A flow stack is an image whose channels are its flow frames: one network sees all stacks, so
    that their number changes no weights.
    """

    def __init__(self, normalize: Normalize, backbone: Backbone, head: Head | None = None) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone: Backbone = backbone
        self.head: Head | None = head

    def forward_features(self, clip: Tensor) -> Tensor:
        """Video to [B, D, T, h, w]; flow [B, T, S, 2 L, H, W] to [B, D, T * S, h, w]."""
        if clip.dim() == 6:
            clip = clip.flatten(1, 2).transpose(1, 2)  # [B, 2 L, T * S, H, W]
        return self.backbone(self.normalize(clip))

    def forward(self, clip: Tensor) -> Tensor:
        """Video [B, C, T, H, W] or flow [B, T, S, 2 L, H, W] to logits [B, K]."""
        assert self.head is not None
        return self.head(self.forward_features(clip))


class TwoStream(VideoModel):
    """Each stream is scored by itself, and the weighted mean taken ("late fusion"); or one alone.

    Sources: Two-Stream Convolutional Networks (Simonyan and Zisserman, NIPS 2014); with segments,
        Temporal Segment Networks; with a `MeanLSTMHead`, Long-term Recurrent Convolutional Networks
        (Donahue et al., CVPR 2015). Each stream is trained on a loss of its own, as if the other
        were not there.

    Args:
        spec: which clips it takes.
        num_classes: of both streams (K).
        frames: of video; None without.
        flow: of flow; None without.
        flow_weight: of the scores of flow, where those of frames have 1.
    """

    def __init__(
        self,
        spec: InputSpec,
        num_classes: int,
        frames: Stream | None,
        flow: Stream | None,
        flow_weight: float,
    ) -> None:
        super().__init__(spec, num_classes)
        self.frames, self.flow, self.flow_weight = frames, flow, flow_weight

    def forward(self, video: Clip = None, flow: Clip = None, regions: Boxes = None) -> Tensor:
        """See `VideoModel.forward`."""
        # Each stream by itself, [B, K], and its weight in the mean
        scores = [(weight, stream(clip)) for weight, stream, clip in self._streams(video, flow)]
        # Their weighted mean: [B, K]
        total = sum(weight for weight, _ in scores)
        return torch.stack([weight / total * logits for weight, logits in scores]).sum(dim=0)

    def training_logits(
        self, video: Clip = None, flow: Clip = None, regions: Boxes = None
    ) -> list[tuple[float, Tensor]]:
        """Those of every stream that learns, [B, K] each, with weight 1."""
        streams = [(stream, clip) for _, stream, clip in self._streams(video, flow)]
        learning = [part for part in streams if any(p.requires_grad for p in part[0].parameters())]
        return [(1.0, stream(clip)) for stream, clip in learning or streams]

    def _streams(self, video: Clip, flow: Clip) -> list[tuple[float, Stream, Tensor]]:
        """Weight, stream and clip of the streams that there are."""
        check_inputs(self.spec, video, flow, None)
        found = []
        if self.frames is not None and video is not None:
            found.append((1.0, self.frames, video))
        if self.flow is not None and flow is not None:
            found.append((self.flow_weight, self.flow, flow))
        return found
