"""What a writer must not replace, and the order of names."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vidgraph.errors import RunError
from vidgraph.util import check_target, natural_key, whole_file, write_json

WRITERS: dict[str, Callable[[Path], object]] = {
    "check_target": check_target,
    "whole_file": lambda path: whole_file(path).__enter__(),
    "write_json": lambda path: write_json(path, {}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_pipe_is_not_replaced_by_a_file(write: Callable[[Path], object], tmp_path: Path) -> None:
    pipe = tmp_path / "skipped.txt"
    os.mkfifo(pipe)
    with pytest.raises(RunError) as error:
        write(pipe)
    assert (
        str(error.value)
        == f"{pipe}: cannot be written, it is a device, pipe or socket; name a regular file"
    )
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
    with pytest.raises(
        RunError,
        match=r"link.json: cannot be written, it is a symbolic link; name the file that it points "
        r"to",
    ):
        write(link)
    assert link.readlink() == file
    assert file.exists() is there
    assert not there or file.read_text() == "before"


def test_natural_order_is_a_total_order_of_any_names() -> None:
    in_order = [
        "",
        "007",
        "07",
        "7",
        "8",
        "10",
        "1" + "0" * 5000,
        "2" + "0" * 5000,
        "9" * 5001 + "a",
        "walk",
        "walk2",
        "walk10",
        "walk10a",
        "walk 2",
    ]
    for names in (in_order[::-1], in_order[::2] + in_order[1::2]):
        assert sorted(names, key=natural_key) == in_order
    for first, second in itertools.combinations(in_order, 2):
        assert natural_key(first) < natural_key(second)
