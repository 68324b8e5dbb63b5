"""Features collected while scoring: which vectors, averaged over views and frames, in the order of
the data set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from closeness import assert_close_to_scale

from vidgraph.evaluation.features import FeatureRecorder
from vidgraph.evaluation.inference import evaluate
from vidgraph.models.build import create_model
from vidgraph.records import ClipBatch

SIDE = 32


def batch(model: Any, rows: list[int], seed: int) -> ClipBatch:
    generator, spec, count = torch.Generator().manual_seed(seed), model.input_spec, len(rows)
    video = torch.randint(
        0, 256, (count, 3, spec.num_frames, SIDE, SIDE), dtype=torch.uint8, generator=generator
    )
    shape = (count, spec.num_frames, spec.num_stacks, 2 * spec.flow_length, SIDE, SIDE)
    flow = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    index = torch.tensor(rows)
    return ClipBatch(
        video, index % 3, index, torch.zeros(count, spec.num_frames, dtype=torch.int64), flow=flow
    )


def recorded(model: Any, batches: list[ClipBatch]) -> tuple[np.ndarray, np.ndarray]:
    recorder = FeatureRecorder()
    with recorder.watching(model):
        scores = evaluate(model, recorder.passing(batches), class_names=["a", "b", "c"], chunk=2)
    assert scores.n == len({row for b in batches for row in b.index.tolist()})
    return recorder.features()


def test_views_of_a_sample_are_averaged_in_the_order_of_the_data_set() -> None:
    torch.manual_seed(0)
    model: Any = create_model("stpyramid_small", 3, size=SIDE, flow_length=2, width=24).eval()
    batches = [batch(model, [2, 0, 2], 0), batch(model, [1, 0], 1)]
    features, labels = recorded(model, batches)
    assert labels.tolist() == [0, 1, 2]
    with torch.no_grad():
        vectors = [model.vectors(*model.maps(b.video, b.flow)) for b in batches]
        fused = torch.cat(
            [
                model.stream_fusion(*(v[name] for name in ("visual", "attention", "motion")))
                for v in vectors
            ]
        )
    expected = torch.stack([(fused[1] + fused[4]) / 2, fused[3], (fused[0] + fused[2]) / 2])
    assert_close_to_scale(torch.from_numpy(features), expected, rel=1e-3)
    assert model._forward_hooks == model.classifier._forward_pre_hooks == {}


def test_streams_stand_side_by_side_and_frames_are_averaged() -> None:
    torch.manual_seed(0)
    model: Any = create_model("two_stream_small", 3, size=SIDE, flow_length=2, num_frames=2).eval()
    own = batch(model, [0, 1], 0)
    features, _ = recorded(model, [own])
    with torch.no_grad():
        expected = torch.cat(
            [
                stream.maps(x).mean((1, 3, 4))
                for stream, x in ((model.spatial, own.video), (model.temporal, own.flow))
            ],
            dim=1,
        )
    assert_close_to_scale(torch.from_numpy(features), expected, rel=1e-3)
