"""The doctor: on a working installation all is well; each thing that can be broken gets a line that
says what to do.
"""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from importlib import metadata
from typing import Any

import pytest
import torch

import vidgraph
from vidgraph import doctor


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return doctor.doctor_report()


def found(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in report["checks"] if check["name"] == name)


def test_a_working_installation_is_well(report: dict[str, Any]) -> None:
    names = [check["name"] for check in report["checks"]]
    expected = ["Python", "packages", "torchvision", "video", "hardware", "disk here"]
    assert [name for name in names if name in expected] == expected
    bad = [check["name"] for check in report["checks"] if not check["ok"]]
    assert not set(bad) - {"disk here", "shared memory"}
    packages = found(report, "packages")["value"]
    assert f"vidgraph {vidgraph.__version__}, " in packages
    assert f"pandas {metadata.version('pandas')}" in packages
    assert report["environment"]["torch_version"] == torch.__version__


def test_report_is_json_and_text_has_a_line_per_check(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report))["checks"] == report["checks"]
    lines = doctor.to_text(report).splitlines()
    assert sum(line.startswith(("ok ", "BAD")) for line in lines) == len(report["checks"])
    assert lines[-1] == "all is well" or lines[-1].startswith("needs attention: ")


def test_missing_and_old_packages_are_named_with_their_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"vidgraph": "1.0", "torch": "2.1.0+cpu", "numpy": "2.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    needed = ["torch>=2.11", "numpy>=1.26", "pandas>=2.2", "ray>=2.4; extra == 'cluster'"]
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    check = doctor._packages()
    assert (check.ok, check.advice) == (False, "pip install 'torch>=2.11' 'pandas>=2.2'")
    text = doctor.to_text({"checks": [check._asdict()]})
    assert "BAD  packages" in text
    assert "numpy 2.0, pandas is missing" in text
    assert text.endswith("needs attention: packages")


@pytest.mark.parametrize(
    ("module", "attempt"), [("torchvision", doctor._try_torchvision), ("av", doctor._try_video)]
)
def test_what_does_not_import_is_bad(
    module: str, attempt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    check = doctor._working(module, attempt, f"pip install {module}")
    assert not check.ok
    assert "ModuleNotFoundError" in check.value
    assert check.advice == f"install it anew: pip install {module}"


def test_little_space_and_too_many_threads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(2**26, 0, 2**26))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    checks = {check.name: check for check in doctor._machine()}
    assert checks["hardware"].ok
    assert "OMP_NUM_THREADS=" in checks["hardware"].advice
    assert not checks["disk here"].ok
    assert "0.1 GiB free" in checks["disk here"].value
    assert checks["disk here"].advice


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread of "), (2, "2 threads of ")])
def test_the_machine_in_a_few_words(
    threads: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert words in doctor.describe_hardware()
    assert doctor.describe_hardware().endswith(f", torch {torch.__version__}")
