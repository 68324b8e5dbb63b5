"""The three changes of docs/extending.md, carried out as the page shows them on a copy of the
package, which another Python imports.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|diff)\n(?:# |--- )(vidgraph/\S+)\n(.*?)^```$", re.M | re.S)

USE_THEM = """
import torch, vidgraph
from vidgraph.weights import from_pretrained, save_weights

clip = torch.rand(2, 3, 4, 64, 48)
spec = {"num_frames": 4, "height": 64, "width": 48}
patches, most = {"type": "patches", "width": 8}, {"type": "max"}
both = vidgraph.create_model("pooled", 5, backbone=patches, head=most, input=spec)
models = {
    "both": both,
    "rstg": vidgraph.create_model("rstg", 5, backbone=patches, head={"width": 8}, input=spec),
    "max": vidgraph.create_model("pooled", 5, backbone={"width": 4}, head=most, input=spec),
}
for name, model in models.items():
    model.eval()(clip).sum().backward()
    assert all(p.grad is not None for p in model.parameters()), name
    save_weights(model, name)
    assert torch.equal(from_pretrained(name)(clip), model(clip)), name
features = both.backbone.embed(both.normalize(clip)).relu()
assert features.shape == (2, 8, 2, 4, 3)
expected = both.head.classifier(features.flatten(2).max(dim=2).values)
assert torch.allclose(both(clip), expected, atol=1e-6)
try:
    vidgraph.create_model("pooled", 5, backbone={"type": "patches", "widht": 8})
except vidgraph.errors.RecipeError as error:
    assert "widht" in str(error) and "width" in str(error), error
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as the page changes it."""
    folder = tmp_path_factory.mktemp("extended")
    unused = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "src" / "vidgraph", folder / "vidgraph", ignore=unused)
    changes = BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    assert [kind for kind, _, _ in changes] == ["python", "diff", "python", "diff", "python"]
    for kind, name, text in changes:
        file = folder / name
        if kind == "python":
            assert not file.exists()
            file.write_text(text, encoding="utf-8")
            continue
        before, added = text.splitlines()  # a line that is there, and the one to put below it
        assert (before[0], added[0]) == (" ", "+")
        content = file.read_text(encoding="utf-8")
        assert content.count(f"\n{before[1:]}\n") == 1, before
        after = content.replace(f"\n{before[1:]}\n", f"\n{before[1:]}\n{added[1:]}\n")
        file.write_text(after, encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> str:
    """What Python prints with the changed package."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backbone_and_a_head_work_with_each_other_and_with_ours(extended: Path) -> None:
    run(extended, "-c", USE_THEM)


def test_a_data_set_becomes_a_verb(extended: Path) -> None:
    for split, lines in {
        "train": "1;Drumming Fingers\n2;No gesture\n",
        "validation": "3;No gesture\n",
    }.items():
        (extended / f"jester-v1-{split}.csv").write_text(lines, encoding="utf-8")
    for name in "123":
        (extended / "videos" / name).mkdir(parents=True)
    words = ["data", "make", "jester", "--labels", ".", "--videos", "videos", "--out", "jester.csv"]
    assert "Jester, 3 videos, 2 classes" in run(extended, "-m", "vidgraph.cli", *words)
    assert (extended / "jester.csv").read_text(encoding="utf-8").splitlines() == [
        "video,label,split",
        "videos/1,Drumming Fingers,train",
        "videos/2,No gesture,train",
        "videos/3,No gesture,val",
    ]


def test_the_files_are_about_a_dozen_lines() -> None:
    """Of code, without imports and docstrings."""
    for kind, name, text in BLOCK.findall((ROOT / "docs" / "extending.md").read_text("utf-8")):
        code = re.sub(r'""".*?"""', "", text, flags=re.S) if kind == "python" else text
        lines = [line for line in code.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("from ", "import "))]
        assert len(lines) <= 16, f"{name}: {len(lines)}"
