"""The counters of long commands, where the output is not a terminal."""

from __future__ import annotations

import re

import pytest

from vidgraph.progress import counter, pace


def test_pace_prints_how_many_per_second_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pace("videos", every_seconds=0) as report:
        report(0, 1040)
        report(390, 1040)
        report(1040, 1040)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  0.0 %  0 of 1,040 videos  0 videos/s  the time left is not known yet"
    assert re.fullmatch(r" 37\.5 %  390 of 1,040 videos  \S+ videos/s  0:00:00 left", lines[1])
    assert lines[2].startswith("100.0 %  1,040 of 1,040 videos")
    assert len(lines) == 3


def test_pace_is_silent_in_between_and_counter_always(capsys: pytest.CaptureFixture[str]) -> None:
    with pace("videos", every_seconds=3600) as report, counter("files") as count:
        for done in range(5):
            report(done, 4)
            count(done, 4)
    with pace("videos", every_seconds=0) as report:
        report(0, 0)
    assert capsys.readouterr().err == ""
