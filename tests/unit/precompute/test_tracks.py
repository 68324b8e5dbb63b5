"""Boxes between looks, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vidgraph.precompute.tracks import along_tracks

PERSON, BALL = 0, 32
FAR = [0.8, 0.8, 0.9, 1.0]


def look(*boxes: list[float]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 6)


def square(x: float, score: float = 0.5, what: int = PERSON) -> list[float]:
    return [x, 0.1, x + 0.4, 0.5, score, what]


def test_a_box_moves_evenly_between_two_looks() -> None:
    """Frames 1 and 5 of 8; frame 0 has the box of frame 1, and 6 and 7 that of 5."""
    found = along_tracks([look(square(0.1, 0.4)), look(square(0.3, 0.8))], [1, 5], 8)
    x = [0.1, 0.1, 0.15, 0.2, 0.25, 0.3, 0.3, 0.3]
    scores = [0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8]
    expected = [[[a, 0.1, a + 0.4, 0.5, s, PERSON, 0]] for a, s in zip(x, scores, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0].dtype == np.float32


@pytest.mark.parametrize(
    ("second", "what"),
    [(square(0.5), "an overlap of nothing"), (square(0.1, what=BALL), "another class")],
)
def test_what_does_not_match_stands_still_in_the_nearer_frames(
    second: list[float], what: str
) -> None:
    """Of frames 0 and 4, frame 2 goes to the earlier one."""
    found = along_tracks([look(square(0.1)), look(second)], [0, 4], 6)
    first = [*square(0.1), 0]
    expected = [[first]] * 3 + [[[*second, 1]]] * 3
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_thing_that_some_looks_missed() -> None:
    """Three looks in a row may miss it, of which it takes the positions between; four may not."""
    seen, nothing = look(square(0.1)), look()
    moved = look(square(0.2))
    three = along_tracks([seen, nothing, nothing, nothing, moved], [0, 2, 4, 6, 8], 9)
    np.testing.assert_allclose(
        [rows[0, [0, 6]] for rows in three], [[0.1 + 0.0125 * t, 0] for t in range(9)], atol=1e-6
    )
    four = along_tracks([seen, nothing, nothing, nothing, nothing, moved], [0, 2, 4, 6, 8, 10], 12)
    assert [rows[:, 6].tolist() for rows in four] == [[0]] * 2 + [[]] * 8 + [[1]] * 2


def test_matches_are_those_of_the_largest_overlap_in_all() -> None:
    """The best pair of all, A with the middle box (overlap 0.78), would leave B without one: B
    takes the middle box (0.6), and A the left one (0.6)."""
    a, b = square(0.1), square(0.25)
    left, middle = square(0.0), square(0.15)
    found = along_tracks([look(a, b), look(middle, left)], [0, 1], 2)
    by_track = {int(row[6]): row[0] for row in found[1]}
    assert by_track == {0: pytest.approx(0.0), 1: pytest.approx(0.15)}


def test_rows_of_a_frame_are_sorted_by_score_and_tracks_by_first_look() -> None:
    """Two persons whose scores cross, and a ball that comes later."""
    other = [*FAR, 0.6, PERSON]
    ball = [0.5, 0.5, 0.55, 0.55, 0.9, BALL]
    found = along_tracks(
        [look(other, square(0.1, 0.2)), look(square(0.1, 1.0), other, ball)], [0, 4], 5
    )
    assert [rows[:, 6].tolist() for rows in found] == [
        [0, 1],
        [0, 1],
        [0, 1],  # 0.6 and 0.6: as they came
        [2, 1, 0],
        [1, 2, 0],
    ]


def test_frames_without_any_box() -> None:
    for looks, frames in (([look()], [0]), ([look(), look()], [0, 3])):
        found = along_tracks(looks, frames, 5)
        assert [rows.shape for rows in found] == [(0, 7)] * 5


def test_looking_at_every_frame_changes_nothing_that_was_seen() -> None:
    generator = np.random.default_rng(0)
    looks = []
    for number in generator.integers(0, 5, 30):
        corners = generator.random((number, 2)) / 2
        sizes = generator.uniform(0.2, 0.5, (number, 2))
        scores = np.sort(generator.uniform(0.3, 1, (number, 1)), axis=0)[::-1]
        classes = generator.integers(0, 2, (number, 1))
        looks.append(np.hstack([corners, corners + sizes, scores, classes]).astype(np.float32))
    found = along_tracks(looks, range(30), 30)
    for rows, seen in zip(found, looks, strict=True):
        assert len(np.unique(rows[:, 6])) == len(rows)  # one box of a thing
        as_rows = {tuple(row) for row in rows[:, :6].tolist()}
        assert {tuple(row) for row in seen.tolist()} <= as_rows
