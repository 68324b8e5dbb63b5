"""The documentation against the code: commands, names, options, files, tests, code shown, and every
figure of a measured table.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from reproduce import parse_seeds, plan
from vidgraph import errors
from vidgraph.cli import build_parser, split_overrides
from vidgraph.config import list_recipes, load_data, load_recipe, parse_overrides, recipe_keys
from vidgraph.models.build import list_architectures, options_of
from vidgraph.models.rstg import GraphOptions, RecurrentSpaceTimeGraph
from vidgraph.weights import list_shipped

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "vidgraph"
RESULTS = {
    "README.md": ("syncmnist3", "syncmnist5"),
    "docs/results.md": (
        "syncmnist3",
        "syncmnist3_options",
        "syncmnist5",
        "ucf101_regions_small",
        "ucf101_small",
    ),
}
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
CARDS = {str(path.relative_to(ROOT)): path for path in sorted(SOURCE.glob("shipped/*/card.md"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in (PAGES | CARDS).items()}

FENCE = re.compile(r"^```(\{?\w[\w-]*\}?)? ?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = [f"{name}:{row}" for name, rows in list_recipes().items() for row in rows]
GRAPH_FIELDS = {field.name: field.default for field in dataclasses.fields(GraphOptions)}


def fences(text: str, language: str) -> list[tuple[str, str]]:
    """(argument, content) of each fenced block of a language."""
    return [
        (argument, content) for kind, argument, content in FENCE.findall(text) if kind == language
    ]


def spans(text: str) -> list[str]:
    """Inline code outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands() -> list[tuple[str, str]]:
    """(page, words after `vidgraph`) of every command in a shell block."""
    found = []
    for name, text in TEXTS.items():
        for line in (
            line
            for _, block in fences(text, "bash")
            for line in block.replace("\\\n", " ").splitlines()
        ):
            if start := re.match(r"(?:torchrun .*-m vidgraph\.cli|vidgraph) (.+)", line.strip()):
                found.append((name, start[1]))
    return found


def all_spans(pattern: str) -> list[tuple[str, str]]:
    """(page, inline code) where the whole of it fits a pattern."""
    return sorted(
        {
            (name, span)
            for name, text in TEXTS.items()
            for span in spans(text)
            if re.fullmatch(pattern, span)
        }
    )


def test_there_is_something_to_check() -> None:
    assert len(commands()) > 25
    assert {"README.md", "docs/quickstart.md", "docs/rstg.md", "docs/departures.md"} <= PAGES.keys()


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_understood_by_the_real_parser(page: str, command: str) -> None:
    own, overrides = split_overrides(shlex.split(command, comments=True))
    args, unknown = build_parser().parse_known_args(own)
    assert not unknown
    assert args.takes_overrides or not overrides
    for key, _ in parse_overrides(overrides):
        assert key in recipe_keys() or key.startswith(("model.options.", "train.stages."))
    if command.startswith("reproduce "):
        assert plan(
            args.recipe,
            args.size,
            args.rows and args.rows.split(","),
            parse_seeds(args.seeds),
            args.out,
            overrides,
        )
    elif getattr(args, "recipe", "").partition(":")[0] in list_recipes():
        assert load_recipe(args.recipe, overrides)
    if getattr(args, "data", None) in list_recipes():
        assert load_data(args.data)


@pytest.mark.parametrize(("page", "span"), all_spans(r"vidgraph [a-z].*"))
def test_commands_within_the_text_name_verbs_and_options_that_exist(page: str, span: str) -> None:
    words = span.split()[1:]
    parser: Any = build_parser()
    while parser._subparsers is not None and words:
        parser = parser._subparsers._group_actions[0].choices[words.pop(0)]
    assert {word for word in words if word.startswith("--")} <= parser._option_string_actions.keys()


@pytest.mark.parametrize("page", TEXTS)
def test_make_targets_exist(page: str) -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    code = (
        "\n".join(block for _, block in fences(TEXTS[page], "bash"))
        + "\n"
        + "\n".join(spans(TEXTS[page]))
    )
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets


