"""The order of names."""

from __future__ import annotations

import itertools

from vidgraph.files import natural_key


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
