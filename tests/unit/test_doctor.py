"""The doctor: on a working installation all is well; each thing that can be broken gets a line that
says what to do.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path
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


def test_working_installation_is_well(report: dict[str, Any]) -> None:
    names = [check["name"] for check in report["checks"]]
    for name in (
        "Python",
        "vidgraph",
        "torch",
        "torchvision",
        "packages",
        "decoder pyav",
        "FFmpeg",
        "CPU",
        "torch threads",
        "disk here",
    ):
        assert name in names
    assert len(names) == len(set(names))
    assert [
        check["name"]
        for check in report["checks"]
        if not check["ok"] and not check["name"].startswith(("disk", "shared"))
    ] == []


def test_values_are_those_of_this_machine(report: dict[str, Any]) -> None:
    assert found(report, "vidgraph")["value"].startswith(vidgraph.__version__)
    assert found(report, "torch")["value"] == torch.__version__
    assert f"pandas {metadata.version('pandas')}" in found(report, "packages")["value"]
    assert found(report, "torch threads")["value"] == str(torch.get_num_threads())
    assert found(report, "decoder pyav")["value"].startswith("PyAV")


def test_report_is_json_and_text_has_a_line_per_check(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report
    lines = doctor.to_text(report).splitlines()
    assert sum(line.startswith(("ok ", "BAD")) for line in lines) == len(report["checks"])
    assert lines[-1] == "all is well" or lines[-1].startswith("needs attention: ")


def test_required_packages_are_those_of_the_installation() -> None:
    """The list here and the dependencies in pyproject.toml must not drift apart."""
    project = tomllib.loads(
        (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    declared = {
        re.split("[>=<\\[]", line)[0].replace("_", "-").lower() for line in project["dependencies"]
    }
    assert declared - {"torch", "torchvision"} == set(doctor.REQUIRED)


def test_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def without_pandas(name: str) -> str:
        if name == "pandas":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", without_pandas)
    check = next(doctor._packages())
    assert (check.ok, check.advice) == (False, "pip install pandas")
    assert "BAD  packages" in check.to_text()
    assert "-> pip install pandas" in check.to_text()


def test_torchvision_of_another_torch_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    check = doctor._torchvision()
    assert not check.ok
    assert "nms does not exist" in check.value
    assert "pip install -U torch torchvision" in check.advice


def test_decoders_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyAV nothing is read; without torchcodec all is well."""
    monkeypatch.setattr(
        "vidgraph.video.decoders.probe_decoders",
        lambda: {"pyav": "ImportError: libavcodec", "torchcodec": "not installed"},
    )
    pyav, torchcodec, _ = doctor._decoders()
    assert (pyav.ok, torchcodec.ok) == (False, True)
    assert "pip install" in pyav.advice
    assert torchcodec.value == "not installed"
    assert torchcodec.advice == ""


def test_broken_pyav_does_not_break_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vidgraph.video.decoders", None)
    monkeypatch.setitem(sys.modules, "av", None)
    checks = list(doctor._decoders())
    assert [check.name for check in checks] == ["decoder pyav", "FFmpeg"]
    assert not any(check.ok for check in checks)
    assert all("pip install" in check.advice for check in checks)


def test_little_disk_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(2**26, 0, 2**26))
    checks = list(doctor._space())
    assert not any(check.ok for check in checks)
    assert "0.1 GiB free" in checks[0].value
    assert all(check.advice for check in checks)


def test_too_many_threads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    threads = next(check for check in doctor._devices() if check.name == "torch threads")
    assert threads.ok
    assert "OMP_NUM_THREADS=" in threads.advice