def test_recipe_rows_and_keys_exist() -> None:
    rows = all_spans(rf"(?:{'|'.join(list_recipes())}):\w+")
    assert rows
    assert {row for _, row in rows} <= set(RECIPES)
    keys = recipe_keys()
    no_keys = {"data.json", "model.safetensors", "model.input_spec", "model.options.NAME"}
    for page, span in all_spans(r"(data|model|train|eval)\.[a-z]\w+(\.\w+)*(: .*)?"):
        assert span.partition(":")[0] in no_keys | set(keys), f"{page}: {span}"


def test_every_recipe_row_has_its_line_in_reproducing() -> None:
    text = TEXTS["docs/reproducing.md"]
    table = dict(re.findall(r"^\| `(\w+:\w+)` \| .* \| ([\d.-]+) \|$", text, re.MULTILINE))
    for row, *columns in re.findall(
        r"^\| `(\w+)` \|.* \| (`\w+`|[\d.-]+) \| (`\w+`|[\d.-]+) \|$", text, re.MULTILINE
    ):
        table |= {
            f"syncmnist{n}:{row}": cell
            for n, cell in zip((3, 5), columns, strict=True)
            if cell != "`rstg`"
        }
    assert table == {
        row: "-" if load_recipe(row).published is None else str(load_recipe(row).published)
        for row in RECIPES
    }


def test_architectures_exist() -> None:
    names = all_spans(r"(rstg|mean_lstm|digit_stem)\w*")
    assert names
    known = {
        *list_architectures(),
        *list_shipped(),
        *(row.partition(":")[2] for row in RECIPES),
        "mean_lstm_small",
    }
    assert [(page, name) for page, name in names if name not in known] == []


def test_weights_that_are_named_are_shipped() -> None:
    named = {name for _, name in all_spans(r"rstg_\w*sync\d|digit_stem")}
    named |= {
        word
        for _, command in commands()
        for word in command.split()
        if re.fullmatch(r"rstg_\w*sync\d", word)
    }
    assert "digit_stem" in named
    assert named <= set(list_shipped())


def test_options_table_is_that_of_the_code() -> None:
    section = TEXTS["docs/rstg.md"].partition("## Options")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| `(\w+)` \| `(.+?)` \|", section.partition("The architectures")[0], re.MULTILINE
    )
    assert rows == [
        (name, repr(default).replace("'", '"')) for name, default in GRAPH_FIELDS.items()
    ]


@pytest.mark.parametrize(
    "architecture",
    ["rstg_syncmnist", "rstg_small", "rstg_i3d_r50", "rstg_c2d_r50", "rstg_i3d_small"],
)
def test_what_an_architecture_changes_is_what_the_page_says(architecture: str) -> None:
    """`differs in` of the page against the options of a model as it is built."""
    from vidgraph.models.build import create_model

    with torch.device("meta"):
        model = create_model(architecture, width=8)
    options = next(
        module.options for module in model.modules() if isinstance(module, RecurrentSpaceTimeGraph)
    )
    changed = {name for name, default in GRAPH_FIELDS.items() if getattr(options, name) != default}
    row = next(
        line
        for line in TEXTS["docs/rstg.md"].splitlines()
        if line.startswith(f"| `{architecture}` |")
    )
    assert {
        span.partition("=")[0] for span in re.findall(r"`([^`]+)`", row.split("|")[3])
    } == changed


def test_graph_options_that_are_named_exist() -> None:
    assert {
        span.partition(".")[2] for _, span in all_spans(r"GraphOptions\.\w+")
    } <= GRAPH_FIELDS.keys()
    allowed = {name for architecture in list_architectures() for name in options_of(architecture)}
    overridden = {
        key for _, command in commands() for key in re.findall(r"--model\.options\.(\w+)", command)
    }
    assert overridden <= allowed


def test_errors_exist() -> None:
    for page, name in all_spans(r"[A-Z]\w+Error"):
        assert hasattr(errors, name) or hasattr(builtins, name), f"{page}: {name}"


def test_every_kind_of_finding_is_explained() -> None:
    from vidgraph.data.check import KINDS, UNUSABLE

    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (yes|no).* \|$", TEXTS["docs/your_own_data.md"], re.MULTILINE
    )
    rows = [row for row in rows if row[0] in KINDS]
    assert [kind for kind, _, _ in rows] == list(KINDS)
    assert all(text.startswith(KINDS[kind]) for kind, text, _ in rows)
    assert tuple(kind for kind, _, listed in rows if listed == "yes") == UNUSABLE


