"""Measures what must not move while the package is rebuilt, and stores it beside the tests.

    python tests/frozen/record.py NAME

NAME is one of `logits`, `losses`, `scores`, `frames`, `stores`; the result is values/NAME.json.
Record again only in a commit that corrects a fault and names the value that changes by it.

values/keys.json holds the names and shapes of the tensors of version 0.1, from which all ramp
weights are made, and values/sizes.json what its architectures were at their own size. Both are of
0.1 and never recorded again, for old weights are loaded by these names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from frozen import adapter

VALUES = Path(__file__).parent / "values"
SHARED = Path(os.environ.get("VIDGRAPH_TEST_DATA", Path(__file__).parents[3] / "shared")).resolve()

NUM_CLASSES = 5
STEPS, BATCH = 20, 4
# Shipped weights and their number of digits
SHIPPED = {"rstg_small_sync3": 3, "rstg_small_sync5": 5, "mean_lstm_small_sync3": 3}
UCF_CLASSES = (
    *("BabyCrawling", "BodyWeightSquats", "BoxingPunchingBag", "JugglingBalls"),
    *("JumpingJack", "Lunges", "Punch", "PushUps"),
)
STORE_VIDEOS = [
    "Punch/v_Punch_g01_c03",
    "JumpingJack/v_JumpingJack_g01_c01",
    "PushUps/v_PushUps_g02_c01",
]


def load(name: str) -> Any:
    return json.loads((VALUES / f"{name}.json").read_text(encoding="utf-8"))


# ---- models ------------------------------------------------------------------------------------


def sizes(model: Any) -> dict[str, Any]:
    """The parameters of a model without their names and order."""
    shapes = sorted(tuple(parameter.shape) for parameter in model.parameters())
    digest = hashlib.sha1(repr(shapes).encode()).hexdigest()
    return {"tensors": len(shapes), "numbers": sum(map(math.prod, shapes)), "sha1": digest}


def ramp_model(name: str, options: dict[str, Any]) -> Any:
    keys = load("keys")[name]
    shapes = {key: [int(n) for n in shape.split("x") if n] for key, shape in keys.items()}
    return adapter.ramp_fill(adapter.build(name, NUM_CLASSES, options), name, shapes)


def logits(name: str) -> list[list[float]]:
    model = ramp_model(name, adapter.OPTIONS[name])
    found = adapter.logits_of(model, adapter.random_batch(model, 0, 2, NUM_CLASSES))
    return [[float(f"{x:.7g}") for x in row] for row in found]


def losses(name: str) -> list[float]:
    options, train = adapter.ROWS[name]
    model = ramp_model(name, options)
    fixed = [adapter.random_batch(model, seed, BATCH, NUM_CLASSES) for seed in range(4)]
    batches = [fixed[step % len(fixed)] for step in range(STEPS)]
    return [float(f"{x:.9g}") for x in adapter.train_losses(model, name, batches, train)]


# ---- videos ------------------------------------------------------------------------------------


def videos(group: str) -> list[Path]:
    """The videos of one group of the test data, sorted; 20 of ucf101_8 are a few of each class."""
    folder = SHARED / "data" / group
    if group != "ucf101_8":
        return sorted(path for path in folder.rglob("*") if path.suffix in (".avi", ".mp4"))
    found = [sorted((folder / name).glob("*.mp4")) for name in UCF_CLASSES]
    picks = [(0, 50, 100)] * 4 + [(20, 80)] * 4
    return [clips[i] for clips, which in zip(found, picks, strict=True) for i in which]


def frames(group: str) -> dict[str, Any]:
    """Size, number of frames, their times, and a SHA-1 over the SHA-1 of every frame, by video."""
    found = {}
    for path in videos(group):
        whole, times, size = hashlib.sha1(), [], set()
        for _, seconds, pixels in adapter.decoded_frames(path):
            whole.update(hashlib.sha1(np.ascontiguousarray(pixels)).digest())
            times.append(seconds)
            size.add("x".join(map(str, pixels.shape)))
        found[path.relative_to(SHARED / "data" / group).as_posix()] = {
            "frames": len(times),
            "size": " ".join(sorted(size)),
            "sha1": whole.hexdigest(),
            "last": round(times[-1], 6),
            "steps": steps(times),
        }
    return found


def steps(times: list[float]) -> list[list[float]]:
    """Times as runs of steps that are equal to half a microsecond, [microseconds, how often]."""
    runs: list[list[float]] = []
    for step in np.diff(times) * 1e6:
        if runs and abs(step - runs[-1][0]) < 0.5:
            runs[-1][1] += 1
        else:
            runs.append([round(float(step), 2), 1])
    return runs


# ---- the command -------------------------------------------------------------------------------


def scores(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        clips = adapter.make_digit_videos(Path(folder) / "digits", SHIPPED[name])
        evaluated = adapter.evaluate(name, SHIPPED[name], SHARED)
        return {"eval": evaluated, "predict": adapter.predict(name, clips)}


def stores(kind: str) -> list[Any]:
    paths = [SHARED / "data" / "ucf101_8" / f"{name}.mp4" for name in STORE_VIDEOS]
    with tempfile.TemporaryDirectory() as folder:
        if kind == "boxes":
            return [
                {key: np.round(value.astype(float), 4).tolist() for key, value in found.items()}
                for found in adapter.stored_boxes(paths, Path(folder) / "boxes")
            ]
        return [
            {"shape": list(flow.shape), "quarters": np.round(quarters(flow), 2).tolist()}
            for flow in adapter.stored_flow(paths, Path(folder) / "flow")
        ]


def quarters(flow: np.ndarray) -> np.ndarray:
    """Means over the quarters of each field, [n, 2, 2, 2] of [n, H, W, 2].

    Single bytes differ by one from processor to processor.
    """
    fields, height, width, _ = flow.shape
    return flow.reshape(fields, 2, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


GROUPS = [
    "sample_videos",
    "torchvision_assets",
    "ut_interaction/set1",
    "ut_interaction/set2",
    "ucf101_8",
]
MEASURED: dict[str, tuple[Callable[[str], Any], list[str]]] = {
    "logits": (logits, list(adapter.OPTIONS)),
    "losses": (losses, list(adapter.ROWS)),
    "scores": (scores, list(SHIPPED)),
    "frames": (frames, GROUPS),
    "stores": (stores, ["boxes", "flow"]),
}


def record(name: str) -> None:
    measure, cases = MEASURED[name]
    lines = [f"{json.dumps(case)}: {json.dumps(measure(case))}" for case in cases]
    VALUES.mkdir(exist_ok=True)
    (VALUES / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1])
