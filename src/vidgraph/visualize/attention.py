"""Where in each frame a model looks, drawn over the frame: the attention of models without nodes,
whose weights are of a map's cells.

Shapes: T frames, h w cells of the map, H W pixels.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image

from vidgraph.records import Explanation
from vidgraph.visualize.canvas import Legend, Point, enlarge, scale_colours

_LEAST_SCALE = 2.0  # times an even share; attention that never exceeds it stays faint
_DARKEST = 0.35  # brightness of the frame where no attention goes
_STRONGEST = 0.6  # share of the colour where most of it goes
_SCALE = (0.5, 0.95)  # the part of the colour map from an even share up


class AttentionPictures:
    """Draws the attention of a clip to cells; one scale for all its frames."""

    def __init__(self, explanation: Explanation) -> None:
        assert explanation.maps is not None
        maps = explanation.maps.detach().double().cpu().numpy()
        self.shares: np.ndarray = maps * maps[0].size  # in units of an even share, [T, h, w]
        self.scale = max(_LEAST_SCALE, float(self.shares.max()))

    def over_frame(self, frame: np.ndarray, t: int, *, side: int = 512) -> np.ndarray:
        """A frame, dark where it gets less than an even share, warmer the more it gets; even
        attention leaves it as it is. Between the centres of cells the weights are interpolated."""
        picture = enlarge(frame, side).astype(np.float64)
        size = picture.shape[1], picture.shape[0]
        cells = Image.fromarray(self.shares[t].astype(np.float32))
        share = np.asarray(cells.resize(size, Image.Resampling.BILINEAR))[..., None]
        dimmed = picture * (_DARKEST + (1 - _DARKEST) * np.clip(share, 0, 1))
        # By ratios: a peak does not hide what is twice an even share.
        strength = np.log(np.maximum(share, 1)) / np.log(self.scale)
        colours = 255 * colormaps["plasma"](np.interp(strength[..., 0], (0, 1), _SCALE))[..., :3]
        drawn = dimmed + _STRONGEST * strength * (colours - dimmed)
        return np.clip(drawn, 0, 255).round().astype(np.uint8)

    def spread(self, t: int) -> float:
        """Share of the frame that attention is spread over: e to its entropy, by all cells."""
        weights = self.shares[t].ravel() / self.shares[t].size
        some = weights[weights > 0]
        return float(np.exp(-(some * np.log(some)).sum()) / weights.size)

    def peak(self, t: int) -> Point:
        """The centre of the cell with the most attention, in fractions of the frame."""
        height, width = self.shares[t].shape
        row, column = divmod(int(self.shares[t].argmax()), width)
        return (column + 0.5) / width, (row + 0.5) / height

    def legend(self) -> Legend:
        """The scale of colours."""
        title, high = "attention; dark: below an even share", f"{self.scale:.1f} times that"
        return Legend(title, (), scale_colours(*_SCALE), "an even share", high)