def test_import_rules_are_those_of_the_test() -> None:
    spec = importlib.util.spec_from_file_location(
        "import_rules", Path(__file__).with_name("test_import_rules.py")
    )
    assert spec is not None
    assert spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    rooms = {rules.room(name) for name in rules.FILES}
    section = (
        TEXTS["docs/architecture.md"].partition("## Who may import whom")[2].partition("\n## ")[0]
    )
    shown = {
        name: set(re.findall(r"`(\w+)`", cell)) & rooms
        for name, cell in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    }
    expected = {
        name: allowed & rooms
        for name, allowed in rules.MAY_IMPORT.items()
        if name not in rules.EVERYONE
    }
    assert {name: cell for name, cell in shown.items() if name in rooms} == {
        n: cell for n, cell in expected.items() if n in rooms
    }


def test_files_and_tests_that_are_named_exist() -> None:
    named = all_spans(r"(?:[\w.]+/)*[\w.]+\.(?:py|md|yaml|npz)(?:::\w+)?")
    assert any("::" in span for _, span in named)
    for page, span in named:
        file, _, test = span.partition("::")
        places = [folder / file for folder in (ROOT, SOURCE, ROOT / "docs")]
        if "/" not in file and not any(place.exists() for place in places):
            assert file in {"mine.yaml", "digits3.yaml", "recipe.yaml", "demo.py"}, (
                f"{page}: {span}"
            )
            continue
        found = next((place for place in places if place.is_file()), None)
        assert found is not None, f"{page}: {span}"
        assert not test or f"def {test}(" in found.read_text(encoding="utf-8"), f"{page}: {span}"


def test_every_departure_names_a_test() -> None:
    entries = re.findall(
        r"^### (.+?)\n(.*?)(?=^##|\Z)", TEXTS["docs/departures.md"], re.MULTILINE | re.DOTALL
    )
    assert len(entries) > 20
    assert [title for title, entry in entries if "tests/unit/" not in entry] == [
        "Which proceedings"
    ]


@pytest.mark.parametrize("page", PAGES)
def test_code_shown_is_in_the_source(page: str) -> None:
    for argument, options in fences(TEXTS[page], "{literalinclude}"):
        file = (ROOT / "docs" / argument).resolve()
        lines = file.read_text(encoding="utf-8")
        module = importlib.import_module(
            ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        )
        shown: Any = module
        for name in re.search(r":pyobject: (\S+)", options)[1].split("."):  # type: ignore[index]
            shown = getattr(shown, name)
        start = re.search(r":start-at: (.+)", options)
        assert start is None or start[1] in inspect.getsource(shown)
        assert inspect.getsource(shown) in lines


@pytest.mark.parametrize("page", TEXTS)
def test_python_shown_compiles_and_imports(page: str) -> None:
    for _, block in fences(TEXTS[page], "python"):
        compile(block, page, "exec")
        for module, names in re.findall(
            r"^from (vidgraph[\w.]*) import (.+)$", block, re.MULTILINE
        ):
            assert all(
                hasattr(importlib.import_module(module), name.strip()) for name in names.split(",")
            )
        import vidgraph

        assert all(hasattr(vidgraph, name) for name in re.findall(r"\bvidgraph\.(\w+)\(", block))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[page]):
        file = PAGES[page].parent / target if target else PAGES[page]
        assert file.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings
            }, f"{page}: #{anchor}"


@pytest.mark.parametrize("page", RESULTS)
def test_measured_figures_are_those_of_the_results(page: str) -> None:
    """The marked block holds the measured tables as they are, and no figure in percent stands there
    that they do not have."""
    from results import load_results, to_markdown

    block = re.search(r"<!-- results:begin -->\n(.*?)<!-- results:end -->", TEXTS[page], re.DOTALL)
    assert block is not None
    tables = [
        to_markdown(load_results(ROOT / "results" / f"{name}.json")) for name in RESULTS[page]
    ]
    assert all(table in block[1] for table in tables)
    figures = set(re.findall(r"\d+\.\d\d?\b", block[1]))
    assert figures <= set(re.findall(r"\d+\.\d\d?\b", "".join(tables)))
