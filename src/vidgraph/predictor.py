"""From a video file to a prediction and its explanation: the same frames, pixels and fusion as
evaluation.

Shapes: V views, C channels, T frames of a clip, S snippets of flow, L fields per snippet, h w
    pixels of the crop, F frames of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vidgraph.data.flow_source import VideoFlow
from vidgraph.errors import DataError, VideoError, VidgraphError, WeightsError
from vidgraph.evaluation.inference import (
    ViewFusion,
    check_fusion,
    fuse_views,
    predict_batch,
    view_scores,
)
from vidgraph.precompute.store import BoxStore
from vidgraph.records import ClipBatch, Explanation, InputSpec, Prediction, RegionLinks, Regions
from vidgraph.util import check_target
from vidgraph.video.listing import list_videos
from vidgraph.video.reader import open_video
from vidgraph.video.sampling import SpanError
from vidgraph.video.transforms import ClipTransform
from vidgraph.video.views import ViewPlan, read_flow_views, read_views

SAVE_SUFFIXES = {".mp4": "overlay video", ".html": "report"}
_PICTURE_SIDE = 512  # shorter side that pictures are read at, where the video has it
_READ_AT_ONCE = 32  # frames of a picture held at the video's own size


@dataclass(frozen=True)
class FileResult:
    """What became of one of many videos: a prediction, or the error that kept it from one.

    Attributes:
        path: the video.
        prediction: None where `error` is set.
        error: None where `prediction` is set.
    """

    path: Path
    prediction: Prediction | None
    error: VidgraphError | None


class Predictor:
    """A model, ready to be shown videos.

    Args:
        model: has `spec`; `class_names` and `explain` are used where it has them.
        device: where it runs; None: a GPU where there is one.
        num_views: clips per video, spread evenly over it, whose probabilities are averaged.
        multi_label: classes are independent (sigmoid) rather than exclusive (softmax); None: as the
            model was trained.
        views: how views are fused; "mean", "max", "logits" or "max_logits".
        plan: which views, in place of the centres of `num_views` clips: crops, sizes, what becomes
            of short videos.
        chunk: most views in one forward pass.
        boxes: the regions of every frame of the videos; needed by models that take boxes.
        flow: the optical flow of the videos; where a model takes it and none is given, it is
            computed on the way.

    Raises:
        DataError: the model takes boxes, and there are none.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        num_views: int = 1,
        *,
        multi_label: bool | None = None,
        views: ViewFusion = "mean",
        plan: ViewPlan | None = None,
        chunk: int = 8,
        boxes: BoxStore | None = None,
        flow: VideoFlow | None = None,
    ) -> None:
        if num_views < 1 or (plan is not None and num_views > 1):
            raise ValueError(
                "num_views must be at least 1, and be left out where a plan says how many; not "
                f"{num_views}"
            )
        check_fusion(views)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.spec = cast(InputSpec, model.spec)
        self.plan, self.views, self.chunk = plan or ViewPlan(clips=num_views), views, chunk
        self._trained_multi_label = bool(getattr(model, "multi_label", False))
        self.multi_label = self._trained_multi_label if multi_label is None else multi_label
        self.plan.crop_shape(self.spec)
        if self.spec.boxes_per_frame and boxes is None:
            what = (
                f"the model takes {self.spec.boxes_per_frame} boxes per frame, and no store of "
                "boxes is given"
            )
            raise DataError(
                f"{what}; make one with vidgraph extract proposals, and name it with --boxes STORE"
            )
        self._boxes = boxes if self.spec.boxes_per_frame else None
        self._flow = (flow or VideoFlow()) if self.spec.flow_length else None

    def predict(self, path: str | Path) -> Prediction:
        """Recognises one video.

        With several clips, `frame_indices` and the explanation hold their frames one clip after
        another. With several crops, the explanation is of the middle one.

        Args:
            path: a video file, or a folder of images.

        Raises:
            VideoError: the file is missing or unreadable, or a frame that is needed cannot be
                decoded.
            DataError: its boxes or its flow are absent from the store, or not usable.
            WeightsError: the model has another number of outputs than class names.
        """
        logits, frame_indices, explanations = [], [], []
        for views, indices, regions, flow in self._clips(
            path
        ):  # [V, C, T, h, w], [T], [V, T, K, ...], [V, T, S, 2 L, h, w]
            unknown, names = torch.zeros(len(views), dtype=torch.int64), [str(path)] * len(views)
            batch = ClipBatch(
                views,
                unknown,
                unknown,
                torch.from_numpy(indices).repeat(len(views), 1),
                names,
                regions,
                flow,
            )
            logits.append(
                predict_batch(self.model, batch, self.device, chunk=self.chunk)
            )  # [V, num_classes]
            frame_indices += indices.tolist()
            explanations += self._explain(batch.part(self.plan.middle, self.plan.middle + 1))
        scores = torch.cat(logits)
        if not torch.isfinite(scores).all():
            raise WeightsError(f"{path}: the model's output is not finite; are its weights sound?")
        return Prediction(
            video=str(path),
            class_names=self._class_names(scores.shape[1]),
            probabilities=fuse_views(
                view_scores(scores, self.multi_label, self.views), self.multi_label, self.views
            ).float(),
            frame_indices=frame_indices,
            explanation=_joined(explanations) if explanations else None,
        )

    def predict_many(self, paths: str | Path | Sequence[str | Path]) -> Iterator[FileResult]:
        """Recognises many videos; one that fails yields its error and does not stop the others.

        Args:
            paths: videos, or one folder that holds videos (at any depth) or is itself a folder of
                images.

        Raises:
            VideoError: a folder without any video.
        """
        for path in [paths] if isinstance(paths, (str, Path)) else paths:
            for file in list_videos(path):
                try:
                    yield FileResult(file, self.predict(file), None)
                except VidgraphError as error:
                    yield FileResult(file, None, error)

    def notes(self, prediction: Prediction) -> list[str]:
        """What a reader of the prediction must know: frames or flow that are repeated, since the
        video is short; a wrong softmax.
        """
        first, notes = prediction.frame_indices[: self.spec.num_frames], []
        used = sorted(set(first))
        if len(used) < len(first):
            short = f"The video is shorter than a clip of {len(first)} frames"
            notes.append(
                f"{short}: {len(used)} different frames were used, some of them repeatedly."
            )
        regions = None if prediction.explanation is None else prediction.explanation.regions
        if regions is not None and not regions.mask.any():
            notes.append(
                "There is not a single box in the frames used: the answer comes from the whole "
                "frames alone."
            )
        if self._flow is not None:
            notes += self._flow_notes(prediction, self._flow)
        if self._trained_multi_label and not self.multi_label:
            notes.append(
                "The model was trained on videos with several labels each, but its scores went "
                "through a softmax: they sum to 1."
            )
        return notes

    def _flow_notes(self, prediction: Prediction, flow: VideoFlow) -> list[str]:
        notes, length = [], self.spec.flow_length
        with open_video(prediction.video) as video:
            num_fields = video.num_frames - 1
        if num_fields < length:
            notes.append(
                f"The video holds {num_fields} flow fields, and a snippet takes {length}: the "
                "last one was repeated."
            )
        if flow.is_live:
            notes.append(
                f"Optical flow was computed on the way ({flow.method}); --flow takes a store."
            )
        return notes

    def frames_seen(self, prediction: Prediction) -> np.ndarray:
        """The part of the picture that the model saw, one per entry of `prediction.frame_indices`:
        uint8 [F, H, W, 3].

        In colour, and up to 512 pixels where the video has them, whatever the model's own size.
        """
        return np.stack(list(self._read_pictures(prediction.video, prediction.frame_indices)))

    def save(
        self,
        prediction: Prediction,
        target: str | Path,
        model_name: str = "",
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        """Draws a prediction: `.mp4` an overlay video, `.html` a report.

        Args:
            prediction: of this predictor.
            target: the file; written whole or not at all.
            model_name: shown in the report.
            report: is called with (frames of the overlay drawn, in all).

        Raises:
            VidgraphError: another suffix, or the file cannot be written.
            VideoError: the video can no longer be read.
        """
        check_save_target(target)
        if Path(target).suffix.lower() == ".mp4":
            self._save_overlay(prediction, target, report)
            return
        from vidgraph.visualize.report import write_prediction_report

        write_prediction_report(
            target,
            prediction,
            self.frames_seen(prediction),
            model_name=model_name,
            notes=self.notes(prediction),
        )

    def _save_overlay(
        self, prediction: Prediction, target: str | Path, report: Callable[[int, int], None] | None
    ) -> None:
        from vidgraph.visualize.overlay import write_overlay

        with open_video(prediction.video) as video:
            shown, fps = range(video.num_frames), video.fps
        write_overlay(
            target,
            self._read_pictures(prediction.video, shown),
            prediction,
            fps=fps,
            frame_numbers=shown,
            report=report,
        )

    def _clips(
        self, path: str | Path
    ) -> Iterator[tuple[Tensor, np.ndarray, Regions | None, Tensor | None]]:
        """The views of each clip, uint8 [V, C, T, h, w], its source frames, int64 [T], its regions,
        and its flow, uint8 [V, T, S, 2 L, h, w]; one clip in memory at a time.
        """
        with open_video(path, folder_fps=self.plan.folder_fps) as video:
            reader = None if self._flow is None else self._flow.reader(path, video)
            boxes_at = (
                None
                if self._boxes is None
                else partial(self._boxes.boxes(path).at, count=self.spec.boxes_per_frame)
            )
            for clip in range(self.plan.clips):
                try:
                    pixels, indices, regions = read_views(
                        video, self.spec, self.plan, clip, boxes_at=boxes_at
                    )
                    flow = (
                        None
                        if reader is None
                        else read_flow_views(reader, video, self.spec, self.plan, indices)
                    )
                    yield pixels, indices, regions, flow
                except SpanError as error:
                    raise VideoError(path, str(error)) from error

    def _explain(self, view: ClipBatch) -> list[Explanation]:
        """The explanation of one view; none for a model without a graph."""
        explain = getattr(self.model, "explain", None)
        return [] if explain is None else explain(**view.to(self.device).inputs(self.spec))

    def _class_names(self, num_classes: int) -> list[str]:
        names = getattr(self.model, "class_names", None)
        if names is None:
            return [f"class {k}" for k in range(num_classes)]
        if len(names) != num_classes:
            raise WeightsError(
                f"the model has {num_classes} outputs but {len(names)} class names; were the "
                "weights saved by vidgraph?"
            )
        return list(names)

    def _read_pictures(self, path: str | Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames cropped as the model's middle view is, in colour and larger: uint8 [H, W, 3]
        each.
        """
        with open_video(path) as video:
            window = self.plan.windows(self.spec, video.height, video.width)[self.plan.middle]
            own, source = min(window.size), min(window.height, window.width)
            scale = max(1, min(math.ceil(_PICTURE_SIDE / own), source // own))
            window = replace(window, size=(window.size[0] * scale, window.size[1] * scale))
            colour = ClipTransform(replace(self.spec, channels=3), train=False)
            for start in range(0, len(indices), _READ_AT_ONCE):
                pixels, _, _ = colour.apply(
                    video.read(list(indices[start : start + _READ_AT_ONCE])), window
                )  # [3, F, H, W]
                yield from pixels.permute(1, 2, 3, 0).numpy()


def _joined(views: Sequence[Explanation]) -> Explanation:
    """Explanations of several clips as one, joined in time."""
    first = views[0]
    return Explanation(
        node_boxes_xyxy=torch.cat(
            [view.node_boxes_xyxy for view in views]
        ).cpu(),  # [clips * T, N, 4]
        adjacency=first.adjacency.cpu(),
        attention=torch.cat(
            [view.attention for view in views], dim=1
        ).cpu(),  # [S, clips * T, N, N]
        names=first.names,
        regions=_joined_links(
            [view.regions for view in views if view.regions is not None], len(first.node_boxes_xyxy)
        ),
        maps=None
        if first.maps is None
        else torch.cat(
            [view.maps for view in views if view.maps is not None]
        ).cpu(),  # [clips * T, h, w]
    )


def _joined_links(links: Sequence[RegionLinks], num_frames: int) -> RegionLinks | None:
    """The links of several clips of `num_frames` frames; nothing links one clip to another."""
    if not links:
        return None
    nodes = links[0].mask.numel()
    moved = [
        replace(
            link, frames=link.frames + clip * num_frames, neighbours=link.neighbours + clip * nodes
        )
        for clip, link in enumerate(links)
    ]
    of_steps = {
        field.name: [getattr(link, field.name) for link in moved] for field in fields(RegionLinks)
    }
    joined: dict[str, Any] = {
        name: None if parts[0] is None else torch.cat(parts) for name, parts in of_steps.items()
    }
    return RegionLinks(**joined)


def check_save_target(target: str | Path, videos: Sequence[str | Path] = ()) -> None:
    """Fails early, before a model runs, if a prediction could not be saved there.

    Args:
        target: the file.
        videos: what is predicted, and must not be overwritten.

    Raises:
        VidgraphError: a suffix other than `.mp4` and `.html`, one of the videos, or a place that
            cannot be written.
    """
    target = Path(target)
    if target.suffix.lower() not in SAVE_SUFFIXES:
        kinds = " or ".join(f"{suffix} ({kind})" for suffix, kind in SAVE_SUFFIXES.items())
        raise VidgraphError(
            f"{target}: a prediction is saved as {kinds}; choose one of these suffixes"
        )
    check_target(target, videos)
