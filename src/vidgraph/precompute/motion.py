"""Regions that move against the background, from differences of frames; needs no weights and gives
equal boxes every time.

Shapes: H W pixels of a reduced frame, n boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vidgraph.precompute.sources import Boxes, reduced, suppress

Image = NDArray[np.float32]

_SHARES = (
    0.7,
    0.5,
    0.35,
    0.25,
    0.18,
    0.12,
    0.08,
)  # of the strongest motion: levels above which pixels move
_GAPS = (
    0.02,
    0.05,
    0.12,
)  # of the shorter side: holes up to this are closed, so that parts become wholes
_LEAST_SIDE = 0.04  # of the shorter side: smaller boxes are noise
_LEAST_PEAK, _LEAST_LEVEL = 3.0, 1.0  # grey levels: below, a change is noise
_NOISE, _EDGE_SHARE = (
    1.5,
    0.15,
)  # grey levels, and share of the local contrast, that differ without any motion
_BORDER_PIXELS = 2  # codecs' borders flicker
_ROUNDS = 6  # of the fit of the background
_LEAST_SHORT_SIDE = 64  # pixels; OpenCV's flow crashes on frames of less than 32


class MovingRegions:
    """Boxes around what moves.

    A pixel moves if it differs from both the frame before and the frame after (2 frames away, or
    5), once the camera's motion is taken out. Pixels above each of several levels of motion are
    joined over gaps of several widths, and each connected part gives a box. Its score is its share
    of all motion in the frame less its share of the frame's area, so that a box with all motion and
    nothing else comes near 1, and the whole frame gets 0.

    Args:
        short_side: pixels of the shorter side that frames are reduced to; at least 64, which
            smaller frames are enlarged to.
    """

    offsets: tuple[int, ...] = (-5, -2, 2, 5)

    def __init__(self, short_side: int) -> None:
        cv2.setNumThreads(
            1
        )  # OpenCV's flow depends on the number of threads; videos are done in parallel, not pixels
        self._short_side = max(short_side, _LEAST_SHORT_SIDE)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame in grey, reduced, [H, W]."""
        grey = cv2.cvtColor(reduced(pixels, self._short_side), cv2.COLOR_RGB2GRAY)
        if (scale := _LEAST_SHORT_SIDE / min(grey.shape)) > 1:
            grey = cv2.resize(
                grey,
                (math.ceil(grey.shape[1] * scale), math.ceil(grey.shape[0] * scale)),
                interpolation=cv2.INTER_LINEAR,
            )
        return np.asarray(grey, np.uint8)

    def propose(
        self, frame: NDArray[np.uint8], neighbours: Sequence[NDArray[np.uint8] | None]
    ) -> tuple[Boxes, Boxes]:
        """See `BoxSource.propose`."""
        motion = self._motion(frame, neighbours)
        height, width = motion.shape
        boxes = _boxes_of(motion)
        scores = _scores(motion, boxes)
        boxes, scores = boxes[scores > 0], scores[scores > 0]
        fractions = (boxes / np.array([width, height, width, height])).astype(np.float32)
        kept = suppress(fractions, scores)
        return fractions[kept], scores[kept]

    def _motion(
        self, frame: NDArray[np.uint8], neighbours: Sequence[NDArray[np.uint8] | None]
    ) -> Image:
        """How much each pixel moves, in grey levels, [H, W]: the less against past and future, the
        more of the two distances.

        Where the video begins or ends, past or future is missing; then the least over all that
        there is, for a frame shows what moves in one place, and its neighbours show it in others.
        """
        far_before, before, after, far_after = neighbours
        past, future = (
            self._differences(frame, before, far_before),
            self._differences(frame, after, far_after),
        )
        pairs = [
            np.minimum(a, b)
            for a, b in zip(past, future, strict=True)
            if a is not None and b is not None
        ]
        if not pairs:
            one_side = [found for found in (*past, *future) if found is not None]
            pairs = (
                [np.minimum.reduce(one_side)] if one_side else [np.zeros(frame.shape, np.float32)]
            )
        return np.asarray(cv2.GaussianBlur(np.maximum.reduce(pairs), (0, 0), 1.0), np.float32)

    def _differences(
        self,
        frame: NDArray[np.uint8],
        near: NDArray[np.uint8] | None,
        far: NDArray[np.uint8] | None,
    ) -> tuple[Image | None, Image | None]:
        """By how much a frame differs from a near and a far one in one direction of time, once the
        camera's motion is taken out.

        The flow follows a few pixels only, so the far frame is first shifted as the camera's motion
        up to the near one suggests.
        """
        if near is None:
            return None, None
        move = self._camera(frame, near, np.zeros(2))
        if far is None:
            return _difference(frame, near, move), None
        middle = np.array([frame.shape[1], frame.shape[0], 2]) / 2
        pan = np.rint((move @ middle - middle[:2]) * self.offsets[-1] / self.offsets[-2])
        still, moved = (
            float(np.median(cv2.absdiff(frame, _shifted(far, by)))) for by in (np.zeros(2), pan)
        )
        return _difference(frame, near, move), _difference(
            frame, far, self._camera(frame, far, pan if moved < still else np.zeros(2))
        )

    def _camera(
        self, frame: NDArray[np.uint8], other: NDArray[np.uint8], pan: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Where the background of a frame is in another one, an affine map [2, 3]; `pan` is what is
        known of it, in whole pixels.
        """
        move = _background(self._flow.calc(frame, _shifted(other, pan), None))  # type: ignore[call-overload]
        move[:, 2] += pan
        return move


def _difference(
    frame: NDArray[np.uint8], other: NDArray[np.uint8], move: NDArray[np.float64]
) -> Image:
    """By how much a frame differs from another one whose background is moved onto its own, in grey
    levels, [H, W].
    """
    height, width = frame.shape
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other, move, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpAffine(
        np.full_like(other, 255), move, (width, height), flags=how, borderMode=cv2.BORDER_CONSTANT
    )
    own, theirs = (
        cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0) for image in (frame, moved)
    )
    contrast = cv2.morphologyEx(own, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    difference: Image = np.maximum(np.abs(own - theirs) - _EDGE_SHARE * contrast - _NOISE, 0)
    inside = cv2.erode(seen, np.ones((5, 5), np.uint8)) == 255
    inside[:_BORDER_PIXELS], inside[-_BORDER_PIXELS:] = False, False
    inside[:, :_BORDER_PIXELS], inside[:, -_BORDER_PIXELS:] = False, False
    return difference * inside


def _shifted(image: NDArray[np.uint8], pan: NDArray[np.float64]) -> NDArray[np.uint8]:
    """What lies `pan` pixels further, x and y, its border repeated."""
    if not pan.any():
        return image
    move = np.array([[1, 0, pan[0]], [0, 1, pan[1]]])
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, move, image.shape[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )


def _background(flow: Image) -> NDArray[np.float64]:
    """The affine motion that most of a flow field [H, W, 2] follows, [2, 3]: weighted least
    squares, Cauchy weights, six rounds.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height:4, 0:width:4].astype(np.float64)
    places = np.stack(
        [np.ones(x.size), x.ravel() / width, y.ravel() / height], axis=1
    )  # [points, 3]
    moves = flow[::4, ::4].reshape(-1, 2).astype(np.float64)
    weights, solution = np.ones(len(places)), np.zeros((3, 2))
    for _ in range(_ROUNDS):
        # einsum adds in one order on every machine and number of threads
        normal = np.einsum("pi,pj,p->ij", places, places, weights) + 1e-9 * np.eye(3)
        solution = np.linalg.solve(normal, np.einsum("pi,pj,p->ij", places, moves, weights))
        errors = np.hypot(*(moves - np.einsum("pi,ij->pj", places, solution)).T)
        weights = 1 / (1 + (errors / (2 * max(1.4826 * float(np.median(errors)), 0.05))) ** 2)
    shift, along_x, along_y = solution / np.array([[1], [width], [height]])
    return np.array(
        [[1 + along_x[0], along_y[0], shift[0]], [along_x[1], 1 + along_y[1], shift[1]]]
    )


