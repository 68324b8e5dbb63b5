"""The documentation against the code: commands, recipes, keys, files, tests and names that pages
mention, code that they show, and every figure of a measured table.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import vidgraph
from reproduce import plan
from results import load_results, to_markdown
from tool import Parser
from vidgraph import errors
from vidgraph.cli import TAKE_OVERRIDES, app, main, split_overrides
from vidgraph.config import (
    list_recipes,
    load_data,
    load_recipe,
    load_views,
    model_overrides,
    recipe_keys,
)
from vidgraph.data.check import KINDS, UNUSABLE
from vidgraph.models.build import list_models, resolve_options
from vidgraph.video.writer import write_video
from vidgraph.weights import list_shipped

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "vidgraph"
RESULTS = {
    "README.md": ("syncmnist3", "syncmnist5"),
    "docs/results.md": ("syncmnist3_options", "ucf101_regions_small", "ucf101_small"),
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted(SOURCE.glob("shipped/*/card.md"))
TEXTS = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in [*PAGES, *CARDS]}
FENCE = re.compile(r"^```(\{?\w[\w-]*\}?)? ?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROWS = [f"{name}:{row}" for name, rows in list_recipes().items() for row in rows]


def fences(text: str, language: str) -> list[str]:
    """The content of each fenced block of a language."""
    return [content for kind, _, content in FENCE.findall(text) if kind == language]


RECIPES = {  # that pages show, by the name under which readers save them
    f"{name}.yaml": fences(TEXTS[f"docs/{page}.md"], "yaml")[0]
    for name, page in {"mine": "your_own_data", "digits3": "quickstart"}.items()
}


def spans(pattern: str) -> list[tuple[str, str]]:
    """(page, inline code) outside of fenced blocks, where the whole of it fits a pattern."""
    found = {
        (page, span)
        for page, text in TEXTS.items()
        for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        if re.fullmatch(pattern, span)
    }
    return sorted(found)


def commands(start: str) -> list[tuple[str, str]]:
    """(page, the rest of the line) of every command in a shell block that starts so."""
    lines = [
        (page, line.strip())
        for page, text in TEXTS.items()
        for block in fences(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [(page, line[m.end() :]) for page, line in lines if (m := re.match(start, line))]


def understood(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The verb that words of the command line call, and its typed values."""
    command: Any = typer.main.get_command(app)
    name = "vidgraph"
    while hasattr(command, "commands"):
        name = words.pop(0)
        command = command.commands[name]
    return name, command.make_context(name, words, obj={}).params


