"""The typed recipe of one training: what data, which model, how it is trained and scored.

A recipe file (`recipes/syncmnist3.yaml`) holds what its rows share and then each row, one row per
published number:

    name: syncmnist3
    shared: {data: ..., train: ...}
    rows:
      rstg_small: {source: ..., published: null, model: ...}

`load_recipe("syncmnist3:rstg_small", ["--train.lr", "1e-3"])` merges the two, applies the overrides
and converts every value to the type of its field. `save_recipe` writes the result beside the
checkpoints; that file loads back equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vidgraph.errors import RecipeError
from vidgraph.recipe_files import SHIPPED_RECIPES, locate, merge_row, read_yaml
from vidgraph.recipe_training import TrainRecipe as TrainRecipe
from vidgraph.recipe_training import check_train, refuse_ambiguous
from vidgraph.typed_values import convert_record, flatten, keys_of, set_dotted
from vidgraph.util import whole_file


@dataclass(frozen=True)
class SyncMnistData:
    """Synchronous digits: which pair of digits moves alike (task `sync`), or which digit is seen
    (task `digit`).

    Attributes:
        num_digits: moving digits per clip.
        digits: `mnist` (downloaded once), `embedded` (scikit-learn's), or a folder that holds
            MNIST's four files.
        task: `sync`, or `digit` for still frames and which digits they show, on which stems are
            pre-trained.
        num_frames: frames per clip.
        classes: digits that take part, such as [0, 1, 2, 3]; None for all ten.
        no_sync_probability: share of clips in which no pair moves alike; None for the released
            rate.
        shuffle_layers: draw the digits in random order; the released way draws the pair under all
            others.
        val_clips: size of the fixed validation set.
        test_clips: size of the fixed test set; None for the published one.
        test_paths: file of the released 5-digit test trajectories; None to download it once.
    """

    num_digits: int = 3
    digits: str = "mnist"
    task: Literal["sync", "digit"] = "sync"
    num_frames: int = 10
    classes: list[int] | None = None
    no_sync_probability: float | None = None
    shuffle_layers: bool = False
    val_clips: int = 2000
    test_clips: int | None = None
    test_paths: str | None = None


@dataclass(frozen=True)
class TableData:
    """Videos listed in a table, or sorted into one folder per class.

    Attributes:
        path: CSV or Parquet file, or the folder.
        columns: the table's own column names, as {label: class, split: split01}.
        skip_list: file written by `vidgraph data check`; its videos are left out, and every score
            counts them.
        train_split: name of the split to train on.
        val_split: name of the split to choose the checkpoint on.
        test_split: name of the split that is scored once.
        flip: mirror half of the training clips left to right; a class whose name says left or right
            becomes its partner.
        short_side: pixels of the shorter side of training frames before a random crop: [256], or
            [256, 320] for any between; null: crops of 80 to 100 % of the largest.
        crop_scales: in place of `short_side`: sides of training crops as shares of the frames'
            shorter side, rows and columns drawn apart (neighbours in the list at most), at one of
            thirteen places: [1, 0.875, 0.75, 0.66] for Temporal Segment Networks.
        brightness: training clips become lighter or darker by up to this share of the range, all
            frames of a clip alike.
        past_end: what a clip longer than its video does, in training and test: `clamp` repeats the
            last frame, `loop` starts again at the first, `refuse` stops.
        spread: how a model that looks at the whole video takes its frames, in training and test:
            `parts` takes one of each equal part, any one in training; `linspace` takes evenly
            spaced frames from the first to the last.
        folder_fps: frames per second of folders of images, which hold no times.
        boxes: folder of a store of boxes, as `vidgraph extract` writes it; for models that take
            boxes.
        intervals: file of a second table, `video, label, start_seconds, end_seconds`: which action
            happens when. The table is then multi-label.
        label_scope: what a training clip is labelled with where there are intervals: `clip`, the
            actions that it shows; `video`, those of the whole video. Tests always ask for those of
            the video.
        flow: for models that take optical flow: folder of a store of it, as `vidgraph extract flow`
            writes it, or of other tools' images; `live` computes it with DIS as videos are read,
            `live:tvl1` and so on with another method.
        flow_bound: what flow in 8 bits reaches to, in pixels of a frame of 340x256; that of the
            store.
    """

    path: str
    columns: dict[str, str] = field(default_factory=dict)
    skip_list: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    flip: bool = False
    short_side: list[int] | None = None
    brightness: float = 0.0
    past_end: Literal["clamp", "loop", "refuse"] = "clamp"
    spread: Literal["parts", "linspace"] = "parts"
    folder_fps: float = 25.0
    boxes: str | None = None
    intervals: str | None = None
    label_scope: Literal["clip", "video"] = "clip"
    crop_scales: list[float] = field(default_factory=list)
    flow: str | None = None
    flow_bound: float = 20.0


@dataclass(frozen=True)
class DataRecipe:
    """Exactly one of the two is given."""

    syncmnist: SyncMnistData | None = None
    table: TableData | None = None


@dataclass(frozen=True)
class ModelRecipe:
    """The network.

    Attributes:
        architecture: a name that `vidgraph models` lists.
        options: keyword arguments of that architecture.
        initial_weights: shipped name or run folder; tensors that match in name and shape are taken,
            the rest is printed.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    initial_weights: str | None = None


@dataclass(frozen=True)
class EvalRecipe:
    """How the network is scored: on how many views of each video, and how their scores become one.

    Attributes:
        batch_size: views per forward pass.
        num_views: clips per video, spread over it.
        crops: crops per clip; 1 is the centre.
        crop_places: `line` spreads them evenly along the frame's longer side, `corners` takes the
            four corners and the centre (5 crops).
        mirrored: show every crop mirrored too; with 5 crops at the corners these are the ten of
            Temporal Segment Networks.
        full_frame: show whole frames instead of crops; the model must be fully convolutional.
        short_side: pixels of the frames' shorter side before cropping; null: as large as the crop.
        crop_size: side of square crops in pixels; null: the model's own size.
        snippet_interval: frames from one snippet of optical flow to the next; null: the model's
            own.
        fusion: `mean` or `max` over views of probabilities, `logits` or `max_logits` of logits.
    """

    batch_size: int = 64
    num_views: int = 1
    crops: int = 1
    full_frame: bool = False
    short_side: int | None = None
    crop_size: int | None = None
    fusion: Literal["mean", "max", "logits", "max_logits"] = "mean"
    crop_places: Literal["line", "corners"] = "line"
    mirrored: bool = False
    snippet_interval: int | None = None

    @property
    def views_per_clip(self) -> int:
        return (1 if self.full_frame else self.crops) * (2 if self.mirrored else 1)

    def __post_init__(self) -> None:
        for key in (
            "batch_size",
            "num_views",
            "crops",
            "short_side",
            "crop_size",
            "snippet_interval",
        ):
            if (value := getattr(self, key)) is not None and value < 1:
                raise RecipeError(f"eval.{key} must be above 0, got {value}")
        if self.full_frame and (self.crops > 1 or self.crop_size is not None):
            raise RecipeError(
                "eval.full_frame shows whole frames, so eval.crops and eval.crop_size must be "
                "left out"
            )
        if self.crop_places == "corners" and self.crops != 5:
            raise RecipeError(
                "eval.crop_places corners are five, the four corners and the centre; give "
                f"eval.crops 5, not {self.crops}"
            )
        if (
            self.crop_size is not None
            and self.short_side is not None
            and self.crop_size > self.short_side
        ):
            raise RecipeError(
                f"eval.crop_size {self.crop_size} does not fit into eval.short_side "
                f"{self.short_side}"
            )


@dataclass(frozen=True)
class Recipe:
    """One row: everything that is needed to train and score one number of a table.

    Attributes:
        name: the recipe file's name.
        row: the row in it.
        source: where the published number stands.
        published: that number, in percent; None for rows of our own.
    """

    name: str
    data: DataRecipe
    model: ModelRecipe
    row: str = ""
    source: str = ""
    published: float | None = None
    train: TrainRecipe = field(default_factory=TrainRecipe)
    eval: EvalRecipe = field(default_factory=EvalRecipe)

    @property
    def title(self) -> str:
        return f"{self.name}:{self.row}" if self.row else self.name


def list_recipes() -> dict[str, list[str]]:
    """Names of the recipes in the package, each with its rows."""
    return {
        path.stem: sorted(read_yaml(path).get("rows", {}))
        for path in sorted(SHIPPED_RECIPES.glob("*.yaml"))
    }


def recipe_rows(name: str) -> tuple[str, list[str]]:
    """The name of a recipe with several rows (`recipe` of the package or `file.yaml`), and its rows
    in the order of the file.

    Raises:
        RecipeError: no such recipe, one row of it, or a recipe without rows.
    """
    path, row = locate(name)
    content = read_yaml(path)
    rows = content.get("rows")
    if row or not isinstance(rows, dict) or not rows:
        raise RecipeError(
            f"{name} is one row, not a table of rows; train it with vidgraph train {name}"
        )
    return content.get("name") or path.stem, list(rows)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Finds, merges, overrides and checks a recipe.

    Args:
        name: `recipe:row` of the package, `file.yaml[:row]`, or a run folder. The row may be left
            out where there is only one.
        overrides: `["--train.lr", "1e-3", "--model.options.num_stages=2"]`.

    Raises:
        RecipeError: an unknown recipe, row or key (the nearest is named), or a value of the wrong
            type.
    """
    path, row = locate(name)
    content = read_yaml(path)
    where = name
    if "rows" in content:
        row, content = merge_row(content, row, path)
        where = f"{content['name']}:{row}"
    elif row:
        raise RecipeError(f"{path} holds a single recipe without rows; leave out ':{row}'")
    pairs = list(parse_overrides(overrides))
    refuse_ambiguous(content.get("train"), [key for key, _ in pairs])
    for key, value in pairs:
        set_dotted(content, key, value)
    recipe: Recipe = convert_record(Recipe, content, f"recipe {where}", "")
    _check(recipe, f"recipe {where}")
    return recipe


def load_data(name: str, overrides: Sequence[str] = ()) -> DataRecipe:
    """The data of a recipe (of any row: rows share their data), of a run folder, or of a table file
    or folder of videos.

    Raises:
        RecipeError: no such recipe or file, or an override that is not of `data`.
    """
    if name.lower().endswith((".csv", ".parquet")) or (
        Path(name).is_dir() and not (Path(name) / "recipe.yaml").exists()
    ):
        content: dict[str, Any] = {"data": {"table": {"path": name}}}
    else:
        path, row = locate(name)
        content = read_yaml(path)
        if isinstance(content.get("rows"), dict):
            content = merge_row(content, row or next(iter(content["rows"]), ""), path)[1]
    content = {"data": content.get("data", {})}
    for key, value in parse_overrides(overrides):
        if not key.startswith("data."):
            raise RecipeError(
                f"--{key} does not change the data; only --data. options can be given here"
            )
        set_dotted(content, key, value)
    data: DataRecipe = convert_record(DataRecipe, content["data"], f"data {name}", "data.")
    _check_data(data, f"data {name}")
    return data


def recipe_keys() -> list[str]:
    """All dotted keys that an override can set."""
    return list(keys_of(Recipe))


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes a recipe as YAML, whole or not at all; `load_recipe` reads it back equal."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(asdict(recipe), sort_keys=False), encoding="utf-8")


def first_difference(one: Recipe, other: Recipe, ignore: Sequence[str] = ()) -> str | None:
    """The first dotted key in which two recipes differ, with both values; None where they are
    equal.
    """
    mine, theirs = dict(flatten(asdict(one))), dict(flatten(asdict(other)))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and key not in ignore:
            return f"{key} is {mine.get(key)!r} there and {theirs.get(key)!r} here"
    return None


def parse_overrides(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Splits `--train.lr 1e-3` and `--train.lr=1e-3` into keys and texts."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or "." not in word.split("=", 1)[0]:
            raise RecipeError(
                f"{word!r} is not an option and not an override; an override is written "
                "--train.lr 1e-3"
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RecipeError(f"{word} needs a value, as in {word} VALUE")
            value = rest.pop(0)
        yield key.replace("-", "_"), value


def _check(recipe: Recipe, where: str) -> None:
    """What types alone cannot say."""
    _check_data(recipe.data, where)
    check_train(recipe.train, where, has_passes=recipe.data.table is not None)


def _check_data(data: DataRecipe, where: str) -> None:
    if (data.syncmnist is None) == (data.table is None):
        raise RecipeError(f"{where}: data must hold exactly one of syncmnist and table")
    if data.syncmnist is not None and (
        data.syncmnist.val_clips < 0 or (data.syncmnist.test_clips or 1) < 1
    ):
        raise RecipeError(f"{where}: data.syncmnist.val_clips and test_clips must not be negative")
    if data.table is not None:
        side = data.table.short_side
        if side is not None and not (1 <= len(side) <= 2 and 1 <= side[0] <= side[-1]):
            raise RecipeError(
                f"{where}: data.table.short_side must be [256] or a range such as [256, 320], got "
                f"{side}"
            )
        for key, value in (
            ("folder_fps", data.table.folder_fps),
            ("flow_bound", data.table.flow_bound),
        ):
            if not 0 < value < float("inf"):
                raise RecipeError(f"{where}: data.table.{key} must be above 0, got {value}")
        if not all(0 < scale <= 1 for scale in data.table.crop_scales):
            words = "shares above 0 and at most 1, such as [1, 0.875, 0.75, 0.66]"
            raise RecipeError(
                f"{where}: data.table.crop_scales must be {words}, got {data.table.crop_scales}"
            )
        if data.table.crop_scales and side is not None:
            raise RecipeError(
                f"{where}: data.table.crop_scales and short_side both say how training crops are "
                "drawn; give one of them"
            )
        if not 0 <= data.table.brightness <= 1:
            raise RecipeError(
                f"{where}: data.table.brightness must be a share from 0 to 1, got "
                f"{data.table.brightness}"
            )
