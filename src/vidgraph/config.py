"""Recipes: what is trained on what, and how it is scored, as typed records.

A recipe file (`recipes/syncmnist3.yaml`) holds what its rows share and then each row, one row per
published number:

    name: syncmnist3
    shared: {data: ..., train: ...}
    rows:
      rstg_small: {source: ..., published: null, model: {name: rstg_small}}

`load_recipe("syncmnist3:rstg_small", {"train.lr": "1e-3"})` merges the two, applies the overrides
and validates the result. `save_recipe` writes it beside the checkpoints; it loads back equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Any

import yaml

from vidgraph.data.options import DataOptions, SyncMnistOptions, TableOptions
from vidgraph.errors import RecipeError, nearest
from vidgraph.models.build import NetworkOptions, resolve_options
from vidgraph.models.compat import upgrade_options, upgrade_tensor
from vidgraph.records import options, validated
from vidgraph.training.phases import TrainOptions, check_phases
from vidgraph.util import atomic_write
from vidgraph.video.views import ViewPlan

SHIPPED_RECIPES = Path(__file__).parent / "recipes"
TABLE_SUFFIXES = (".csv", ".parquet")


@options
class ModelRecipe:
    """The network. In files its options stand beside the name, as `model.head.num_stages`."""

    name: str  # that `vidgraph models` lists
    options: NetworkOptions  # of every part, complete
    initial_weights: str | None = None  # whose tensors are taken that match in name and shape


@options
class Recipe:
    """One row: everything that is needed to train and score one number of a table.

    Attributes:
        name: the recipe file's name.
        row: the row in it.
        source: where the published number stands.
        published: that number, in percent; None for rows of our own.
        eval: the views of a video in a test; how clips are taken from short videos holds for
            training too.
    """

    name: str
    data: DataOptions
    model: ModelRecipe
    row: str = ""
    source: str = ""
    published: float | None = None
    train: TrainOptions = field(default_factory=TrainOptions)
    eval: ViewPlan = field(default_factory=ViewPlan)

    @property
    def title(self) -> str:
        return f"{self.name}:{self.row}" if self.row else self.name


def list_recipes() -> dict[str, list[str]]:
    """Names of the recipes in the package, each with its rows."""
    paths = sorted(SHIPPED_RECIPES.glob("*.yaml"))
    return {path.stem: sorted(_read_yaml(path).get("rows", {})) for path in paths}


def recipe_rows(name: str) -> tuple[str, list[str]]:
    """The name of a recipe with several rows, and its rows in the order of the file."""
    path, row = _locate(name)
    content = _read_yaml(path)
    if row or not content.get("rows"):
        raise RecipeError(f"{name} is one row, not a table; train it with vidgraph train {name}")
    return content.get("name") or path.stem, list(content["rows"])


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Finds, merges, overrides and validates a recipe.

    Args:
        name: `recipe:row` of the package, `file.yaml[:row]`, or a run folder. The row may be left
            out where there is only one.
        overrides: dotted keys and their values, as text or typed: `{"train.lr": "1e-3"}`.

    Raises:
        RecipeError: an unknown recipe, row or key (the nearest is named), or a wrong value.
    """
    path, row = _locate(str(name))
    title, content = _row_content(path, row)
    where = f"recipe {title}"
    overrides = overrides or {}
    check_phases(content.get("train"), overrides)
    content = overlay(content, nested(overrides))
    model = content.get("model")
    if not isinstance(model, Mapping):
        raise RecipeError(f"{where}: model must hold keys and values such as name: strg_small")
    content["model"] = _model_section(model, where)
    recipe: Recipe = validated(Recipe, content, where)
    recipe.train.check_lengths(where, has_epochs=recipe.data.table is not None)
    return recipe


