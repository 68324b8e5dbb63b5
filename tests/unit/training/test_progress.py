"""The progress line: what it says, how often, and what it leaves out of the rate."""

from __future__ import annotations

import pytest

from vidgraph.training.learner import Validation
from vidgraph.training.progress import ProgressReport


def test_the_line_holds_rate_waiting_share_and_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = ProgressReport(total_clips=1000, first_clip=0, log_every_seconds=0, show=True)
    report.train_seconds = (
        30.0  # the first step starts workers and kernels: it says nothing about the next
    )
    report.step(100, 2.0, 10.0, wait_seconds=25.0)
    report.train_seconds = 34.0
    report.step(300, 1.5, 20.0, wait_seconds=26.0)
    assert capsys.readouterr().out.splitlines() == [
        " 10.0 %  100 of 1,000 clips  loss 2.0000  accuracy 10.0 %",
        " 30.0 %  300 of 1,000 clips  loss 1.5000  accuracy 20.0 %  50 clips/s  waiting for data "
        "25 %  14 s left",
    ]


def test_lines_keep_their_distance_and_other_processes_are_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ProgressReport(1000, 0, log_every_seconds=60, show=True).step(100, 2.0, 10.0, 0.0)
    silent = ProgressReport(1000, 0, log_every_seconds=0, show=False)
    silent.step(100, 2.0, 10.0, 0.0)
    silent.validation(100, Validation(1.0, 50.0, None), best=True)
    assert capsys.readouterr().out == ""


def test_validation_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report = ProgressReport(1000, 0, 60, show=True)
    report.validation(500, Validation(1.0, 50.0, None), best=True)
    report.validation(900, Validation(0.5, None, 12.345), best=False)
    assert capsys.readouterr().out.splitlines() == [
        "validation at 500 clips  loss 1.0000  accuracy 50.00 %  best so far",
        "validation at 900 clips  loss 0.5000  mAP 12.35 %",
    ]
