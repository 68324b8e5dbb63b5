"""Recipe files: where they are, what they hold, and how a row lies over what all rows share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vidgraph.errors import RecipeError, nearest
from vidgraph.typed_values import overlay

SHIPPED_RECIPES = Path(__file__).parent / "recipes"


class _Loader(yaml.SafeLoader):
    """Of two equal keys YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key, _ in node.value if keys.count(key.value) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice.value!r} stands here twice", twice.start_mark
            )
        return super().construct_mapping(node, deep)


def locate(name: str) -> tuple[Path, str]:
    """The file and the row that a name on the command line means."""
    if (Path(name) / "recipe.yaml").is_file():
        return Path(name) / "recipe.yaml", ""
    base, _, row = name.rpartition(":") if ":" in name else (name, "", "")
    if base.endswith((".yaml", ".yml")):
        if not Path(base).is_file():
            raise RecipeError(f"recipe file {base} does not exist")
        return Path(base), row
    path = SHIPPED_RECIPES / f"{base}.yaml"
    if Path(base).name != base or not path.is_file():
        if Path(name).is_dir():
            raise RecipeError(f"{name} is a folder without recipe.yaml, so it is not a run folder")
        if Path(base).name != base:
            raise RecipeError(f"{name}: there is no such recipe, file or folder")
        raise RecipeError(
            "no recipe named "
            f"{base!r}{nearest(base, (p.stem for p in SHIPPED_RECIPES.glob('*.yaml')))}"
        )
    return path, row


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path} holds no recipe: its top level must be keys such as name, shared and rows"
        )
    return content


def merge_row(content: dict[str, Any], row: str, path: Path) -> tuple[str, dict[str, Any]]:
    """What the rows share, overlaid with one row."""
    unknown = sorted(content.keys() - {"name", "shared", "rows"})
    if unknown:
        raise RecipeError(
            f"{path}: unknown key {unknown[0]!r}{nearest(unknown[0], ('name', 'shared', 'rows'))}"
        )
    rows, shared, name = (
        content["rows"],
        content.get("shared") or {},
        content.get("name") or path.stem,
    )
    if not isinstance(rows, dict) or not rows or not isinstance(shared, dict):
        raise RecipeError(
            f"{path}: rows must hold at least one row, and shared must be keys and values"
        )
    if not row and len(rows) > 1:
        raise RecipeError(
            f"recipe {name} has several rows; write {name}:ROW with one of "
            f"{', '.join(sorted(rows))}"
        )
    row = row or next(iter(rows))
    if row not in rows:
        raise RecipeError(f"recipe {name} has no row {row!r}{nearest(row, rows)}")
    return row, overlay(overlay(shared, rows[row] or {}), {"name": name, "row": row})
