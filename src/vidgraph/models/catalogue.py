"""What there is to build models of, in rows for a person: heads and backbones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from vidgraph.backbones.image import INSTALLED, FrameByFrame
from vidgraph.models.base import HeadInput
from vidgraph.models.published import NAMED, ModelOptions
from vidgraph.records import InputSpec


class Listed(NamedTuple):
    """A row.

    Attributes:
        name: as it is written where it is used.
        takes: its input.
        megabytes: of its weights; None where that depends on the name.
        license: of its weights, or what else there is to know.
    """

    name: str
    takes: str
    megabytes: float | None = None
    license: str = ""


def list_heads() -> list[Listed]:
    """The heads that go on any backbone, of the size that they have for 10 classes on the maps of
    EfficientNet-Lite0."""
    backbone, rows = FrameByFrame(nn.Identity(), 1280, 32), []
    for name, (network, classes) in NAMED.items():
        if classes is None and isinstance(network, ModelOptions):
            with torch.device("meta"):
                head = network.head.build(HeadInput(backbone, (7, 7), 10))
            megabytes = sum(4e-6 * parameter.numel() for parameter in head.parameters())
            boxes = network.input.boxes_per_frame
            rows.append(Listed(name, "maps and boxes" if boxes else "maps", megabytes))
    return rows


def list_backbones() -> list[Listed]:
    """What `backbone` can be."""
    told = "told when they are fetched"
    return [
        Listed(f"timm:{INSTALLED}", "frames of any size", 18.8, "apache-2.0"),
        Listed("timm:NAME@LEVEL", "frames", None, told),
        Listed("hf:ID", "clips: V-JEPA 2, VideoMAE, ...", None, told),
    ]


def in_words(spec: InputSpec) -> str:
    """Such as `10 frames of 64 x 64, grey`."""
    frames = "frame" if spec.num_frames == 1 else "frames"
    size = f"{spec.num_frames} {frames} of {spec.height} x {spec.width}"
    return size + ("" if spec.channels == 3 else ", grey" if spec.channels else " of flow")
