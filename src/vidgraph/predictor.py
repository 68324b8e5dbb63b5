"""From a video file to a prediction and, on request, its explanation: the same frames, pixels and
fusion as evaluation.

Shapes: V views, C channels, T frames of a clip, S flow stacks, L flow frames per stack, h w pixels
of the crop, F frames of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch

from vidgraph.errors import DataError, VideoError, VidgraphError, WeightsError
from vidgraph.evaluation.inference import fuse_views, predict_batch, view_scores
from vidgraph.models.base import ClipModel, VideoModel
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow import FlowJob, FlowSource, flow_as_trained
from vidgraph.records import ClipBatch, Explanation, Prediction
from vidgraph.util import check_target
from vidgraph.video.array_video import ArrayVideo
from vidgraph.video.reader import Frames, open_video
from vidgraph.video.sampling import SpanError
from vidgraph.video.transforms import move_pixels
from vidgraph.video.views import ViewPlan, read_flow_views, read_views
from vidgraph.weights import from_pretrained

REFERENCE = "reference.safetensors"  # in the run folder of a training on one's own clips
SAVE_SUFFIXES = {".mp4": "overlay video", ".html": "report"}
_PICTURE_SIDE = 512  # shorter side that pictures are read at, where the video has it
_READ_AT_ONCE = 32  # frames of a picture held at the video's own size


def load_predictor(
    name: str | Path,
    *,
    views: int = 1,
    boxes: str | Path | None = None,
    flow: str | Path | None = None,
    device: str | None = None,
) -> Predictor:
    """A predictor of saved weights, which looks at a video as its run folder says.

    Crops are left to evaluation: an answer for one video should not cost as much as a measurement.

    Args:
        name: what `from_pretrained` takes.
        views: clips per video, spread evenly over it, whose scores are fused.
        boxes: a store of boxes, for models that take them.
        flow: a store of optical flow, for models that take it; None: computed now.
        device: `cpu`, `cuda`, or None for a GPU if there is one.

    Raises:
        VidgraphError: weights or stores that do not exist or do not fit together.
    """
    model, plan = from_pretrained(name), replace(_run_plan(Path(name)), num_views=views)
    spec = model.spec
    stores = (("--boxes", boxes, spec.boxes_per_frame), ("--flow", flow, spec.flow_length))
    for option, store, takes in stores:
        if store is not None and not takes:
            raise VidgraphError(f"{option} {store}: {name} takes no {option[2:]}; leave it out")
    found = None if boxes is None else BoxStore(boxes)
    trained = flow_as_trained(name, flow) if spec.flow_length else None
    reference = Reference.load(Path(name))
    return Predictor(model, plan, device, boxes=found, flow=trained, reference=reference)


def _run_plan(folder: Path) -> ViewPlan:
    """How a run folder says that videos are looked at."""
    if not (folder / "recipe.yaml").is_file():
        return ViewPlan()
    from vidgraph.config import load_recipe

    return load_recipe(folder).eval.single()


class Reference(NamedTuple):
    """What a recogniser was trained on, to say what is unlike it; see `own_clips.review`.

    Attributes:
        features: pooled, of the training clips, [n, D].
        threshold: cosine distance to the nearest of them from which a clip is unlike them.
        temperature: logits are divided by it, so that probabilities are as sure as they may be.
        mirrored: it was trained on mirrored clips too, and scores are the mean of both.
    """

    features: torch.Tensor
    threshold: float
    temperature: float
    mirrored: bool

    @classmethod
    def load(cls, folder: Path) -> Reference | None:
        """Of a run folder; None where it has none."""
        if not (folder / REFERENCE).is_file():
            return None
        tensors = safetensors.torch.load_file(folder / REFERENCE)
        threshold, temperature = float(tensors["threshold"]), float(tensors["temperature"])
        return cls(tensors["features"], threshold, temperature, bool(tensors["mirrored"]))

    def notes(self, pooled: torch.Tensor) -> list[str]:
        """Whether a clip with these pooled features, [D], is like the training clips."""
        cosines = torch.nn.functional.cosine_similarity(self.features, pooled.cpu()[None], dim=1)
        if 1 - float(cosines.max()) <= self.threshold:
            return []
        return ["This clip is unlike the clips it was trained on; do not trust the answer."]


class Predictor:
    """A model, ready to be shown videos.

    Args:
        model: what `create_model` or `from_pretrained` gives, or the name of saved weights, such as
            a run folder, which then also says how videos are looked at.
        plan: which views of a video are taken, and how they are fused.
        device: where it runs; None: a GPU if there is one.
        multi_label: classes are independent (sigmoid) rather than exclusive (softmax); None: as the
            model was trained.
        batch_size: most views in one forward pass.
        boxes: the regions of every frame of the videos; needed by models that take boxes.
        flow: the optical flow of the videos; where a model takes it and none is given, it is
            computed.
        reference: what it was trained on; of a run folder it is read.

    Raises:
        DataError: the model takes boxes, and there are none.
    """

    def __init__(
        self,
        model: VideoModel | str | Path,
        plan: ViewPlan | None = None,
        device: torch.device | str | None = None,
        *,
        multi_label: bool | None = None,
        batch_size: int = 8,
        boxes: BoxStore | None = None,
        flow: FlowSource | None = None,
        reference: Reference | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            folder = Path(model)
            model, plan = from_pretrained(folder), plan or _run_plan(folder)
            reference = Reference.load(folder)
        plan, self.reference = plan or ViewPlan(), reference
        if reference is not None and reference.mirrored:
            plan = replace(plan, mirrored=True, fusion="logits")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.spec, self.plan, self.batch_size = model.spec, plan, batch_size
        self.multi_label = model.multi_label if multi_label is None else multi_label
        self.plan.crop_shape(self.spec)
        if self.spec.boxes_per_frame and boxes is None:
            takes = f"the model takes {self.spec.boxes_per_frame} boxes per frame"
            how = "make one with vidgraph extract proposals, and name it with --boxes"
            raise DataError(f"{takes}, and no store of boxes is given; {how}")
        self._boxes = boxes if self.spec.boxes_per_frame else None
        self._flow = (flow or FlowJob()) if self.spec.flow_length else None

    def predict(self, path: Frames, explain: bool = False) -> Prediction:
        """Recognises one video.

        With several clips, `frame_indices` and the explanation hold their frames one clip after
        another. With several crops, the explanation is of the middle one.

        Args:
            path: a video file, a folder of images, or frames: uint8 [T, H, W, 3] or a list of them.
            explain: also say why, which runs the network once more.

        Raises:
            VideoError: the file is missing or unreadable, or a frame cannot be decoded.
            DataError: its boxes or its flow are absent from the store, or not usable.
            WeightsError: the model's output is not finite.
        """
        source, path = path, path if isinstance(path, str | Path) else ArrayVideo.path
        logits, pooled, frame_indices, explanations, num_boxes = [], [], list[int](), [], 0
        for batch in self._clips(source, path):
            if self.reference is not None:
                batch.features = self._features(batch)
                pooled.append(batch.features[:1].float().mean(dim=(2, 3, 4)))  # not mirrored
            logits.append(predict_batch(self.model, batch, self.device, self.batch_size))
            frame_indices += batch.frame_indices[0].tolist()
            num_boxes += 0 if batch.regions is None else int((batch.regions.scores > 0).sum())
            if explain:
                view = replace(batch, features=None).part(self.plan.middle, self.plan.middle + 1)
                view = view.to(self.device)
                explanations += self.model.explain(**view.inputs(self.spec))
        scores = torch.cat(logits)  # [clips * V, num_classes]
        if not torch.isfinite(scores).all():
            raise WeightsError(f"{path}: the model's output is not finite; are its weights sound?")
        how, notes = (self.multi_label, self.plan.fusion), list[str]()
        if self.reference is not None:
            scores = scores / self.reference.temperature
            notes = self.reference.notes(torch.cat(pooled).mean(dim=0))
        return Prediction(
            video=str(path),
            class_names=self.model.class_names or [f"class {k}" for k in range(scores.shape[1])],
            probabilities=fuse_views(view_scores(scores, *how), *how).float(),
            frame_indices=frame_indices,
            explanation=Explanation.joined(explanations) if explanations else None,
            notes=[
                *notes,
                *self._notes(str(path), frame_indices[: self.spec.num_frames], num_boxes),
            ],
        )

    def _features(self, batch: ClipBatch) -> torch.Tensor:
        """The maps of clips, [V, D, T', H', W']."""
        assert isinstance(self.model, ClipModel)
        with torch.inference_mode():
            return self.model.forward_features(batch.video.to(self.device))

    def frames_seen(self, prediction: Prediction) -> np.ndarray:
        """What the model saw, one per entry of `prediction.frame_indices`: uint8 [F, H, W, 3].

        In colour, and up to 512 pixels where the video has them, whatever the model's own size.
        """
        return np.stack(list(self._read_pictures(prediction.video, prediction.frame_indices)))

    def save(
        self,
        prediction: Prediction,
        target: str | Path,
        model_name: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Draws a prediction made with `explain`: `.mp4` an overlay video, `.html` a report.

        Args:
            prediction: of this predictor.
            target: the file; written whole or not at all.
            model_name: shown in the report.
            progress: is called with (frames of the overlay drawn, in all).

        Raises:
            VidgraphError: another suffix, or the file cannot be written.
            VideoError: the video can no longer be read.
        """
        check_save_target(target)
        if Path(target).suffix.lower() == ".html":
            from vidgraph.visualize.report import write_report

            write_report(target, prediction, self.frames_seen(prediction), model_name=model_name)
            return
        from vidgraph.visualize.overlay import write_overlay

        with open_video(prediction.video) as video:
            shown, fps = range(video.num_frames), video.fps
        frames = self._read_pictures(prediction.video, shown)
        write_overlay(target, frames, prediction, fps=fps, frame_numbers=shown, progress=progress)

    def _clips(self, source: Frames, path: str | Path) -> Iterator[ClipBatch]:
        """The views of each clip of a video, one clip in memory at a time."""
        with ExitStack() as stack:
            video = stack.enter_context(open_video(source, folder_fps=self.plan.folder_fps))
            reader = self._flow.reader(path, video) if self._flow else None
            boxes_at = self._boxes.boxes(path).taken_by(self.spec) if self._boxes else None
            for clip in range(self.plan.num_views):
                try:
                    read = read_views(video, self.spec, self.plan, clip, boxes_at=boxes_at)
                    pixels, indices, regions = read  # [V, C, T, h, w], [T], [V, T, K, ...]
                    flow = None  # [V, T, S, 2 L, h, w]
                    if reader is not None:
                        flow = read_flow_views(reader, video, self.spec, self.plan, indices)
                except SpanError as error:
                    raise VideoError(path, str(error)) from error
                yield ClipBatch.unlabelled(pixels, indices, str(path), regions, flow)

    def _notes(self, path: str, first: Sequence[int], num_boxes: int) -> list[str]:
        """What a reader of the prediction must know."""
        notes = []
        if len(used := set(first)) < len(first):
            what = f"{len(used)} different frames were used, some of them repeatedly"
            notes.append(f"The video is shorter than a clip of {len(first)} frames: {what}.")
        if self._boxes is not None and not num_boxes:
            what = "the answer comes from the whole frames alone"
            notes.append(f"There is not a single box in the frames used: {what}.")
        if self._flow is not None and self._flow.is_live:
            name = self._flow.method.name
            notes.append(f"Optical flow was computed now ({name}); --flow is faster.")
        if self._flow is not None:
            with open_video(path) as video:
                num_flow = video.num_frames - 1
            if num_flow < (length := self.spec.flow_length):
                what = f"The video holds {num_flow} flow frames, and a stack takes {length}"
                notes.append(f"{what}: the last one was repeated.")
        if self.model.multi_label and not self.multi_label:
            what = "its scores went through a softmax: they sum to 1"
            notes.append(f"The model was trained on videos with several labels each, but {what}.")
        return notes

    def _read_pictures(self, path: str | Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames cropped as the middle view is, in colour and larger: uint8 [H, W, 3] each."""
        with open_video(path) as video:
            window = self.plan.windows(self.spec, video.height, video.width)[self.plan.middle]
            own, source = min(window.size), min(window.height, window.width)
            scale = max(1, min(math.ceil(_PICTURE_SIDE / own), source // own))
            window = replace(window, size=(window.size[0] * scale, window.size[1] * scale))
            for start in range(0, len(indices), _READ_AT_ONCE):
                frames = video.read(list(indices[start : start + _READ_AT_ONCE]))
                yield from move_pixels(frames, window).permute(1, 2, 3, 0).numpy()


def check_save_target(target: str | Path, videos: Sequence[str | Path] = ()) -> None:
    """Fails early, before a model runs, if a prediction could not be saved there: another suffix,
    one of the `videos` that are predicted, or a file that cannot be written."""
    if Path(target).suffix.lower() not in SAVE_SUFFIXES:
        kinds = " or ".join(f"{suffix} ({kind})" for suffix, kind in SAVE_SUFFIXES.items())
        raise VidgraphError(f"{target}: a prediction is saved as {kinds}; choose one of these")
    check_target(target, videos)