def load_data(name: str, overrides: Mapping[str, Any] | None = None) -> DataOptions:
    """The data of a recipe (rows share theirs), of a run folder, or of a table or folder."""
    is_run = (Path(name) / "recipe.yaml").exists()
    if name.lower().endswith(TABLE_SUFFIXES) or (Path(name).is_dir() and not is_run):
        content: dict[str, Any] = {"table": {"path": name}}
    else:
        path, row = _locate(name)
        rows = _read_yaml(path).get("rows")
        content = _row_content(path, row or next(iter(rows or {}), ""))[1].get("data", {})
    if wrong := next((key for key in overrides or {} if not key.startswith("data.")), None):
        raise RecipeError(f"--{wrong} does not change the data; only --data. options can be given")
    content = overlay(content, nested(overrides or {}).get("data", {}))
    data: DataOptions = validated(DataOptions, content, f"data {name}", "data.")
    return data


def load_views(run: str | Path | None, overrides: Mapping[str, Any]) -> ViewPlan:
    """The views of a run folder's recipe, or one clip and its centre, with `eval.` overrides."""
    plan = load_recipe(run).eval if run else ViewPlan()
    content = overlay(asdict(plan), nested(overrides).get("eval", {}))
    views: ViewPlan = validated(ViewPlan, content, "eval", "eval.")
    return views


def model_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What `--model.head.width 64` says, as `create_model` takes it."""
    if wrong := next((key for key in overrides if not key.startswith("model.")), None):
        raise RecipeError(f"--{wrong} is no option of a model; write --model.PART.NAME VALUE")
    model: dict[str, Any] = nested(overrides).get("model", {})
    return model


def recipe_keys() -> list[str]:
    """Dotted keys that every recipe has; those of its model depend on the model."""
    sections: dict[str, Any] = {"train": TrainOptions, "eval": ViewPlan}
    sections |= {"data.table": TableOptions, "data.syncmnist": SyncMnistOptions}
    keys = [f"{path}.{item.name}" for path, kind in sections.items() for item in fields(kind)]
    return [*keys, "model.name", "model.initial_weights"]


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes a recipe as YAML, whole or not at all; `load_recipe` reads it back equal."""
    with atomic_write(path) as temporary:
        text = yaml.safe_dump(_plain(recipe), sort_keys=False)
        temporary.write_text(text, encoding="utf-8")


def first_difference(one: Recipe, other: Recipe, ignore: Sequence[str] = ()) -> str | None:
    """The first dotted key in which two recipes differ, with both values; None if they agree."""
    mine, theirs = dict(_flatten(_plain(one))), dict(_flatten(_plain(other)))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and key not in ignore:
            return f"{key} is {mine.get(key)!r} there and {theirs.get(key)!r} here"
    return None


# ---- files ---------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Of two equal keys YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key, _ in node.value if keys.count(key.value) > 1), None):
            problem = f"the key {twice.value!r} stands here twice"
            raise yaml.constructor.ConstructorError(None, None, problem, twice.start_mark)
        return super().construct_mapping(node, deep)


def _locate(name: str) -> tuple[Path, str]:
    """The file and the row that a name on the command line means."""
    if (Path(name) / "recipe.yaml").is_file():
        return Path(name) / "recipe.yaml", ""
    base, _, row = name.rpartition(":") if ":" in name else (name, "", "")
    if base.endswith((".yaml", ".yml")):
        if not Path(base).is_file():
            raise RecipeError(f"recipe file {base} does not exist")
        return Path(base), row
    path = SHIPPED_RECIPES / f"{base}.yaml"
    if Path(base).name == base and path.is_file():
        return path, row
    if Path(name).is_dir():
        raise RecipeError(f"{name} is a folder without recipe.yaml, so it is not a run folder")
    hint = nearest(base, (p.stem for p in SHIPPED_RECIPES.glob("*.yaml")))
    raise RecipeError(f"{name}: there is no such recipe, file or folder{hint}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: the top level of a recipe is keys such as name, shared, rows")
    return content


