"""`vidgraph doctor`: what is installed, what really works here, and what to do about what does
not.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from packaging.requirements import Requirement
from torch.utils import collect_env

from vidgraph.util import available_cores

_GIB = 2**30


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool  # False where vidgraph, or the part of it that needs this, will not work
    value: str
    advice: str = ""  # what to do


def doctor_report() -> dict[str, Any]:
    """Looks at everything once: `{ok, checks: [{name, ok, value, advice}], environment}`, for
    `vidgraph doctor --json`; the environment is what torch says of itself and of the machine."""
    checks = [
        _python(),
        _packages(),
        _working("torchvision", _try_torchvision, "pip install -U torch torchvision"),
        _working("video", _try_video, "pip install --force-reinstall av"),
        *_machine(),
    ]
    return {
        "ok": all(check.ok for check in checks),
        "checks": [check._asdict() for check in checks],
        "environment": collect_env.get_env_info()._asdict(),
    }


def to_text(report: dict[str, Any]) -> str:
    """The checks for people: one line each, and one more where something is to be done."""
    lines = []
    for check in report["checks"]:
        lines.append(f"{'ok ' if check['ok'] else 'BAD'}  {check['name']:<14} {check['value']}")
        lines += [f"     {'':<14} -> {check['advice']}"] if check["advice"] else []
    bad = ", ".join(check["name"] for check in report["checks"] if not check["ok"])
    return "\n".join([*lines, f"needs attention: {bad}" if bad else "all is well"])


def describe_hardware() -> str:
    """This machine in a few words: accelerator if there is one, processor, threads, torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    parts = [torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []
    parts += [f"{threads} thread{'s' * (threads > 1)} of {processor}", f"torch {torch.__version__}"]
    return ", ".join(parts)


def _python() -> Check:
    version, value = sys.version_info[:2], f"{platform.python_version()} at {sys.executable}"
    advice = "" if version <= (3, 13) else "vidgraph is tested on Python 3.11 to 3.13"
    return Check("Python", True, f"{value} on {platform.platform()}", advice)


def _packages() -> Check:
    """What vidgraph's own metadata asks for, extras left out."""
    found, wrong = [f"vidgraph {metadata.version('vidgraph')}"], []
    for need in map(Requirement, metadata.requires("vidgraph") or ()):
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            version = "is missing"
        if version == "is missing" or not need.specifier.contains(version, prereleases=True):
            wrong.append(f"'{need.name}{need.specifier}'")
        found.append(f"{need.name} {version}")
    advice = f"pip install {' '.join(wrong)}" if wrong else ""
    return Check("packages", not wrong, ", ".join(found), advice)


def _working(name: str, attempt: Callable[[], str], install: str) -> Check:
    try:
        return Check(name, True, attempt())
    except Exception as error:  # whatever a broken installation raises
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name, False, said, f"install it anew: {install}")


def _try_torchvision() -> str:
    """A torchvision built for another torch is the commonest broken installation."""
    import torchvision
    from torchvision.ops import nms

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return str(torchvision.__version__)


def _try_video() -> str:
    """Writes a clip and reads it back, pixel for pixel."""
    import av

    from vidgraph.video.reader import open_video
    from vidgraph.video.writer import write_video

    clip = np.arange(12 * 32 * 48 * 3, dtype=np.uint8).reshape(12, 32, 48, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip, fps=25, lossless=True)
        with open_video(path) as video:
            if not np.array_equal(video.read([0, 7, 11]), clip[[0, 7, 11]]):
                raise RuntimeError("a clip that was written without loss is read differently")
    return f"writes and reads H.264 with PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


def _machine() -> Iterator[Check]:
    cores = available_cores()
    slow = torch.get_num_threads() > cores
    advice = f"more threads than cores slow each other down: set OMP_NUM_THREADS={cores}"
    value = f"{describe_hardware()}, {cores} cores for this process"
    yield Check("hardware", True, value, advice if slow else "")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        memory = f"{device.total_memory / _GIB:.0f} GiB"
        value = f"{device.name}, {memory}, {bf16}, CUDA {torch.version.cuda}"
        yield Check(f"CUDA {index}", True, value)
    free = shutil.disk_usage(".").free / _GIB
    advice = "" if free >= 2 else "free some: trainings and downloads need about 2 GiB"
    yield Check("disk here", not advice, f"{free:.1f} GiB free at {Path.cwd()}", advice)
    if (shared := Path("/dev/shm")).is_dir():
        size = shutil.disk_usage(shared).total / _GIB
        advice = "" if size >= 0.25 else "data workers need more (--shm-size=1g), or use 0 workers"
        yield Check("shared memory", not advice, f"{size:.1f} GiB", advice)
