"""Records that rooms hand to each other, with shapes and units, and what all options share.

    video -> ClipBatch (+ Regions) -> model -> Prediction and Explanation

Shapes: B batch, C channels, T frames, H W pixels, K boxes per frame, N nodes, S stages of a graph
    or flow stacks, L flow frames per stack, P steps of a feature map, M neighbours.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import methodcaller
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import torch
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from vidgraph.errors import RecipeError, nearest

Record = TypeVar("Record")
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Fit = Literal["crop", "pad", "squash", "short"]
# Beside a `Literal` of numbers, which are compared as they are where the command line has texts.
Digits = BeforeValidator(lambda value: int(value) if str(value).isdigit() else value)


@dataclass_transform(frozen_default=True)
def options(cls: type[Record]) -> type[Record]:
    """Makes a class a record of options: a frozen dataclass that `validated` can fill.

    Annotations (`Positive`, `Literal`) say what values may be; members of a union differ in `type`.
    """
    config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    setattr(cls, "__pydantic_config__", config)  # noqa: B010
    return dataclass(frozen=True)(cls)


def validated(kind: Any, content: Any, where: str, prefix: str = "") -> Any:
    """Keys and values, as YAML, JSON or the command line give them, as a record of options.

    Args:
        kind: a class made by `options`, or a union of them.
        content: nested mappings; a text becomes the number or the boolean that its field asks for.
        where: what is read, and `prefix` of its keys, such as "model.", for messages.

    Raises:
        RecipeError: a key that is unknown (the nearest is named) or missing, or a wrong value.
    """
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    # Pydantic's path also names the members of unions, which are no keys of the content.
    path, inner = [], content
    for part in problem["loc"]:
        found = isinstance(inner, Mapping) and part in inner
        if found or isinstance(part, int) or problem["type"] == "missing":
            path.append(str(part))
            inner = inner[part] if found else None
    name, value = prefix + ".".join(path), problem["input"]
    if problem["type"] == "unexpected_keyword_argument":
        hint = nearest(path[-1], _keys_beside(kind, problem["loc"]))
        raise RecipeError(f"{where}: unknown key {name}{hint}")
    if problem["type"] == "missing":
        raise RecipeError(f"{where}: {name} is missing")
    if problem["type"] == "value_error":  # of a record as a whole, which names its own fields
        raise RecipeError(f"{where}: {problem['ctx']['error']}")
    words = problem["msg"].removeprefix("Input ").partition(", unable to")[0]
    raise RecipeError(f"{where}: {name.rstrip('.') or 'the content'}: {words}, not {value!r}")


_adapter = functools.cache(TypeAdapter[Any])


def _keys_beside(kind: Any, path: Sequence[int | str]) -> list[str]:
    """The fields of the record that the last key of a path was meant for."""
    for part in path[:-1]:
        records = [m for m in _members(kind) if isinstance(m, type) and is_dataclass(m)]
        tagged = [record for record in records if getattr(record, "type", None) == part]
        hints = {} if tagged or not records else typing.get_type_hints(records[0], None, None, True)
        kind = tagged[0] if tagged else hints.get(str(part), kind)
    return [item.name for kind in _members(kind) if is_dataclass(kind) for item in fields(kind)]


def _members(kind: Any) -> list[Any]:
    """The classes in an annotation such as `Annotated[A | B | None, ...]`."""
    inside = typing.get_args(kind)
    return [kind] if not inside else [member for part in inside for member in _members(part)]


@options
class InputSpec:
    """Which clip a model takes; data, prediction and pictures build their inputs from it.

    Frames are spread over the whole video (`whole_video`), else stand `stride_frames` apart, else
    are taken at `sample_fps`: the first of these that is given counts.

    Attributes:
        num_frames: frames per clip (T).
        height: rows of a clip, in pixels.
        width: columns of a clip, in pixels.
        channels: 3 for RGB, 1 for luma, 0 for models that see flow only.
        whole_video: one frame of each of T equal parts of the video.
        stride_frames: source frames from one sampled frame to the next.
        sample_fps: sampled frames per second of video.
        flow_length: flow frames per stack (L), in pixels per frame; 0 for none.
        num_stacks: flow stacks around each sampled frame (S).
        stack_interval: frames from one flow stack to the next in tests (tau).
        max_stack_interval: training draws that distance from 1 to this.
        stack_layout: `interval`: stacks start every tau frames, so that they overlap where tau < L;
            `gap`: tau frames lie between the end of one and the start of the next.
        boxes_per_frame: region boxes per frame (K); 0 for none.
        fit: `crop` cuts the middle out of other shapes; `pad` shows whole frames on grey, `squash`
            distorts them, `short` keeps their shape, in which clips then differ.
        box_crops: the model sees what is in the boxes at the size of a clip too; `boxes_per_frame`
            then counts things, each of which keeps its place in all frames.
    """

    num_frames: Positive
    height: Positive
    width: Positive
    channels: Annotated[Literal[0, 1, 3], Digits] = 3
    whole_video: bool = False
    stride_frames: Positive | None = None
    sample_fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    flow_length: Annotated[int, Field(ge=0)] = 0
    num_stacks: Positive = 1
    stack_interval: Positive = 5
    max_stack_interval: Positive = 10
    stack_layout: Literal["interval", "gap"] = "interval"
    boxes_per_frame: Annotated[int, Field(ge=0)] = 0
    fit: Fit = "crop"
    box_crops: bool = False

    def __post_init__(self) -> None:
        if not (self.whole_video or self.stride_frames or self.sample_fps):
            raise RecipeError("input needs one of whole_video, stride_frames and sample_fps")
        if not (self.channels or self.flow_length):
            raise RecipeError("input has neither channels nor flow; give one of them")
        if self.box_crops and not (self.boxes_per_frame and self.channels):
            raise RecipeError("input.box_crops needs frames, and boxes_per_frame of at least 1")


class Batch:
    """What all records of tensors share whose first axis is the clip, or the step of a map."""

    def changed(self, change: Callable[[Any], Any]) -> typing.Self:
        """A copy whose tensors and lists are changed, those of the records in it too."""

        def of(value: Any) -> Any:
            if isinstance(value, Batch):
                return value.changed(change)
            return change(value) if isinstance(value, (Tensor, list)) else value

        return type(self)(**{name: of(value) for name, value in vars(self).items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> typing.Self:
        """All tensors on a device."""
        move = methodcaller("to", device, non_blocking=non_blocking)
        return self.changed(lambda x: move(x) if isinstance(x, Tensor) else x)

    def part(self, start: int, stop: int) -> typing.Self:
        """The clips from `start` to before `stop`."""
        return self.changed(lambda x: x[start:stop])

    def pin_memory(self) -> typing.Self:
        """All tensors in memory that a GPU copies from without waiting."""
        return self.changed(lambda x: x.pin_memory() if isinstance(x, Tensor) else x)

    @classmethod
    def joined(cls, batches: Sequence[typing.Self]) -> typing.Self:
        """Batches of clips, laid one behind the other as one batch."""

        def joint(name: str, values: list[Any]) -> Any:
            given = [value for value in values if value is not None]
            if not given:
                return None
            if len(given) < len(values):
                raise ValueError(f"{len(given)} of {len(values)} samples have {name}")
            if isinstance(given[0], Batch):
                return type(given[0]).joined(given)
            if isinstance(given[0], list):
                return [item for value in given for item in value]
            return torch.cat(given)

        names = vars(batches[0])
        return cls(**{name: joint(name, [getattr(b, name) for b in batches]) for name in names})


@dataclass
class Regions(Batch):
    """Region boxes of a batch of clips.

    Attributes:
        boxes_xyxy: fractions of the clip's frame, from 0 to 1, [B, T, K, 4].
        scores: objectness or 1, [B, T, K].
        mask: True where a box exists, [B, T, K].
        crops: a clip of each of K things alone, uint8 [B, K, C, T, H, W]; see
            `InputSpec.box_crops`.
        features: in place of `crops`, what the backbone makes of them, a mean over each step of its
            map, [B, T', K, D].
    """

    boxes_xyxy: Tensor
    scores: Tensor
    mask: Tensor
    crops: Tensor | None = None
    features: Tensor | None = None


@dataclass
class ClipBatch(Batch):
    """A batch of clips, as the data pipeline hands it to a model.

    Attributes:
        video: uint8 pixels in RGB or luma, [B, C, T, H, W].
        label: class indices, int64 [B]; multi-label: 0/1 float [B, num_classes].
        index: row of each clip in its data set, int64 [B].
        frame_indices: source frame of each sampled frame, int64 [B, T].
        names: the video file (or generated clip) that each sample comes from.
        regions: boxes of each frame, where the data set has them.
        flow: flow stacks at each sampled frame, uint8 [B, T, S, 2 L, H, W]: x and y of each flow
            frame; 0 to 255 for minus to plus the bound, so that no motion is 127.5.
        features: maps of the clips from a store, float16 [B, D, T', H', W'], in place of `video`.
    """

    video: Tensor
    label: Tensor
    index: Tensor
    frame_indices: Tensor
    names: list[str] = field(default_factory=list)
    regions: Regions | None = None
    flow: Tensor | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return self.video.shape[0]

    @classmethod
    def unlabelled(
        cls,
        views: Tensor,
        frame_indices: Any,
        name: str,
        regions: Regions | None = None,
        flow: Tensor | None = None,
    ) -> ClipBatch:
        """The views of one clip of a video, [V, C, T, H, W], without labels; source frames [T]."""
        unknown, count = torch.zeros(len(views), dtype=torch.int64), len(views)
        frames = torch.as_tensor(frame_indices).expand(count, -1)
        return cls(views, unknown, unknown, frames, [name] * count, regions, flow)

    def inputs(self, spec: InputSpec) -> dict[str, Any]:
        """The arguments of a model's `forward`: what its `spec` asks for."""
        inputs: dict[str, Any] = {"video": self.video} if spec.channels else {}
        if self.features is not None:
            inputs = {"features": self.features}
        if spec.flow_length:
            inputs["flow"] = self.flow
        if spec.boxes_per_frame:
            inputs["regions"] = self.regions
        return inputs


@dataclass
class RegionLinks(Batch):
    """How the regions of a clip are linked; node p * K + k is box k of step p."""

    frames: Tensor  # sampled frame whose boxes each step of the graph has, int64 [P]
    scores: Tensor  # of the boxes, [P, K]
    mask: Tensor  # True where a box exists, [P, K]
    # The nodes most similar to each one, most similar first, without itself, int64 [P, K, M]; M = 0
    # without similarity graph. Their weights in it are zero where there are fewer than M.
    neighbours: Tensor
    weights: Tensor
    even: Tensor  # what each region of the clip would weigh if all weighed the same, [P]
    # IoU of box i of step p with box j of step p + 1 at [p, i, j], zero in the last step,
    # [P, K, K]; None without such graphs.
    overlap: Tensor | None = None


@dataclass
class Explanation:
    """What a model looked at, for one clip.

    T counts the steps of the map that a head saw; `at_frames` repeats them to the clip's frames.
    """

    node_boxes_xyxy: Tensor  # where each node looks, as fractions of the frame, [T, N, 4]
    adjacency: Tensor  # True where source j may send to destination i, at [i, j], [N, N]
    attention: Tensor  # of source j in i per stage and frame, [S, T, N, N]; S = 0: nothing is sent
    names: tuple[str, ...]  # one short name per node
    regions: RegionLinks | None = None  # of nodes that are boxes: node n of frame t is its box n
    maps: Tensor | None = None  # without nodes, weights of cells, [T, h, w]; sum to 1 per frame

    @classmethod
    def of_maps(cls, maps: Tensor) -> Explanation:
        """Of a model without nodes, from the weight of every cell, [T, h, w]."""
        boxes, attention = torch.zeros(len(maps), 0, 4), torch.zeros(0, len(maps), 0, 0)
        return cls(boxes, torch.zeros(0, 0, dtype=torch.bool), attention, (), maps=maps)

    def at_frames(self, num_frames: int) -> Explanation:
        """The same per frame of the clip: each frame shows the last step that has begun at it."""
        begins = step_frames(num_frames, len(self.node_boxes_xyxy))
        step = torch.searchsorted(begins, torch.arange(num_frames), right=True) - 1
        return replace(
            self,
            node_boxes_xyxy=self.node_boxes_xyxy[step],
            attention=self.attention[:, step],
            maps=None if self.maps is None else self.maps[step],
            regions=None if self.regions is None else replace(self.regions, frames=begins),
        )

    @classmethod
    def joined(cls, clips: Sequence[Explanation]) -> Explanation:
        """Several clips of one video as one, joined in time; nothing links one to another."""
        first = clips[0]
        maps = [clip.maps for clip in clips if clip.maps is not None]
        links = [clip.regions for clip in clips if clip.regions is not None]
        return cls(
            node_boxes_xyxy=torch.cat([clip.node_boxes_xyxy for clip in clips]).cpu(),
            adjacency=first.adjacency.cpu(),
            attention=torch.cat([clip.attention for clip in clips], dim=1).cpu(),
            names=first.names,
            regions=_joined_links(links, len(first.node_boxes_xyxy)) if links else None,
            maps=torch.cat(maps).cpu() if maps else None,
        )


def _joined_links(links: Sequence[RegionLinks], num_frames: int) -> RegionLinks:
    """The links of clips of `num_frames` frames each."""
    size = links[0].mask.numel()
    moved = [
        replace(link, frames=link.frames + i * num_frames, neighbours=link.neighbours + i * size)
        for i, link in enumerate(links)
    ]
    return RegionLinks.joined(moved)


def step_frames(num_frames: int, num_steps: int, device: torch.device | str = "cpu") -> Tensor:
    """The frame at which each step of a map begins: floor(step * T / P), int64 [P]."""
    return torch.arange(num_steps, device=device) * num_frames // num_steps


@dataclass
class Prediction:
    """The answer for one video.

    Attributes:
        video: the file.
        class_names: all classes, in the model's order.
        probabilities: one per class, float [num_classes].
        frame_indices: source frames that were looked at, [T].
        explanation: nodes, edges and attention, where the model has a graph and it was asked for.
        notes: what a reader must know, such as frames that were repeated.
    """

    video: str
    class_names: Sequence[str]
    probabilities: Tensor
    frame_indices: list[int]
    explanation: Explanation | None = None
    notes: Sequence[str] = ()

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities, likeliest first."""
        values, order = self.probabilities.topk(min(count, len(self.class_names)))
        names = [self.class_names[i] for i in order.tolist()]
        return list(zip(names, values.tolist(), strict=True))

    def to_text(self, count: int = 5) -> str:
        """What `predict` prints."""
        top = [f"  {100 * value:6.2f} %  {name}" for name, value in self.top(count)]
        frames = f"  frames used: {', '.join(map(str, self.frame_indices))}"
        return "\n".join([self.video, *top, frames, *(f"  {note}" for note in self.notes)])

    def to_dict(self, count: int = 5) -> dict[str, Any]:
        """Plain values for `predict --json`."""
        top = [{"class": name, "probability": probability} for name, probability in self.top(count)]
        return {"video": self.video, "top": top, "frame_indices": self.frame_indices}
