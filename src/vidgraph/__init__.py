"""vidgraph: action recognition by reasoning over a space-time graph of a video's regions.

import vidgraph

vidgraph.list_models()                                     # architectures
model = vidgraph.create_model("rstg_small", num_classes=46)
model = vidgraph.from_pretrained("runs/syncmnist3")        # a run folder, shipped weights, or a
model on the hub
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vidgraph.models.base import VideoModel

__version__ = "0.1.0"
__all__ = ["create_model", "from_pretrained", "list_models"]

# The functions below import what they need when they are called, so that importing the package
# costs no more than importing torch.


def create_model(
    name: str,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    **overrides: Any,
) -> VideoModel:
    """A model with fresh weights; see `vidgraph.models.build.create_model`."""
    from vidgraph.models import build as catalogue

    return catalogue.create_model(name, num_classes, class_names, **overrides)


def from_pretrained(
    name: str | Path,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> VideoModel:
    """A model with its weights, in evaluation mode; see `vidgraph.weights.from_pretrained`."""
    from vidgraph import weights

    return weights.from_pretrained(name, num_classes, class_names, device=device)


def list_models(pretrained: bool = False) -> list[str]:
    """Names that `create_model` builds; with `pretrained`, of the weights that are shipped."""
    from vidgraph import weights
    from vidgraph.models import build as catalogue

    return weights.list_shipped() if pretrained else catalogue.list_models()
