"""Regions that move against the background, from differences of frames; needs no weights and gives
equal boxes every time.

Shapes: H W pixels of a reduced frame, n boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from vidgraph.precompute.frames import grey

Grey = NDArray[np.uint8]
Image = NDArray[np.float32]
Affine = NDArray[np.float64]

# Shares of the strongest motion: levels above which pixels move.
_SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08)
_GAPS = (0.02, 0.05, 0.12)  # holes up to these shares of the shorter side are closed
_LEAST_SIDE = 0.04  # of the shorter side: smaller boxes are noise
_LEAST_PEAK, _LEAST_LEVEL = 3.0, 1.0  # grey levels: below, a change is noise
# Grey levels, and share of the local contrast, that differ without any motion.
_NOISE, _EDGE_SHARE = 1.5, 0.15
_BORDER_PIXELS = 2  # codecs' borders flicker
_ROUNDS = 6  # of the fit of the background
_LEAST_SHORT_SIDE = 64  # pixels; OpenCV's flow crashes on frames of less than 32
_NMS_IOU = 0.7  # of two boxes that overlap more, the one of lower score goes; as in the RPN


class MovingRegions:
    """Boxes around what moves, in frames whose shorter side is reduced to `short_side` pixels, at
    least 64; smaller ones are enlarged to that.

    A pixel moves if it differs from both the frame before and the frame after (2 frames away, or
    5), once the camera's motion is taken out. Pixels above each of several levels of motion are
    joined over gaps of several widths, and each connected part gives a box. Its score is its share
    of all motion in the frame less its share of the frame's area, so that a box with all motion and
    nothing else comes near 1, and the whole frame gets 0.
    """

    offsets: tuple[int, ...] = (-5, -2, 2, 5)

    def __init__(self, short_side: int) -> None:
        # OpenCV's flow depends on the number of threads; videos are done in parallel, not pixels.
        cv2.setNumThreads(1)
        self._short_side = max(short_side, _LEAST_SHORT_SIDE)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def prepare(self, pixels: NDArray[np.uint8]) -> Grey:
        frame = grey(pixels, self._short_side)
        if (scale := _LEAST_SHORT_SIDE / min(frame.shape)) > 1:
            size = math.ceil(frame.shape[1] * scale), math.ceil(frame.shape[0] * scale)
            return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        return frame

    def compute(self, frame: Grey, neighbours: Sequence[Grey | None]) -> NDArray[np.float32]:
        """Boxes as fractions of the frame, and their scores, highest first, [n, 5]."""
        motion = self._motion(frame, neighbours)
        height, width = motion.shape
        boxes = _boxes_of(motion)
        scores = _scores(motion, boxes)
        fractions = (boxes / np.array([width, height, width, height])).astype(np.float32)
        rows = np.concatenate([fractions, scores[:, None]], axis=1)[scores > 0]
        kept = nms(torch.from_numpy(rows[:, :4]), torch.from_numpy(rows[:, 4]), _NMS_IOU)
        return rows[kept.numpy()]

    def _motion(self, frame: Grey, neighbours: Sequence[Grey | None]) -> Image:
        """How much each pixel moves, in grey levels, [H, W].

        Where the video begins or ends, past or future is missing; then the least over all that
        there is, for a frame shows what moves in one place, and its neighbours show it in others.
        """
        far_before, before, after, far_after = neighbours
        past = self._differences(frame, before, far_before)
        future = self._differences(frame, after, far_after)
        moving = [np.minimum(a, b) for a, b in zip(past, future, strict=False)]
        if not moving:
            moving = [np.minimum.reduce(past or future or [np.zeros(frame.shape, np.float32)])]
        return np.asarray(cv2.GaussianBlur(np.maximum.reduce(moving), (0, 0), 1.0), np.float32)

    def _differences(self, frame: Grey, near: Grey | None, far: Grey | None) -> list[Image]:
        """By how much a frame differs from a near and a far one in one direction of time, where
        there are such, once the camera's motion is taken out. The flow follows a few pixels only,
        so the far frame is first shifted as the camera's motion up to the near one suggests.
        """
        if near is None:
            return []
        move = self._camera(frame, near, np.zeros(2))
        found = [_difference(frame, near, move)]
        if far is not None:
            middle = np.array([frame.shape[1], frame.shape[0], 2]) / 2
            pan = np.rint((move @ middle - middle[:2]) * self.offsets[-1] / self.offsets[-2])
            pans = (np.zeros(2), pan)
            still, moved = (np.median(cv2.absdiff(frame, _shifted(far, by))) for by in pans)
            move = self._camera(frame, far, pans[bool(moved < still)])
            found.append(_difference(frame, far, move))
        return found

    def _camera(self, frame: Grey, other: Grey, pan: Affine) -> Affine:
        """Where the background of a frame is in another, [2, 3]; `pan` is a first guess."""
        flow = self._flow.calc(frame, _shifted(other, pan), None)  # type: ignore[call-overload]
        move = _background(flow)
        move[:, 2] += pan
        return move


def _difference(frame: Grey, other: Grey, move: Affine) -> Image:
    """By how much a frame differs from another whose background is moved onto it, [H, W]."""
    size = frame.shape[::-1]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other, move, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpAffine(np.full_like(other, 255), move, size, flags=how)  # 0 outside of it
    own, theirs = (cv2.GaussianBlur(i.astype(np.float32), (0, 0), 1.0) for i in (frame, moved))
    contrast = cv2.morphologyEx(own, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    difference: Image = np.maximum(np.abs(own - theirs) - _EDGE_SHARE * contrast - _NOISE, 0)
    inside = cv2.erode(seen, np.ones((5, 5), np.uint8)) == 255
    inside[:_BORDER_PIXELS] = inside[-_BORDER_PIXELS:] = False
    inside[:, :_BORDER_PIXELS] = inside[:, -_BORDER_PIXELS:] = False
    return difference * inside


def _shifted(image: Grey, pan: Affine) -> Grey:
    """What lies `pan` pixels further, x and y, its border repeated."""
    if not pan.any():
        return image
    move = np.array([[1, 0, pan[0]], [0, 1, pan[1]]])
    how, border = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    shifted = cv2.warpAffine(image, move, image.shape[::-1], flags=how, borderMode=border)
    return np.asarray(shifted, np.uint8)


def _background(flow: Image) -> Affine:
    """The affine motion that most of a flow frame follows, [2, 3]: six rounds of Cauchy weights."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height:4, 0:width:4].astype(np.float64)
    points = np.stack([np.ones(x.size), x.ravel() / width, y.ravel() / height], axis=1)  # [P, 3]
    moves = flow[::4, ::4].reshape(-1, 2).astype(np.float64)  # [P, 2]
    weights, solution = np.ones(len(points)), np.zeros((3, 2))
    for _ in range(_ROUNDS):
        # einsum adds in one order on every machine and number of threads
        normal = np.einsum("pi,pj,p->ij", points, points, weights) + 1e-9 * np.eye(3)
        solution = np.linalg.solve(normal, np.einsum("pi,pj,p->ij", points, moves, weights))
        errors = np.hypot(*(moves - np.einsum("pi,ij->pj", points, solution)).T)
        weights = 1 / (1 + (errors / (2 * max(1.4826 * float(np.median(errors)), 0.05))) ** 2)
    shift, along_x, along_y = solution / np.array([[1], [width], [height]])
    return np.stack([along_x, along_y, shift], axis=1) + np.eye(2, 3)


