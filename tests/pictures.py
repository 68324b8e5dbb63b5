"""Where a colour is in a picture: for tests of drawings."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb


def near(pixels: np.ndarray, colour: str, tolerance: int = 60) -> np.ndarray:
    """True where a pixel has nearly that colour, bool [H, W]."""
    wanted = 255 * np.array(to_rgb(colour))
    return np.abs(pixels[..., :3].astype(float) - wanted).max(-1) < tolerance