def recipe_of(name: str, folder: Path) -> str:
    """A recipe that can be loaded: of the package, as a page shows it, or one for a run folder."""
    if name.partition(":")[0] in list_recipes():
        return name
    file = folder / (name if name in RECIPES else "mine.yaml")
    file.write_text(RECIPES[file.name], encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(("page", "line"), commands(r"(torchrun .*-m vidgraph\.cli|vidgraph) "))
def test_every_command_is_understood(page: str, line: str, tmp_path: Path) -> None:
    words, overrides = split_overrides(shlex.split(line, comments=True))
    assert not overrides or words[0] in TAKE_OVERRIDES
    verb, given = understood(words)
    if verb == "train" and not given["source"].startswith("clips"):
        load_recipe(recipe_of(given["source"], tmp_path), overrides)
    elif verb == "eval":
        load_views(None, {key: x for key, x in overrides.items() if key.startswith("eval.")})
        rest = {key: x for key, x in overrides.items() if not key.startswith("eval.")}
        load_data(given["data"] or "syncmnist3", rest)
    elif verb in ("profile", "convert"):
        name = given.get("model") or given["architecture"]
        resolve_options(name, model_overrides(overrides), name)


@pytest.mark.parametrize(("page", "line"), commands(r"python tools/"))
def test_every_tool_is_understood(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed(Exception):
        pass

    def parse(self: Parser, words: list[str]) -> argparse.Namespace:
        raise Parsed(argparse.ArgumentParser.parse_args(self, words))

    monkeypatch.setattr(Parser, "parse_args", parse)
    name, *words = shlex.split(line)
    with pytest.raises(Parsed) as parsed:
        importlib.import_module(name.removesuffix(".py")).main(words)
    if name == "reproduce.py":
        args, overrides = parsed.value.args[0], split_overrides(words)[1]
        assert plan(args.recipe, args.size, args.rows, args.seeds, args.out, overrides)


def test_commands_within_the_text_exist() -> None:
    for page, span in spans(r"vidgraph [a-z].*"):
        command: Any = typer.main.get_command(app)
        words = span.split()[1:]
        while hasattr(command, "commands") and words:
            command = command.commands[words.pop(0)]
        known = {option for item in command.params for option in item.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, page


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few clips of two colours."""
    monkeypatch.chdir(tmp_path)
    for label, colour in (("red", 200), ("grey", 90)):
        Path("clips", label).mkdir(parents=True)
        for number in range(10):
            frames = np.full((8, 48, 64, 3), 90, np.uint8)
            frames[:, 4 * number :, :, 0] = colour
            write_video(Path("clips", label, f"{number}.mp4"), iter(frames), 8)
    Path("new.mp4").symlink_to(Path("clips/red/0.mp4"))
    lines = [line for page, line in commands("vidgraph ") if page == "README.md"]
    assert [line.split()[0] for line in lines] == ["train", "predict", "predict"]
    assert [main(shlex.split(line, comments=True)) for line in lines] == [0, 0, 0]
    for page in ("why.html", "runs/clips/report.html"):
        assert Path(page).stat().st_size > 10_000
    for block in fences(TEXTS["README.md"], "python"):
        exec(compile(block, "README.md", "exec"), {})


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {line.split()[0] for _, line in commands("make ")}
    named |= {span.split()[1] for _, span in spans(r"make [a-z-]+")}
    assert {"demo", "test"} <= named <= targets


def test_rows_keys_and_names_exist() -> None:
    assert {row for _, row in spans(rf"(?:{'|'.join(list_recipes())}):\w+")} <= set(ROWS)
    keys = {*recipe_keys(), "eval.NAME"}
    for page, span in spans(r"(data|train|eval)\.(?!csv|json)[a-z]\w+(\.\w+)*(:? .*)?"):
        assert re.split(r":? ", span)[0] in keys, f"{page}: {span}"
    known = {*list_models(), *list_shipped(), *(row.partition(":")[2] for row in ROWS)}
    names = r"(?:rstg|strg|i3d|c2d|stpyramid|two_stream|lrcn|mean_lstm|conv_lstm|digit)_\w+"
    unknown = {(page, name) for page, name in spans(names) if name not in known}
    assert {name for _, name in unknown} <= {"strg_avgpool", "digit_stem"}
    for page, name in spans(r"[A-Z]\w+Error"):
        assert hasattr(errors, name) or hasattr(builtins, name), f"{page}: {name}"


def test_every_recipe_row_is_in_reproducing_with_its_published_number() -> None:
    text = TEXTS["docs/reproducing.md"]
    shown = dict(re.findall(r"^\| `(\w+:\w+)` \| .* \| ([\d.-]+) \|$", text, re.MULTILINE))
    digits = r"^\| `(\w+)` \|.* \| (`\w+`|[\d.-]+) \| (`\w+`|[\d.-]+) \|$"
    for row, three, five in re.findall(digits, text, re.MULTILINE):
        shown |= {f"syncmnist3:{row}": three, f"syncmnist5:{row}": five}
    options = text.partition("without `moments`")[2].partition("\n\n")[0]
    shown |= {f"syncmnist3_options:{row}": "-" for row in re.findall(r"`(\w+_small)`", options)}
    shown = {row: number for row, number in shown.items() if number != "`rstg`"}
    assert shown == {row: str(load_recipe(row).published or "-") for row in ROWS}


def test_every_kind_of_finding_is_explained() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (yes|no).* \|$", TEXTS["docs/your_own_data.md"], re.MULTILINE
    )
    kinds = [row for row in rows if row[0] in KINDS]
    assert [kind for kind, _, _ in kinds] == list(KINDS)
    assert all(text.startswith(KINDS[kind]) for kind, text, _ in kinds)
    assert tuple(kind for kind, _, listed in kinds if listed == "yes") == UNUSABLE


def test_import_rules_are_those_of_the_test() -> None:
    path = Path(__file__).with_name("test_import_rules.py")
    spec = importlib.util.spec_from_file_location("import_rules", path)
    assert spec is not None
    assert spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    text = TEXTS["docs/architecture.md"].partition("## Who may import whom")[2]
    shown = {
        name: set(re.findall(r"`(\w+)`", cell))
        for name, cell in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    }
    assert shown == rules.MAY_IMPORT


def test_files_and_tests_that_are_named_exist() -> None:
    folders = (ROOT, SOURCE, ROOT / "docs", ROOT / "results")
    of_readers = {*RECIPES, "recipe.yaml"}
    for page, span in spans(r"(?:[\w.]+/)*[\w.]+\.(?:py|md|yaml|npz)"):
        found = any((folder / span).exists() for folder in folders)
        assert found or span in of_readers, f"{page}: {span}"
    tests = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))
    }
    assert [(page, name) for page, name in spans(r"test_\w+") if name not in tests] == []
    table = re.findall(r"^\| (.+?) \|.*\| (.*?) ?\|$", TEXTS["docs/departures.md"], re.MULTILINE)
    untested = [what for what, test in table if "`test_" not in test]
    assert len(table) > 90
    assert {*untested} <= {"subject", "what", "---", "Proceedings"}


def test_python_shown_compiles_and_imports() -> None:
    for page, text in TEXTS.items():
        for block in fences(text, "python"):
            compile(block, page, "exec")
            for module, names in re.findall(r"^from (vidgraph[\w.]*) import (.+)$", block, re.M):
                found = importlib.import_module(module)
                assert all(hasattr(found, name.strip()) for name in names.split(","))
            assert all(
                hasattr(vidgraph, name) for name in re.findall(r"\bvidgraph\.(\w+)\(", block)
            )


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        to = file.parent / target if target else file
        assert to.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", to.read_text(encoding="utf-8"), re.MULTILINE)
            names = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in names, f"{target}#{anchor}"


@pytest.mark.parametrize("page", RESULTS)
def test_measured_figures_are_those_of_the_results(page: str) -> None:
    """The marked block holds the measured tables as they are, and no other figure in percent."""
    block = TEXTS[page].rpartition("results:begin -->\n")[2].partition("<!-- results:end")[0]
    tables = [to_markdown(load_results(ROOT / f"results/{name}.json")) for name in RESULTS[page]]
    assert "".join(block.split()) == "".join("".join(tables).split())
