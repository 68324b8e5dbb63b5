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
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vidgraph.errors import DataError, VideoError, VidgraphError, WeightsError
from vidgraph.evaluation.inference import fuse_views, predict_batch, view_scores
from vidgraph.models.base import VideoModel
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.flow import FlowJob, FlowSource, flow_as_trained
from vidgraph.records import ClipBatch, Explanation, Prediction
from vidgraph.util import check_target
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import SpanError
from vidgraph.video.transforms import move_pixels
from vidgraph.video.views import ViewPlan, read_flow_views, read_views
from vidgraph.weights import from_pretrained

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
    model, plan = from_pretrained(name), ViewPlan(num_views=views)
    spec = model.spec
    if (Path(name) / "recipe.yaml").is_file():
        from vidgraph.config import load_recipe

        plan = replace(load_recipe(name).eval.single(), num_views=views)
    stores = (("--boxes", boxes, spec.boxes_per_frame), ("--flow", flow, spec.flow_length))
    for option, store, takes in stores:
        if store is not None and not takes:
            raise VidgraphError(f"{option} {store}: {name} takes no {option[2:]}; leave it out")
    found = None if boxes is None else BoxStore(boxes)
    trained = flow_as_trained(name, flow) if spec.flow_length else None
    return Predictor(model, plan, device, boxes=found, flow=trained)


class Predictor:
    """A model, ready to be shown videos.

    Args:
        model: what `create_model` or `from_pretrained` gives.
        plan: which views of a video are taken, and how they are fused.
        device: where it runs; None: a GPU if there is one.
        multi_label: classes are independent (sigmoid) rather than exclusive (softmax); None: as the
            model was trained.
        batch_size: most views in one forward pass.
        boxes: the regions of every frame of the videos; needed by models that take boxes.
        flow: the optical flow of the videos; where a model takes it and none is given, it is
            computed.

    Raises:
        DataError: the model takes boxes, and there are none.
    """

    def __init__(
        self,
        model: VideoModel,
        plan: ViewPlan | None = None,
        device: torch.device | str | None = None,
        *,
        multi_label: bool | None = None,
        batch_size: int = 8,
        boxes: BoxStore | None = None,
        flow: FlowSource | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.spec, self.plan, self.batch_size = model.spec, plan or ViewPlan(), batch_size
        self.multi_label = model.multi_label if multi_label is None else multi_label
        self.plan.crop_shape(self.spec)
        if self.spec.boxes_per_frame and boxes is None:
            takes = f"the model takes {self.spec.boxes_per_frame} boxes per frame"
            how = "make one with vidgraph extract proposals, and name it with --boxes"
            raise DataError(f"{takes}, and no store of boxes is given; {how}")
        self._boxes = boxes if self.spec.boxes_per_frame else None
        self._flow = (flow or FlowJob()) if self.spec.flow_length else None

    def predict(self, path: str | Path, explain: bool = False) -> Prediction:
        """Recognises one video.

        With several clips, `frame_indices` and the explanation hold their frames one clip after
        another. With several crops, the explanation is of the middle one.

        Args:
            path: a video file, or a folder of images.
            explain: also say why, which runs the network once more.

        Raises:
            VideoError: the file is missing or unreadable, or a frame cannot be decoded.
            DataError: its boxes or its flow are absent from the store, or not usable.
            WeightsError: the model's output is not finite.
        """
        logits, frame_indices, explanations, num_boxes = [], [], [], 0
        for batch in self._clips(path):
            logits.append(predict_batch(self.model, batch, self.device, self.batch_size))
            frame_indices += batch.frame_indices[0].tolist()
            num_boxes += 0 if batch.regions is None else int(batch.regions.mask.sum())
            if explain:
                view = batch.part(self.plan.middle, self.plan.middle + 1).to(self.device)
                explanations += self.model.explain(**view.inputs(self.spec))
        scores = torch.cat(logits)  # [clips * V, num_classes]
        if not torch.isfinite(scores).all():
            raise WeightsError(f"{path}: the model's output is not finite; are its weights sound?")
        how = (self.multi_label, self.plan.fusion)
        return Prediction(
            video=str(path),
            class_names=self.model.class_names or [f"class {k}" for k in range(scores.shape[1])],
            probabilities=fuse_views(view_scores(scores, *how), *how).float(),
            frame_indices=frame_indices,
            explanation=Explanation.joined(explanations) if explanations else None,
            notes=self._notes(str(path), frame_indices[: self.spec.num_frames], num_boxes),
        )

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

    def _clips(self, path: str | Path) -> Iterator[ClipBatch]:
        """The views of each clip of a video, one clip in memory at a time."""
        with ExitStack() as stack:
            video = stack.enter_context(open_video(path, folder_fps=self.plan.folder_fps))
            reader = self._flow.reader(path, video) if self._flow else None
            boxes_at = None
            if self._boxes is not None:
                boxes_at = partial(self._boxes.boxes(path).at, count=self.spec.boxes_per_frame)
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
