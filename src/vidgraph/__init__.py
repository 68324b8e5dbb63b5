"""vidgraph: action recognition by reasoning over a space-time graph of a video's regions.

import vidgraph

result = vidgraph.train("clips/")                          # one folder of videos per class
vidgraph.Predictor("runs/clips").predict("new.mp4").top()
model = vidgraph.create_model("rstg_small", num_classes=46)
model = vidgraph.from_pretrained("runs/syncmnist3")        # a run folder, shipped, or on the hub
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidgraph.models.build import create_model
    from vidgraph.own_clips.training import train
    from vidgraph.predictor import Predictor
    from vidgraph.weights import from_pretrained

__version__ = "0.1.0"
__all__ = ["Predictor", "create_model", "from_pretrained", "list_models", "train"]

_HOMES = {
    "Predictor": "vidgraph.predictor",
    "create_model": "vidgraph.models.build",
    "from_pretrained": "vidgraph.weights",
    "train": "vidgraph.own_clips.training",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that importing the package costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vidgraph' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def list_models(pretrained: bool = False) -> list[str]:
    """Names that `create_model` builds; with `pretrained`, of the weights that are shipped."""
    from vidgraph import weights
    from vidgraph.models import build

    return weights.list_shipped() if pretrained else build.list_models()
