"""A pickle that runs code where nobody refuses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))
