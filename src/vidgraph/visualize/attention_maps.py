"""Where in each frame a model looks, drawn over the frame: the attention of models without nodes,
whose weights are of a map's cells.

Shapes: T frames, h w cells of the map, H W pixels.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from PIL import Image

from vidgraph.records import Explanation
from vidgraph.visualize.graph import enlarge

_LEAST_SCALE = 2.0  # times an even share; attention that never exceeds it stays faint
_DARKEST = 0.35  # brightness of the frame where no attention goes
_STRONGEST = 0.6  # share of the colour where most of it goes


class AttentionPictures:
    """Draws the attention of a clip; one scale for all its frames.

    Args:
        explanation: of a model that attends to cells.
    """

    def __init__(self, explanation: Explanation) -> None:
        assert explanation.maps is not None
        maps = explanation.maps.detach().double().cpu().numpy()
        cells = maps.shape[1] * maps.shape[2]
        self.shares: np.ndarray = maps * cells  # in units of an even share, [T, h, w]
        self.scale = max(_LEAST_SCALE, float(self.shares.max()))

    def over_frame(self, frame: np.ndarray, t: int, *, side: int = 512) -> np.ndarray:
        """One frame, dark where it gets less than an even share of the attention, and warmer the
        more it gets above one.

        Even attention leaves the frame as it is. Between the centres of cells the weights are
        interpolated.

        Args:
            frame: uint8 [H, W, 3], the part of the picture that the model saw.
            t: sampled frame, from 0.
            side: shorter side of the drawing in pixels.

        Returns:
            uint8 [h, w, 3].
        """
        picture = enlarge(frame, side).astype(np.float64)
        height, width = picture.shape[:2]
        share = np.asarray(
            Image.fromarray(self.shares[t].astype(np.float32)).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        dimmed = picture * (_DARKEST + (1 - _DARKEST) * np.clip(share, 0, 1))[..., None]
        strength = np.log(np.maximum(share, 1)) / np.log(
            self.scale
        )  # by ratios: a peak does not hide what is twice an even share
        colours = 255 * matplotlib.colormaps["plasma"](0.5 + 0.45 * strength)[..., :3]
        blend = (_STRONGEST * strength)[..., None]
        drawn: np.ndarray = (
            np.clip(dimmed * (1 - blend) + colours * blend, 0, 255).round().astype(np.uint8)
        )
        return drawn

    def looked_at(self, t: int) -> float:
        """How much of the frame the attention is spread over, from one cell's part to 1: two to the
        power of its entropy, by all cells.
        """
        weights = self.shares[t].ravel() / self.shares[t].size
        some = weights[weights > 0]
        return float(np.exp(-(some * np.log(some)).sum()) / weights.size)

    def place(self, t: int) -> tuple[float, float]:
        """Where the most attention goes: the centre of that cell, from the left and from the top,
        in fractions of the frame.
        """
        row, column = np.unravel_index(int(self.shares[t].argmax()), self.shares[t].shape)
        height, width = self.shares[t].shape
        return (float(column) + 0.5) / width, (float(row) + 0.5) / height

    @staticmethod
    def colours(count: int = 9) -> list[tuple[int, int, int]]:
        """Of the scale, from an even share up."""
        found = matplotlib.colormaps["plasma"](np.linspace(0.5, 0.95, count), bytes=True)
        return [(int(red), int(green), int(blue)) for red, green, blue, _ in found]
