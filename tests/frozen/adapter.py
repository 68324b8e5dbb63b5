"""All that the frozen tests know of the package.

Whoever renames or moves a part of it edits this file, and never a stored value.

Names here are those of version 0.1: weights and options that it wrote must go on loading. What only
one function needs is imported there, so that a part that has moved fails alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model
from vidgraph.models.compat import upgrade_input, upgrade_options, upgrade_tensor
from vidgraph.records import ClipBatch, Regions

# ---- models ------------------------------------------------------------------------------------

_CLIP = {"num_frames": 4, "size": 64}
_LONG_CLIP = {"num_frames": 16, "size": 64}
_SNIPPETS = {"size": 64, "flow_length": 2}
_PYRAMID = {**_SNIPPETS, "num_snippets": 2, "snippet_width": 64, "guidance_width": 48, "width": 96}
_DIGITS: dict[str, Any] = {}

# The flat options of version 0.1 under which a forward pass of each architecture is cheap.
OPTIONS: dict[str, dict[str, Any]] = {
    "rstg_syncmnist": {"width": 32},
    "rstg_small": {"width": 32},
    "mean_lstm": {"width": 32},
    "mean_lstm_small": _DIGITS,
    "conv_lstm": {"width": 32, "conv_width": 24},
    "conv_lstm_small": _DIGITS,
    "i3d_digits": {"width": 8},
    "i3d_digits_small": _DIGITS,
    "i3d_nl_digits": {"width": 8},
    "i3d_nl_digits_small": _DIGITS,
    "digit_stem": _DIGITS,
    "c2d_r50": _CLIP,
    "c2d_r101": _LONG_CLIP,
    "i3d_r50": _CLIP,
    "i3d_r101": _LONG_CLIP,
    "i3d_nl_r50": _CLIP,
    "i3d_nl_r101": _LONG_CLIP,
    "i3d_small": _CLIP,
    "rstg_i3d_r50": {**_CLIP, "width": 32},
    "rstg_c2d_r50": {**_CLIP, "width": 32},
    "rstg_i3d_small": {**_CLIP, "width": 16},
    "strg_i3d_r50": {**_CLIP, "width": 64, "boxes_per_frame": 6, "non_local": True},
    "strg_i3d_r101": {**_LONG_CLIP, "width": 64, "boxes_per_frame": 6},
    "strg_small": {**_CLIP, "width": 32, "boxes_per_frame": 6},
    "strg_digits_small": {"width": 32},
    "stpyramid_bn_inception": _PYRAMID,
    "stpyramid_r50": _PYRAMID,
    "stpyramid_vgg16": _PYRAMID,
    "stpyramid_small": _PYRAMID,
    "two_stream_bn_inception": _SNIPPETS,
    "two_stream_vgg16": _SNIPPETS,
    "two_stream_small": _SNIPPETS,
    "lrcn_bn_inception": {"num_frames": 3, "size": 64, "width": 32},
    "lrcn_small": {"num_frames": 3, "size": 64, "width": 32},
}


def build(architecture: str, num_classes: int, options: Mapping[str, Any]) -> VideoModel:
    name, overrides = upgrade_options(architecture, options)
    return create_model(name, num_classes, **overrides)


def build_empty(architecture: str) -> VideoModel:
    """At its own size, without values."""
    with torch.device("meta"):
        return create_model(upgrade_options(architecture, {})[0])


def same_input(model: VideoModel, spec: Mapping[str, Any]) -> bool:
    """Whether a model takes the clips that the `input_spec` of a config.json of 0.1 says."""
    here = asdict(model.spec)
    if model.spec.whole_video:  # the rate is then of no account
        here |= {"stride_frames": None, "sample_fps": None}
    return here == {**upgrade_input(spec), "fit": "crop", "box_crops": False}


def ramp_fill(
    model: VideoModel, architecture: str, keys: Mapping[str, Sequence[int]]
) -> VideoModel:
    """Fills a model with weights that depend on nothing but the keys and shapes of version 0.1.

    Every tensor must find its place, and every tensor of the model must get one.
    """
    state = {
        upgrade_tensor(key, architecture): _ramp(key, shape)
        for key, shape in keys.items()
        if not _is_own(key)
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(map(_is_own, missing)), missing
    return model


def _is_own(key: str) -> bool:
    """Whether a tensor is one that 0.1 did not save, or drew from a seed for a count sketch."""
    return "normalize." in key or key.rpartition(".")[2].startswith(("buckets_", "signs_"))


def _ramp(key: str, shape: Sequence[int]) -> torch.Tensor:
    """Values from the key, scaled by name and shape: variances and gains about 1, biases small."""
    # A stream that NumPy keeps for ever
    unit = np.random.RandomState(zlib.crc32(key.encode())).uniform(-1, 1, tuple(shape))
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    if len(shape) > 1:
        values = unit * (4.5 / np.prod(shape[1:])) ** 0.5
    elif leaf in ("weight", "running_var"):
        values = 1 + 0.2 * unit
    else:
        values = 0.1 * unit
    return torch.from_numpy(np.asarray(values, np.float32))


def random_batch(model: VideoModel, seed: int, batch: int, num_classes: int) -> ClipBatch:
    """Noise in the shapes that a model takes; its sides are multiples of 16."""
    spec, draw = model.spec, np.random.RandomState(seed)
    size, frames = (spec.height, spec.width), (batch, spec.num_frames)

    def noise(*shape: int) -> torch.Tensor:
        """Coarse squares, so that clips differ by more than their grain, and grain."""
        coarse = draw.randint(0, 256, (*shape[:-2], shape[-2] // 16, shape[-1] // 16))
        mixed = 3 * coarse.repeat(16, -2).repeat(16, -1) + draw.randint(0, 256, shape)
        return torch.from_numpy((mixed // 4).astype(np.uint8))

    label = torch.from_numpy(draw.randint(0, num_classes, batch))
    video = noise(batch, max(1, spec.channels), frames[1], *size)
    flow = regions = None
    if length := spec.flow_length:
        flow = noise(*frames, spec.num_stacks, 2 * length, *size)
    if count := spec.boxes_per_frame:
        corner = draw.uniform(0, 0.6, (*frames, count, 2))
        corners = [corner, corner + draw.uniform(0.2, 0.4, corner.shape)]
        boxes = torch.from_numpy(np.concatenate(corners, axis=-1)).float()
        mask = torch.from_numpy(draw.uniform(size=boxes.shape[:3]) < 0.8)
        regions = Regions(boxes * mask[..., None], mask.float(), mask)
    indices = torch.arange(frames[1]).expand(frames)
    return ClipBatch(video, label, torch.arange(batch), indices, [""] * batch, regions, flow)


def logits_of(model: VideoModel, batch: ClipBatch) -> np.ndarray:
    """[B, num_classes]."""
    with torch.inference_mode():
        logits: np.ndarray = model.eval()(**batch.inputs(model.spec)).numpy()
    return logits


# ---- training ----------------------------------------------------------------------------------

# A signed square root has no finite slope at 0.
_NO_ROOTS = {"snippet_post": "none", "guidance_post": "l2", "stream_post": "l2"}
_SMALL_STEPS = {"lr": 2e-5, "weight_decay": 1e-2, "clip_norm": 5}
_FROZEN = {"norm": "frozen_statistics", "dropout": 0.0}
# One row of each family: options of its model, and what its recipe says of its training. What lets
# losses jump with the rounding of a processor is left out or small: dropout, whose draws may also
# come in another order; statistics of a few values; long steps.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rstg_small": ({"width": 32}, {"lr": 1e-4, "freeze": ["stem."], "clip_norm": 1.0}),
    "mean_lstm_small": (
        {},
        {"lr": 1e-4, "freeze": ["stem.layers.0."], "freeze_norms": ["stem."], "clip_norm": 1.0},
    ),
    "i3d_small": ({**_CLIP, **_FROZEN}, _SMALL_STEPS),
    "strg_small": ({**OPTIONS["strg_small"], **_FROZEN}, {**_SMALL_STEPS, "lr": 5e-6}),
    "strg_digits_small": (
        {"width": 32, "graph": "joint"},
        {"lr": 1e-4, "freeze": ["stem."], "clip_norm": 1.0},
    ),
    "stpyramid_small": ({**_PYRAMID, **_NO_ROOTS, "dropout": 0.0}, _SMALL_STEPS),
    "two_stream_small": (
        {**_SNIPPETS, "dropout": 0.0, "flow_dropout": 0.0},
        {
            **{"optimizer": "sgd", "lr": 1e-4, "weight_decay": 5e-4, "clip_norm": 20},
            "lr_factors": {"temporal.": 2.0},
        },
    ),
}


def train_losses(
    model: VideoModel, architecture: str, batches: Sequence[ClipBatch], train: Mapping[str, Any]
) -> list[float]:
    """The loss of one step on each batch: warm-up over the first quarter, then a cosine."""
    from vidgraph.training.losses import training_loss
    from vidgraph.training.optim import begin_phase, build_optimizer, schedule_factor, set_rate
    from vidgraph.training.phases import TrainOptions, plan_phases

    def today(prefix: str) -> str:
        return upgrade_tensor(prefix, architecture)

    own = {
        key: train[key] for key in ("optimizer", "lr", "weight_decay", "clip_norm") if key in train
    }
    own |= {
        key: [today(prefix) for prefix in train.get(key, [])] for key in ("freeze", "freeze_norms")
    }
    factors = {today(prefix): value for prefix, value in train.get("lr_factors", {}).items()}
    size, length = len(batches[0]), sum(map(len, batches))
    lengths = {"clips": length, "batch_size": size, "warmup_clips": length // 4}
    (phase,) = plan_phases(TrainOptions(**own, lr_factors=factors, **lengths), length)
    begin_phase(model, list(model.parameters()), phase.options)
    optimizer, losses = build_optimizer(model, phase.options), []
    for step, batch in enumerate(batches):
        set_rate(optimizer, schedule_factor(phase.options, step * size, length))
        loss, _ = training_loss(model, batch, model.spec)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train["clip_norm"])
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# ---- videos, stores, the command ---------------------------------------------------------------


def decoded_frames(path: Path) -> Iterator[tuple[int, float, np.ndarray]]:
    """(index, seconds, pixels [H, W, 3]) of every frame of a video."""
    from vidgraph.video.reader import open_video

    with open_video(path) as video:
        times = video.timestamps_seconds
        for index, pixels in enumerate(video.frames()):
            yield index, float(times[index]), pixels
        assert video.num_frames == len(times) == index + 1


def command(*words: object) -> str:
    """What the command prints."""
    from vidgraph.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([str(word) for word in words])
    assert code == 0, f"vidgraph {' '.join(map(str, words))}: exit code {code}"
    return out.getvalue()


def evaluate(name: str, num_digits: int, shared: Path) -> Any:
    """`eval --json` of shipped weights on the first 200 test clips of synchronous digits."""
    data: dict[str, object] = {"digits": shared / "data" / "mnist", "test_clips": 200}
    if num_digits == 5:
        data["test_paths"] = shared / "data" / "rstg" / "predefined_path_test.npz"
    words = [word for key, value in data.items() for word in (f"--data.syncmnist.{key}", value)]
    how = ["--device", "cpu", "--json"]
    return json.loads(command("eval", name, "--data", f"syncmnist{num_digits}", *words, *how))


def predict(name: str, videos: Path) -> Any:
    """`predict --json` of a folder of videos, which are named without their folder."""
    records = json.loads(command("predict", name, videos, "--json"))
    return [{**record, "video": Path(record["video"]).name} for record in records]


def make_digit_videos(folder: Path, num_digits: int) -> Path:
    """A folder of six files with digits that move."""
    words = ["--digits", "embedded", "--num-digits", num_digits]
    counts = ["--train", 0, "--val", 0, "--test", 6]
    command("data", "make", "syncmnist", "--out", folder, *words, *counts)
    return folder / "test"


def stored_boxes(videos: Sequence[Path], folder: Path) -> list[dict[str, np.ndarray]]:
    """What moves in every fourth frame: boxes [T, 10, 4] as fractions, scores and mask [T, 10]."""
    from vidgraph.precompute.boxes import BoxStore

    words = ["--source", "motion", "--every", 4, "--out", folder, "--workers", 1]
    command("extract", "proposals", *videos, *words)
    store, found = BoxStore(folder), []
    for video in videos:
        boxes = store.boxes(video)
        found.append(boxes.at(range(0, boxes.header.num_frames, 4), 10)._asdict())
    return found


def stored_flow(videos: Sequence[Path], folder: Path) -> list[np.ndarray]:
    """All fields of each video, uint8 [n, H, W, 2]."""
    from vidgraph.precompute.flow_store import FlowStore

    command("extract", "flow", *videos, "--out", folder, "--workers", 1)
    store = FlowStore(folder)
    return [flow.read(range(flow.num_flow_frames)) for flow in map(store.reader, videos)]
