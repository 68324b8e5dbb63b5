"""Who may import whom: the table of docs/architecture.md, held against every import in the source,
also those inside functions.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "vidgraph"

# A room is a folder of the package or a file at its top. Every room may import what is in EVERYONE,
# and its row here. A new room is one more line.
EVERYONE = {"errors", "util", "records"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "util": {"errors"},
    "records": set(),
    "progress": set(),
    "typed_values": set(),
    "recipe_files": {"typed_values"},
    "recipe_training": {"typed_values"},
    "config": {"recipe_files", "recipe_training", "typed_values"},
    "convert": set(),
    "convert_i3d": set(),
    "conversion": {"backbones", "convert", "convert_i3d", "models", "weights"},
    "video": set(),
    "backbones": {"models"},
    "models": {"backbones"},
    "weights": {"models"},
    "precompute": {"video"},
    "data": {"precompute", "video"},
    "training": {"config", "recipe_training", "video"},
    "evaluation": {"config", "video"},
    "visualize": {"config", "video"},
    "predictor": {"data", "evaluation", "precompute", "video", "visualize", "weights"},
    "experiment": {
        *("config", "data", "models", "precompute", "training", "typed_values", "video"),
        "weights",
    },
    "scoring": {
        *("config", "evaluation", "experiment", "training", "typed_values", "video", "weights"),
    },
    "command_line": set(),
    "data_verbs": {"command_line", "data", "progress", "weights"},
    "eval_verb": {"command_line", "evaluation", "progress", "scoring", "visualize"},
    "extract_verbs": {"command_line", "data", "precompute", "progress", "video"},
    "reproduce": {
        *("config", "evaluation", "experiment", "models", "progress", "scoring", "training"),
        "weights",
    },
    "doctor": {"video"},
    "demo": {
        *("config", "data", "evaluation", "experiment", "models", "predictor", "progress"),
        *("scoring", "training", "video", "visualize", "weights"),
    },
    "vidgraph": {"models", "weights"},  # the package's own __init__, inside its functions
}
# Everyone else keeps out of these.
IMPORTED_BY = {
    "cli": set(),
    "demo": {"cli"},
    "doctor": {"cli"},
    "conversion": {"cli"},
    "reproduce": {"cli"},
}
VERBS = {"data_verbs", "eval_verb", "extract_verbs"}
IMPORTED_BY |= {"command_line": {"cli", *VERBS}} | {verb: {"cli"} for verb in VERBS}
IMPORTED_BY |= {
    "experiment": {"cli", "demo", "scoring", "reproduce"},
    "scoring": {"cli", "demo", "eval_verb", "reproduce"},
}
NO_SIBLINGS = {"data"}
# Files that siblings may import: the table and its clips by all, and the parts of a data set that
# is longer than one file by that set.
SYNCMNIST = {"data.syncmnist", "data.syncmnist_files", "data.digits", "data.trajectories"}
COMMON = ("data.table", "data.clips", "data.cells", "data.label_files")
SHARED_SIBLINGS = dict.fromkeys(COMMON, NO_SIBLINGS) | dict.fromkeys(SYNCMNIST, SYNCMNIST)
CHECK = {"data.check", "data.probes"}
SHARED_SIBLINGS |= {
    "data.intervals": {"data.clips", *CHECK},
    "data.flow_source": {"data.clips", *CHECK},
    "data.probes": CHECK,
}
# Rooms that own a heavy package, and may import it at the head of a file; elsewhere it is imported
# inside the function that needs it.
HEAVY_OWNERS = {
    "matplotlib": {"visualize"},
    "lightning": {"training"},
    "av": {"video"},
    "pandas": {"data"},
    "torchmetrics": {"evaluation", "training"},
    "sklearn": {"visualize", "data"},
    "jsonargparse": {"cli"},
    "torchvision": {"backbones", "models", "precompute", "video"},
    "torchcodec": set(),
    "cv2": {"precompute"},
    "ray": set(),
}
ONLY_IN = {"matplotlib": {"visualize"}}  # not even inside a function elsewhere


def module_name(file: Path) -> str:
    """`data.table`, `cli`, or `vidgraph` for the package itself; a folder's `__init__` has the
    folder's name.
    """
    parts = [*file.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "vidgraph"


FILES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}


def imported_modules(file: Path, name: str) -> list[tuple[str, int, bool]]:
    """Every module that a file imports, ours without the leading `vidgraph.`: (module, line, at the
    head of the file).
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [
            (ours(full), node.lineno, id(node) not in inside)
            for full in names
            if ours(full) != name
        ]
    return found


