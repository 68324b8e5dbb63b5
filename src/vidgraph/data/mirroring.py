"""Which class a clip is of when it is mirrored, told by the names of the classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_DIRECTION = re.compile(
    r"(?<![a-z])(?:(?P<counter>(?:counter|anti)[-_ ]?clockwise)|clockwise|left|right)(?![a-z])",
    re.IGNORECASE,
)
_OPPOSITE = {"left": "right", "clockwise": "counterclockwise"}
_OPPOSITE |= {other: word for word, other in _OPPOSITE.items()}


def mirrored_classes(class_names: Sequence[str]) -> list[int]:
    """The class that each class becomes when its videos are mirrored.

    A class that says `left`, `right`, `clockwise` or `counterclockwise` becomes the class with the
    opposite words. One without such a partner gets -1: mirrored, it would be of no class, so it
    must not be mirrored. That also keeps "pulling it right out" from being mirrored, which costs a
    few varied clips and spares a list of idioms. All other classes stay themselves.
    """
    plain, opposite = ([_sides(name, mirror) for name in class_names] for mirror in (False, True))
    index, count = {name: k for k, name in enumerate(plain)}, Counter(plain)
    return [
        k if name == other else index[other] if count[name] == count[other] == 1 else -1
        for k, (name, other) in enumerate(zip(plain, opposite, strict=True))
    ]


def _sides(name: str, mirror: bool) -> str:
    """A class name with its directions spelt in one way, or exchanged."""

    def spell(found: re.Match[str]) -> str:
        word = "counterclockwise" if found["counter"] else found[0].lower()
        return _OPPOSITE[word] if mirror else word

    return _DIRECTION.sub(spell, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