def _boxes_of(motion: Image) -> NDArray[np.int64]:
    """Boxes around the connected parts at all levels and gaps, [n, 4] in pixels."""
    peak, short_side = float(motion.max(initial=0)), min(motion.shape)
    found = [np.zeros((0, 4), np.int64)]
    for gap in _GAPS if peak >= _LEAST_PEAK else ():
        radius = round(gap * short_side)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        for share in _SHARES:
            moves = (motion >= max(share * peak, _LEAST_LEVEL)).astype(np.uint8)
            joined = cv2.morphologyEx(moves, cv2.MORPH_CLOSE, disc)
            parts = cv2.connectedComponentsWithStats(joined, connectivity=8)[2][1:]
            left, top, width, height, _ = parts.T
            large = np.minimum(width, height) >= _LEAST_SIDE * short_side
            boxes = np.stack([left, top, left + width, top + height], axis=1)
            found.append(boxes[large].astype(np.int64))
    return np.unique(np.concatenate(found), axis=0)


def _scores(motion: Image, boxes: NDArray[np.int64]) -> Image:
    """Share of all motion less share of the area, [n]."""
    total = cv2.integral(motion)  # float64 [H + 1, W + 1]
    x0, y0, x1, y1 = boxes.T
    held = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    shares = held / max(float(total[-1, -1]), 1e-9) - (x1 - x0) * (y1 - y0) / motion.size
    return np.asarray(shares, np.float32)