def ours(full: str) -> str:
    """`vidgraph.data.table.load_table` -> `data.table`; names of the package itself, such as its
    version, -> "" (no room).
    """
    if full == "vidgraph":
        return "vidgraph"
    if not full.startswith("vidgraph."):
        return full
    parts = full.split(".")[1:]
    while parts and ".".join(parts) not in FILES:
        parts.pop()
    return ".".join(parts)


IMPORTS = {name: imported_modules(file, name) for name, file in FILES.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def own_imports(name: str) -> list[tuple[str, int]]:
    return sorted({(target, line) for target, line, _ in IMPORTS[name] if target in FILES})


def test_every_room_is_in_the_table() -> None:
    assert {room(name) for name in FILES} - {"cli"} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("name", FILES)
def test_rooms_import_only_what_the_table_allows(name: str) -> None:
    if room(name) == "cli":
        return
    basic = room(name) in EVERYONE
    allowed = MAY_IMPORT[room(name)] | {room(name)} | (set() if basic else EVERYONE)
    wrong = [
        f"{FILES[name].name}:{line} imports {target}"
        for target, line in own_imports(name)
        if room(target) not in allowed
    ]
    assert not wrong


def test_some_rooms_are_imported_by_few() -> None:
    wrong = [
        f"{name}:{line} imports {target}"
        for name in FILES
        for target, line in own_imports(name)
        if room(target) in IMPORTED_BY
        and room(name) not in IMPORTED_BY[room(target)] | {room(target)}
    ]
    assert not wrong


def test_siblings_do_not_import_each_other() -> None:
    wrong = [
        f"{name}:{line} imports {target}"
        for name in FILES
        for target, line in own_imports(name)
        if room(name) == room(target) in NO_SIBLINGS
        and not {name, room(name)} & SHARED_SIBLINGS.get(target, set())
    ]
    assert not wrong


def test_no_cycles() -> None:
    """Depth-first: a module that is met again while its own imports are being followed closes a
    cycle.
    """
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target, _ in own_imports(name):
            follow(target, (*path, name))
        done.add(name)

    for name in FILES:
        follow(name, ())


@pytest.mark.parametrize("name", FILES)
def test_heavy_packages_stay_in_their_rooms(name: str) -> None:
    wrong = []
    for target, line, at_head in IMPORTS[name]:
        package = target.split(".")[0]
        if at_head and package in HEAVY_OWNERS and room(name) not in HEAVY_OWNERS[package]:
            wrong.append(f"{FILES[name].name}:{line} imports {package} at its head")
        if package in ONLY_IN and room(name) not in ONLY_IN[package]:
            wrong.append(f"{FILES[name].name}:{line} imports {package}")
    assert not wrong


@pytest.mark.parametrize(
    "name",
    [name for name, file in FILES.items() if file.name == "__init__.py" and name != "vidgraph"],
)
def test_folder_inits_import_nothing(name: str) -> None:
    assert [target for target, _, _ in IMPORTS[name] if not target.startswith("__future__")] == []


def test_importing_the_package_imports_torch_and_nothing_heavier() -> None:
    """What may be absent is asked of a fresh interpreter; benchmarks/import_time.py measures the
    seconds.
    """
    heavy = (
        *HEAVY_OWNERS,
        "pytorch_lightning",
        "safetensors",
        "huggingface_hub",
        "pyarrow",
        "PIL",
        "rich",
        "yaml",
    )
    code = (
        f"import sys, vidgraph; print([name for name in {heavy!r} if name in sys.modules], "
        "'torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[] True"
