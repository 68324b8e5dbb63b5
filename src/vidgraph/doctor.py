"""`vidgraph doctor`: what is installed, what really works here, and what to do about what does
not.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vidgraph import __version__

# What installing vidgraph installs, apart from torch and torchvision, which are checked by
# themselves.
REQUIRED = (
    *(
        "numpy",
        "av",
        "lightning",
        "torchmetrics",
        "jsonargparse",
        "pandas",
        "pyarrow",
        "safetensors",
        "huggingface-hub",
        "pillow",
    ),
    *(
        "pyyaml",
        "rich",
        "matplotlib",
        "opencv-contrib-python-headless",
        "scikit-learn",
        "tensorboard",
    ),
)
OLDEST_TORCH = (2, 11)
_GIB, _NAME_WIDTH = 2**30, 18
_ENOUGH_DISK_GIB, _ENOUGH_SHARED_GIB = 2.0, 0.25


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: False where vidgraph, or the part of it that needs this, will not work.
        value: what was found.
        advice: what to do; empty where nothing needs doing.
    """

    name: str
    ok: bool
    value: str
    advice: str = ""

    def to_text(self) -> str:
        line = f"{'ok ' if self.ok else 'BAD'}  {self.name:<{_NAME_WIDTH}} {self.value}"
        return f"{line}\n     {'':<{_NAME_WIDTH}} -> {self.advice}" if self.advice else line


def doctor_report() -> dict[str, Any]:
    """Looks at everything once: `{ok, checks: [{name, ok, value, advice}]}`, for `vidgraph doctor
    --json`.
    """
    checks = [*_software(), *_packages(), *_decoders(), *_devices(), *_space()]
    return {"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]}


def to_text(report: dict[str, Any]) -> str:
    """The report for people: one line per check, and one more where something is to be done."""
    lines = [Check(**check).to_text() for check in report["checks"]]
    bad = [check["name"] for check in report["checks"] if not check["ok"]]
    return "\n".join([*lines, "all is well" if not bad else f"needs attention: {', '.join(bad)}"])


def _software() -> Iterator[Check]:
    python = sys.version_info
    supported = (3, 11) <= python[:2] <= (3, 13)
    advice = (
        ""
        if supported
        else "vidgraph is tested on Python 3.11 to 3.13; make a virtual environment with one of "
        "these"
    )
    yield Check(
        "Python",
        python[:2] >= (3, 11),
        f"{platform.python_version()} at {sys.executable} on {platform.platform()}",
        advice,
    )
    yield Check("vidgraph", True, f"{__version__} at {Path(__file__).parent}")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    new_enough = version >= OLDEST_TORCH
    advice = (
        ""
        if new_enough
        else f"install torch {'.'.join(map(str, OLDEST_TORCH))} or newer: pip install -U torch "
        "torchvision"
    )
    yield Check("torch", new_enough, torch.__version__, advice)
    yield _torchvision()


def _torchvision() -> Check:
    """Imported, not only found: a torchvision built for another torch is the commonest broken
    installation.
    """
    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except (ImportError, OSError, RuntimeError) as error:
        return Check(
            "torchvision",
            False,
            _one_line(error),
            "install the pair that belongs together: pip install -U torch torchvision",
        )
    return Check("torchvision", True, str(torchvision.__version__))


def _packages() -> Iterator[Check]:
    found = {name: _version(name) for name in REQUIRED}
    missing = [name for name in REQUIRED if found[name] is None]
    versions = ", ".join(
        f"{name} {version}" for name, version in found.items() if version is not None
    )
    yield Check(
        "packages", not missing, versions, f"pip install {' '.join(missing)}" if missing else ""
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _decoders() -> Iterator[Check]:
    """A decoder counts when it decodes a clip made here. PyAV must; others are a bonus."""
    try:  # imported here, so that the doctor works where PyAV does not
        from vidgraph.video.decoders import probe_decoders

        answers = probe_decoders()
    except (ImportError, OSError) as error:
        answers = {"pyav": _one_line(error)}
    for name, answer in answers.items():
        works = answer.startswith("ok")
        needed = name == "pyav"
        advice = "reinstall it: pip install --force-reinstall av" if needed and not works else ""
        yield Check(
            f"decoder {name}",
            works or not needed,
            answer.removeprefix("ok").strip(" ()") if works else answer,
            advice,
        )
    yield Check("FFmpeg", *_ffmpeg())


def _ffmpeg() -> tuple[bool, str, str]:
    try:
        import av
    except (ImportError, OSError) as error:
        return False, _one_line(error), "reinstall it: pip install --force-reinstall av"
    writes = "libx264" in av.codecs_available
    advice = (
        ""
        if writes
        else "this PyAV cannot write H.264; install the wheel from the package index: pip install "
        "--force-reinstall av"
    )
    return (
        writes,
        f"{av.ffmpeg_version_info} in PyAV {av.__version__}{', writes H.264' if writes else ''}",
        advice,
    )


def _devices() -> Iterator[Check]:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    yield Check(
        "CPU",
        True,
        f"{_cpu_name()}, {cores} cores for this process, {torch.backends.cpu.get_cpu_capability()}",
    )
    threads = torch.get_num_threads()
    advice = (
        f"more threads than cores slow each other down: set OMP_NUM_THREADS={cores}"
        if threads > cores
        else ""
    )
    yield Check("torch threads", True, str(threads), advice)
    yield Check("bf16 on CPU", True, _bf16_speed())
    if not torch.cuda.is_available():
        reason = (
            "torch was built without it"
            if torch.version.cuda is None
            else "no usable GPU or driver"
        )
        yield Check("CUDA", True, f"none ({reason}); everything runs on the CPU")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        yield Check(
            f"CUDA {index}",
            True,
            f"{device.name}, {device.total_memory / _GIB:.0f} GiB, {bf16}, CUDA "
            f"{torch.version.cuda}",
        )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = (
        info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    )
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _bf16_speed(size: int = 512, rounds: int = 3) -> str:
    """Every CPU computes in bf16; whether that is faster is measured, on one matrix product."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        matrix @ matrix  # the first one sets up
        start = time.perf_counter()
        for _ in range(rounds):
            matrix @ matrix
        seconds[dtype] = time.perf_counter() - start
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    return f"a matrix product runs at {ratio:.1f}x the speed of float32" + (
        "" if ratio > 1 else "; train with --train.precision fp32"
    )


def _space() -> Iterator[Check]:
    folders = {"disk here": Path.cwd(), "disk of cache": Path(torch.hub.get_dir())}
    for name, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / _GIB
        advice = (
            ""
            if free >= _ENOUGH_DISK_GIB
            else f"free some: trainings and downloads need about {_ENOUGH_DISK_GIB:.0f} GiB"
        )
        yield Check(name, not advice, f"{free:.1f} GiB free at {folder}", advice)
    shared = Path("/dev/shm")
    if shared.is_dir():
        total = shutil.disk_usage(shared).total / _GIB
        advice = (
            ""
            if total >= _ENOUGH_SHARED_GIB
            else "data workers pass clips through it: give the container more (--shm-size=1g), or "
            "use 0 workers"
        )
        yield Check("shared memory", not advice, f"{total:.1f} GiB", advice)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
