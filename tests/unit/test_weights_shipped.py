"""Shipped weights, and others of version 0.1: they load by name and score as they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_close_to_scale

import vidgraph
from vidgraph import weights
from vidgraph.models.base import VideoModel
from vidgraph.models.compat import upgrade_tensor
from vidgraph.records import Regions

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "tests" / "golden" / "logits_of_0_1.json").read_text())
FOLDERS = {
    folder.name: folder
    for parent in (ROOT / "src" / "vidgraph" / "shipped", ROOT / "results" / "weights")
    for folder in sorted(parent.iterdir())
    if (folder / "model.safetensors").is_file()
}


def fixed_inputs(model: VideoModel) -> dict[str, Any]:
    """Two clips of coarse noise, as for the stored logits."""
    spec, draw = model.spec, np.random.RandomState(7)
    clip, size = (2, spec.num_frames), (spec.height, spec.width)

    def noise(*shape: int) -> torch.Tensor:
        coarse = draw.randint(0, 256, (*shape[:-2], shape[-2] // 16, shape[-1] // 16))
        return torch.from_numpy(coarse.repeat(16, -2).repeat(16, -1).astype(np.uint8))

    inputs: dict[str, Any] = {}
    if spec.channels:
        inputs["video"] = noise(2, spec.channels, spec.num_frames, *size)
    if spec.flow_length:
        inputs["flow"] = noise(*clip, spec.num_stacks, 2 * spec.flow_length, *size)
    if spec.boxes_per_frame:
        corner = draw.uniform(0, 0.6, (*clip, spec.boxes_per_frame, 2))
        extent = draw.uniform(0.2, 0.4, corner.shape)
        boxes = torch.from_numpy(np.concatenate([corner, corner + extent], -1)).float()
        mask = torch.ones(boxes.shape[:3], dtype=torch.bool)
        mask[1, 0, 0] = False
        inputs["regions"] = Regions(boxes, mask.float(), mask)
    return inputs


@pytest.mark.parametrize("name", STORED)
def test_weights_of_the_first_version_score_as_they_did(name: str) -> None:
    """Every tensor of the file has its place, every tensor of the model is filled, and the first
    logits of two clips are those that version 0.1 gave."""
    model = weights.from_pretrained(FOLDERS[name])
    with torch.inference_mode():
        logits = model(**fixed_inputs(model))[:, :8]
    assert_close_to_scale(logits, torch.tensor(STORED[name]))


def test_shipped_weights_load_by_name() -> None:
    assert set(weights.list_shipped()) <= set(STORED)
    for name in weights.list_shipped():
        model = vidgraph.from_pretrained(name)
        assert (weights.SHIPPED / name / "card.md").is_file()
        assert model.class_names is not None
        assert len(model.class_names) == model.num_classes
        assert (weights.SHIPPED / name / "model.safetensors").stat().st_size < 5e6
    assert vidgraph.list_models(pretrained=True) == weights.list_shipped()
    assert "rstg_small" in vidgraph.list_models()


def test_names_of_tensors_become_todays() -> None:
    for architecture, old, new in (
        ("i3d_r50", "stem.res2.0.a_norm.weight", "backbone.layer1.0.bn1.weight"),
        ("i3d_r50", "stem.res5.0.shortcut.weight", "backbone.layer4.0.downsample.0.weight"),
        ("i3d_nl_r50", "stem.after.res3_1.out_norm.bias", "backbone.inserted.layer2_1.out_norm.b"),
        ("i3d_digits_small", "backbone.stem.conv.weight", "backbone.resnet3d.conv1.weight"),
        ("i3d_digits_small", "stem.layers.0.weight", "backbone.layers.0.weight"),
        ("rstg_small", "graph.create.standardise.bias", "head.graph.extras.standardise.bias"),
        ("rstg_c2d_r50", "on_top.norm.weight", "head.rstg.norm.weight"),
    ):
        assert upgrade_tensor(old, architecture).startswith(new)