def _boxes_of(motion: Image) -> NDArray[np.int64]:
    """Boxes around the connected parts at all levels and gaps, different ones in a fixed order, [n,
    4] in pixels.
    """
    peak, short_side = float(motion.max(initial=0)), min(motion.shape)
    found = [np.zeros((0, 4), np.int64)]
    for gap in _GAPS if peak >= _LEAST_PEAK else ():
        radius = round(gap * short_side)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        for share in _SHARES:
            moves = (motion >= max(share * peak, _LEAST_LEVEL)).astype(np.uint8)
            joined = cv2.morphologyEx(moves, cv2.MORPH_CLOSE, disc)
            left, top, width, height, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)[
                2
            ][1:].T
            large = np.minimum(width, height) >= _LEAST_SIDE * short_side
            found.append(
                np.stack([left, top, left + width, top + height], axis=1)[large].astype(np.int64)
            )
    return np.unique(np.concatenate(found), axis=0)


def _scores(motion: Image, boxes: NDArray[np.int64]) -> Boxes:
    """Share of all motion less share of the area, [n]."""
    total = cv2.integral(motion)  # float64 [H + 1, W + 1]
    x0, y0, x1, y1 = boxes.T
    held = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return (held / max(float(total[-1, -1]), 1e-9) - (x1 - x0) * (y1 - y0) / motion.size).astype(
        np.float32
    )