def _row_content(path: Path, row: str) -> tuple[str, dict[str, Any]]:
    """The title and content of one row, with what all rows share below it."""
    content = _read_yaml(path)
    if "rows" not in content:
        if row:
            raise RecipeError(f"{path} holds a single recipe without rows; leave out ':{row}'")
        return str(path), _upgraded(content)
    if unknown := sorted(content.keys() - {"name", "shared", "rows"}):
        hint = nearest(unknown[0], ("name", "shared", "rows"))
        raise RecipeError(f"{path}: unknown key {unknown[0]!r}{hint}")
    rows, shared = content["rows"], content.get("shared") or {}
    name = content.get("name") or path.stem
    if not isinstance(rows, dict) or not rows or not isinstance(shared, dict):
        raise RecipeError(f"{path}: rows must hold at least one row, and shared keys and values")
    if not row and len(rows) > 1:
        choices = ", ".join(sorted(rows))
        raise RecipeError(f"recipe {name} has several rows; write {name}:ROW, one of {choices}")
    row = row or next(iter(rows))
    if row not in rows:
        raise RecipeError(f"recipe {name} has no row {row!r}{nearest(row, rows)}")
    merged = overlay(overlay(shared, rows[row] or {}), {"name": name, "row": row})
    return f"{name}:{row}", _upgraded(merged)


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe of version 0.1 in today's words; others as they are."""
    model, train = dict(content.get("model") or {}), dict(content.get("train") or {})
    if "architecture" not in model:
        return content
    architecture = model.pop("architecture")
    name, options = upgrade_options(architecture, model.pop("options", None) or {})
    train["phases"] = train.pop("stages", [])
    for part in (train, *train["phases"]):
        for key in {"freeze", "freeze_norms"} & part.keys():
            part[key] = [upgrade_tensor(prefix, architecture) for prefix in part[key]]
        if factors := part.get("lr_factors"):
            renamed = {upgrade_tensor(prefix, architecture): x for prefix, x in factors.items()}
            part["lr_factors"] = renamed
    views, table = dict(content.get("eval") or {}), (content.get("data") or {}).get("table") or {}
    views = {key.replace("snippet_", "stack_"): value for key, value in views.items()}
    table = dict(table)
    moved = {key: table.pop(key) for key in ("past_end", "spread", "folder_fps") if key in table}
    data = {**content.get("data", {}), **({"table": table} if table else {})}
    sections = {"data": data, "train": train, "eval": views | moved}
    return content | sections | {"model": {"name": name, **options, **model}}


def _model_section(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Name, complete options and initial weights of the network."""
    rest = dict(model)
    initial_weights, name = rest.pop("initial_weights", None), rest.pop("name", None)
    if not isinstance(name, str):
        raise RecipeError(f"{where}: model.name is missing")
    resolved = resolve_options(name, rest, where, "model.")
    return {"name": name, "options": resolved, "initial_weights": initial_weights}


# ---- keys and values -----------------------------------------------------------------------------


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dicts. Text that means a list, keys and values, or null is parsed as
    YAML; all other text is left to the type of its field, so that a path may look like a number."""
    content: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        below: Any = content
        for key in path:
            below = below.setdefault(key, {}) if isinstance(below, dict) else None
        if not isinstance(below, dict) or last in below:
            raise RecipeError(f"--{dotted}: another key is a part or the whole of it; give one")
        if isinstance(value, str) and (value[:1] in ("[", "{") or value in ("null", "~")):
            try:
                value = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise RecipeError(f"--{dotted} {value!r} is not valid YAML") from error
        below[last] = value
    return content


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` over it, key by key at every depth. A list of records with
    names, such as the phases of a training, is entered by name.
    """
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = overlay(below, value)
        elif isinstance(value, Mapping) and isinstance(below, list):
            records = {record.get("name"): record for record in below}
            for name, entry in value.items():
                if name not in records:
                    hint = nearest(name, map(str, records))
                    raise RecipeError(f"{key} has no entry named {name!r}{hint}")
                if not isinstance(entry, Mapping):
                    raise RecipeError(f"{key}.{name} must hold keys and values, not {entry!r}")
            value = [overlay(record, value.get(name, {})) for name, record in records.items()]
        merged[key] = value
    return merged


def _plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as YAML holds it, the options of the model beside its name."""
    content = asdict(recipe)
    content["model"] |= content["model"].pop("options")
    return content


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dicts as dotted keys and values; a list of records with names as a dict of them."""
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
            value = {record["name"]: record for record in value}
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
