"""Through how many modules the path of a video passes, from the command to the first decoded frame.
docs/architecture.md lists them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from vidgraph.cli import main

MOST_MODULES = 14
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


class Decoded(BaseException):
    """The first frame is there; nothing after it counts."""


def holds(value: Any, path: str, depth: int = 3) -> bool:
    """Whether a value is the path, or holds it."""
    if isinstance(value, (str, Path)):
        return path in str(value)
    if isinstance(value, (list, tuple)) and depth:
        return any(holds(item, path, depth - 1) for item in value)
    return (
        depth > 0 and hasattr(value, "__dict__") and holds([*vars(value).values()], path, depth - 1)
    )


def test_a_path_passes_through_few_modules(generated_clip: Path) -> None:
    passed: list[str] = []

    def watch(frame: FrameType, event: str, result: Any) -> None:
        name = str(frame.f_globals.get("__name__", ""))
        new = event == "call" and name.startswith("vidgraph.") and name not in passed
        if new and holds([*frame.f_locals.values()], str(generated_clip)):
            passed.append(name)
        is_frame = isinstance(result, np.ndarray) and result.ndim == 3
        if event == "return" and is_frame and name == "vidgraph.video.file_decoder":
            raise Decoded

    sys.setprofile(watch)
    try:
        main(["predict", "rstg_small_sync3", str(generated_clip)])
    except Decoded:
        pass
    finally:
        sys.setprofile(None)
    assert "vidgraph.video.file_decoder" in passed
    assert 3 < len(passed) <= MOST_MODULES, passed
    listed = re.search(r"<!-- way:begin -->(.*?)<!-- way:end -->", PAGE.read_text(), re.S)
    assert listed is not None
    assert re.findall(r"`(vidgraph\.[\w.]+)`", listed[1]) == passed
