"""What a writer must not replace, the order of names, and the counter of long commands where the
output is not a terminal.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vidgraph.errors import RunError
from vidgraph.util import atomic_write, check_target, counter, duration, natural_key, write_json

WRITERS: dict[str, Callable[[Path], object]] = {
    "check_target": check_target,
    "atomic_write": lambda path: atomic_write(path).__enter__(),
    "write_json": lambda path: write_json(path, {}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_pipe_is_not_replaced_by_a_file(write: Callable[[Path], object], tmp_path: Path) -> None:
    pipe = tmp_path / "skipped.txt"
    os.mkfifo(pipe)
    what = "cannot be written, it is a device, pipe or socket; name a regular file"
    with pytest.raises(RunError, match=re.escape(f"{pipe}: {what}") + "$"):
        write(pipe)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_symbolic_link_is_not_replaced_by_a_file(
    write: Callable[[Path], object], there: bool, tmp_path: Path
) -> None:
    file, link = tmp_path / "file.json", tmp_path / "link.json"
    if there:
        file.write_text("before")
    link.symlink_to(file)
    message = "link.json: cannot be written, it is a symbolic link; name the file that it points to"
    with pytest.raises(RunError, match=message):
        write(link)
    assert link.readlink() == file
    assert file.exists() is there
    assert not there or file.read_text() == "before"


def test_natural_order_is_a_total_order_of_any_names() -> None:
    in_order = ["", "007", "07", "7", "8", "10", "1" + "0" * 5000, "2" + "0" * 5000]
    in_order += ["9" * 5001 + "a", "walk", "walk2", "walk10", "walk10a", "walk 2"]
    for names in (in_order[::-1], in_order[::2] + in_order[1::2]):
        assert sorted(names, key=natural_key) == in_order
    for first, second in itertools.combinations(in_order, 2):
        assert natural_key(first) < natural_key(second)


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0, 42.4, 89, 91, 720, 3599, 5400, 11_100)] == [
        "0 s", "42 s", "89 s", "2 min", "12 min", "1 h 00 min", "1 h 30 min", "3 h 05 min",
    ]  # fmt: skip


def test_counter_prints_how_many_per_second_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with counter("videos", every_seconds=0) as report:
        report(0, 0)
        report(0, 1040)
        report(390, 1040)
        report(1040, 1040)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  0.0 %  0 of 1,040 videos  0 videos/s  the time left is not known"
    assert re.fullmatch(r" 37\.5 %  390 of 1,040 videos  \S+ videos/s  0 s left", lines[1])
    assert lines[2].startswith("100.0 %  1,040 of 1,040 videos")
    assert len(lines) == 3


def test_counter_is_silent_in_between(capsys: pytest.CaptureFixture[str]) -> None:
    with counter("files") as report:
        for done in range(5):
            report(done, 4)
    assert capsys.readouterr().err == ""
