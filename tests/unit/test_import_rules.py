"""Who may import whom: the table of docs/architecture.md, held against every import in the source,
also those inside functions.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "vidgraph"

# A room is a folder of the package or a file at its top. It may import the rooms in its row and
# those of BASE that stand before it; nothing points up.
BASE = ("errors", "util", "records")
MAY_IMPORT: dict[str, set[str]] = {
    "video": set(),
    "precompute": {"video"},
    "data": {"precompute", "video"},
    "backbones": set(),
    "models": {"backbones"},
    "training": {"evaluation"},
    "evaluation": {"video"},
    "visualize": {"video"},
    "config": {"data", "models", "training", "video"},
    "weights": {"models"},
    "encoders": {"backbones", "models", "precompute"},
    "convert": {"backbones", "models", "weights"},
    "predictor": {
        *("config", "data", "evaluation", "models", "precompute", "video", "visualize"),
        "weights",
    },
    "experiment": {
        *("config", "data", "encoders", "evaluation", "models", "precompute", "training"),
        *("video", "weights"),
    },
    "own_clips": {
        *("data", "encoders", "evaluation", "models", "precompute", "predictor", "training"),
        *("video", "visualize", "weights"),
    },
    "doctor": {"video"},
    "demo": {
        *("config", "data", "doctor", "evaluation", "experiment", "models", "predictor"),
        *("training", "video", "visualize", "weights"),
    },
    "cli_data": {"encoders", "data", "models", "precompute", "video", "weights"},
    "cli": {
        *("cli_data", "config", "convert", "demo", "doctor", "evaluation", "experiment"),
        *("models", "own_clips", "predictor", "training", "video", "weights"),
    },
}
MOST_ROOMS, LONGEST_CHAIN = 22, 8
# Rooms that own a heavy package, and may import it at the head of a file; elsewhere it is imported
# inside the function that needs it.
HEAVY_OWNERS = {
    "matplotlib": {"visualize"},
    "lightning_fabric": {"training"},
    "av": {"video"},
    "pandas": {"data"},
    "sklearn": set(),
    "typer": {"cli", "cli_data"},
    "timm": {"backbones"},
    "transformers": set(),
    "torchvision": {"precompute"},  # in files that are imported inside functions
    "cv2": {"precompute"},
    "ray": set(),
}
ONLY_IN = {"matplotlib": {"visualize"}}  # not even inside a function elsewhere


def module_name(file: Path) -> str:
    """`data.table`, `cli`, or `vidgraph` for the package; a folder's `__init__` has its name."""
    parts = [*file.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "vidgraph"


FILES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}
ROOMS = {name.split(".")[0] for name in FILES} - {"vidgraph"}


def ours(full: str) -> str:
    """`vidgraph.data.table.load_table` -> `data.table`; names of the package itself, such as its
    version, -> "" (no room)."""
    if not full.startswith("vidgraph."):
        return full
    parts = full.split(".")[1:]
    while parts and ".".join(parts) not in FILES:
        parts.pop()
    return ".".join(parts)


def imported_modules(name: str) -> list[tuple[str, int, bool]]:
    """Every module that a file imports, ours without the leading `vidgraph.`: (module, line, at
    the head of the file)."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    functions = [
        n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [(ours(full), node.lineno, id(node) not in inside) for full in names]
    return [(target, line, at_head) for target, line, at_head in found if target != name]


IMPORTS = {name: imported_modules(name) for name in FILES}


def room(module: str) -> str:
    return module.split(".")[0]


def rooms_below(name: str) -> set[str]:
    """The other rooms that any file of a room imports."""
    targets = {room(t) for n in FILES if room(n) == name for t, _, _ in IMPORTS[n] if t in FILES}
    return targets - {name, "vidgraph"}


def test_the_rooms_are_those_of_the_table_and_few() -> None:
    assert {*BASE, *MAY_IMPORT} == ROOMS
    assert len(ROOMS) <= MOST_ROOMS


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_rooms_import_only_what_the_table_allows(name: str) -> None:
    allowed = MAY_IMPORT.get(name, set()) | set(BASE[: BASE.index(name)] if name in BASE else BASE)
    assert rooms_below(name) <= allowed


def test_no_import_points_up_and_chains_are_short() -> None:
    """Each room stands one above the highest of those that it imports; a cycle has no height."""

    @functools.cache
    def height(name: str) -> int:
        return max((1 + height(below) for below in rooms_below(name)), default=0)

    assert max(map(height, ROOMS)) <= LONGEST_CHAIN


def test_no_cycles_between_files() -> None:
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target, _, _ in IMPORTS[name]:
                if target in FILES and target != "vidgraph":
                    follow(target, (*path, name))
            done.add(name)

    for name in FILES:
        follow(name, ())


@pytest.mark.parametrize("name", FILES)
def test_heavy_packages_stay_in_their_rooms(name: str) -> None:
    wrong = []
    for target, line, at_head in IMPORTS[name]:
        package = target.split(".")[0]
        if at_head and room(name) not in HEAVY_OWNERS.get(package, {room(name)}):
            wrong.append(f"{name}:{line} imports {package} at its head")
        if room(name) not in ONLY_IN.get(package, {room(name)}):
            wrong.append(f"{name}:{line} imports {package}")
    assert not wrong


FOLDERS = [name for name, file in FILES.items() if file.name == "__init__.py"]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "vidgraph"])
def test_folder_inits_import_nothing(name: str) -> None:
    assert [target for target, _, _ in IMPORTS[name] if not target.startswith("__future__")] == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("vidgraph", [*HEAVY_OWNERS, "pydantic", "huggingface_hub", "PIL"]),
        (
            "vidgraph.predictor",
            ["lightning_fabric", "matplotlib", "pandas", "torchvision", "sklearn"],
        ),
        ("vidgraph.cli", ["lightning_fabric", "matplotlib", "pandas", "av", "timm"]),
    ],
)
def test_what_an_import_does_not_bring(module: str, absent: list[str]) -> None:
    """Asked of a fresh interpreter; benchmarks/startup.py measures the seconds."""
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("file", [*FILES.values()], ids=[*FILES])
def test_files_have_at_most_400_lines(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
