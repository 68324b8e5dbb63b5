"""Short clips of six relations between two cut-outs of photographs, to try on what sees motion.

Two of five cut-outs of photographs that scikit-learn and matplotlib bundle stand before a part of a
photograph. One of them, the actor, approaches the other, parts from it, passes behind it, pushes it
or follows it, or both stay; all sway about their centres, so that what stays moves too. The six
clips of a number show the same two cut-outs at the same sizes, before the same background and in
the same direction: only how they move tells the relation.

Shapes: T frames, H W pixels; of two cut-outs, the actor first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vidgraph.data.syncmnist_files import begin_folder
from vidgraph.errors import DataError
from vidgraph.util import atomic_write
from vidgraph.video.writer import write_video

RELATIONS = ("approach", "follow", "part", "pass behind", "push", "stay")
HEIGHT, WIDTH, NUM_FRAMES, FPS = 120, 160, 24, 12.0
SETTINGS_FILE = "relations.json"
_HELD_OUT = 0.2  # of the groups, for val and for test each
_MARGIN = 4  # pixels between cut-outs and the border
_SIZES = 30.0, 40.0  # square root of a cut-out's area, in pixels
_TILT = 0.15  # most, in radians, of the way that they move along
_SWAY = 0.14  # most, in radians, to either side

# Package and file, and the outline of the cut-out: x and y in turn, in pixels of the picture; where
# it is empty, the picture is transparent around.
_PICTURES = {
    "pagoda": (
        "sklearn",
        "datasets/images/china.jpg",
        "199 30 193 63 138 99 97 108 95 131 118 140 119 161 86 170 86 188 98 190 98 230 64 262 "
        "76 277 73 332 121 335 175 363 210 364 217 380 292 382 354 358 365 336 340 305 340 265 "
        "350 249 319 226 318 186 328 172 295 160 297 140 318 122 239 84 217 65 213 32",
    ),
    "flower": (
        "sklearn",
        "datasets/images/flower.jpg",
        "319 85 285 97 249 99 214 116 191 142 169 208 172 262 202 316 248 351 290 359 335 357 "
        "397 330 426 287 445 226 426 146 409 124 372 99",
    ),
    "face": (
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "249 23 218 30 213 43 179 66 172 87 156 102 147 102 148 185 161 228 171 285 201 297 205 "
        "318 234 345 276 351 329 331 330 301 361 262 374 201 369 103 335 56 281 27",
    ),
    "present": (
        "matplotlib",
        "mpl-data/sample_data/Minduka_Present_Blue_Pack.png",
        "",
    ),
    "wheel": (
        "matplotlib",
        "mpl-data/sample_data/logo2.png",
        "370 68 366 84 358 97 345 106 329 109 313 106 300 97 292 84 288 68 292 52 300 39 313 30 "
        "329 27 345 30 358 39 366 52",
    ),
}
_BACKGROUNDS = (  # left, top, right and bottom of a crop, in pixels
    ("pagoda", (360, 100, 640, 310)),
    ("flower", (0, 20, 170, 148)),
    ("face", (385, 30, 512, 125)),
    ("pagoda", (345, 265, 561, 427)),
    ("flower", (448, 60, 640, 204)),
    ("face", (0, 20, 140, 125)),
)
# Each cut-out acts on two others and two act on it, once to either side.
_PAIRS = [(first, (first + step) % 5) for step in (1, 2) for first in range(5)]
NUM_GROUPS = len(_PAIRS) * len(_BACKGROUNDS)


class Scene(NamedTuple):
    """What the six clips of a number have in common.

    Attributes:
        cutouts: two pictures with transparency, at the size that they are drawn in.
        background: [H, W] pixels in RGB.
        direction: of the way from the actor to the other in the first frame, a unit of x and y.
    """

    cutouts: tuple[Image.Image, Image.Image]
    background: Image.Image
    direction: tuple[float, float]


class RelationClip(NamedTuple):
    """A clip and where its cut-outs are.

    Attributes:
        frames: uint8 [T, H, W, 3].
        boxes: of the two cut-outs, left, top, right and bottom in pixels, [T, 2, 4].
    """

    frames: NDArray[np.uint8]
    boxes: NDArray[np.float64]


def make_relations(
    folder: str | Path,
    clips_per_class: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `RELATION/NUMBER.mp4` and `table.csv` with the columns video, label, split, group.

    A group is a pair of cut-outs before a background; a fifth of the groups is for val, another for
    test. The same call continues a run that was interrupted, and leaves a finished one as it is.

    Args:
        folder: a new or empty folder, or one begun by this function with the same settings.
        clips_per_class: at least 3.
        seed: picks the clips and the splits.
        progress: called with (clips done, clips in all).

    Returns:
        The path of the table.

    Raises:
        DataError: the folder holds something else or was begun with other settings, there are too
            few clips, or a photograph is not installed.
        RunError: the folder cannot be written.
    """
    if clips_per_class < 3:
        raise DataError(
            f"{clips_per_class} clips per class cannot fill three splits; make 3 or more"
        )
    target = Path(folder).expanduser()
    begin_folder(target, SETTINGS_FILE, {"clips_per_class": clips_per_class, "seed": seed})
    table = relations_table(clips_per_class, seed)
    for done, (video, relation) in enumerate(zip(table["video"], table["label"], strict=True), 1):
        if not (target / video).is_file():
            clip = relation_clip(relation, int(Path(video).stem), seed)
            write_video(target / video, clip.frames, FPS)
        if progress is not None:
            progress(done, len(table))
    with atomic_write(target / "table.csv") as temporary:
        table.to_csv(temporary, index=False)
    return target / "table.csv"


def relations_table(clips_per_class: int, seed: int = 0) -> pd.DataFrame:
    """The rows of `make_relations`."""
    groups = min(clips_per_class, NUM_GROUPS)
    held_out = max(1, round(_HELD_OUT * groups))
    names = np.array(["val"] * held_out + ["test"] * held_out + ["train"] * groups)[:groups]
    splits = np.random.default_rng(seed).permutation(names)
    rows = [
        (f"{relation}/{number:03d}.mp4", relation, splits[number % NUM_GROUPS], _group(number))
        for relation in RELATIONS
        for number in range(clips_per_class)
    ]
    return pd.DataFrame(rows, columns=["video", "label", "split", "group"])


def _group(number: int) -> str:
    pair, background = _pair_and_background(number)
    first, second = sorted([*_PICTURES][k] for k in pair)
    return f"{first}-{second}-{background}"


def _pair_and_background(number: int) -> tuple[tuple[int, int], int]:
    """Each pair is before each background once in `NUM_GROUPS` numbers; every ten, roles change."""
    lap, first = divmod(number, len(_PAIRS))
    pair = _PAIRS[first]
    return pair if lap % 2 == 0 else pair[::-1], (first + lap) % len(_BACKGROUNDS)


# ---- one clip ------------------------------------------------------------------------------------


def relation_clip(relation: str, number: int, seed: int = 0) -> RelationClip:
    """A clip, which is a function of its arguments alone.

    Raises:
        DataError: a photograph is not installed.
    """
    draw = np.random.default_rng([seed, number, RELATIONS.index(relation)])
    scene = scene_of(number, seed)
    return drawn(scene, centres(relation, scene, draw), draw)


def scene_of(number: int, seed: int = 0) -> Scene:
    """What the six clips of a number have in common."""
    draw = np.random.default_rng([seed, number])
    pair, background = _pair_and_background(number)
    first, second = (_resized(_cutout([*_PICTURES][k]), draw.uniform(*_SIZES)) for k in pair)
    photograph, crop = _BACKGROUNDS[background]
    picture = _photograph(photograph).convert("RGB").resize((WIDTH, HEIGHT), box=crop)
    angle = draw.uniform(-_TILT, _TILT) + np.pi * (number % 2)
    return Scene((first, second), picture, (np.cos(angle), np.sin(angle)))


def centres(relation: str, scene: Scene, draw: np.random.Generator) -> NDArray[np.float64]:
    """Where the two cut-outs are in each frame, x and y in pixels, [T, 2, 2]."""
    sizes = np.array([cutout.size for cutout in scene.cutouts])
    touch = sizes[:, 0].mean()  # the distance at which they touch
    begin, end = draw.uniform(0, 0.15), draw.uniform(0.85, 1)
    done = np.clip((np.linspace(0, 1, NUM_FRAMES) - begin) / (end - begin), 0, 1)
    actor = other = np.zeros(NUM_FRAMES)  # how far each has gone
    start = touch + draw.uniform(8, 45)  # their distance in the first frame
    match relation:
        case "approach" | "part":
            near, far = touch + draw.uniform(0, 4), touch + draw.uniform(40, 55)
            start, sign = (far, 1) if relation == "approach" else (near, -1)
            share = draw.choice([0, 0.5])  # of the way is the other's
            way = sign * done * (far - near)
            actor, other = (1 - share) * way, -share * way
        case "follow":
            start = touch + draw.uniform(8, 25)
            actor = other = done * draw.uniform(30, 45)
        case "pass behind":
            start = touch + draw.uniform(4, 12)
            actor = done * 2 * start
        case "push":
            gap, pushed = draw.uniform(20, 35), draw.uniform(25, 35)
            start, actor = touch + gap, done * (gap + pushed)
            other = np.maximum(actor - gap, 0)
    places = np.stack([actor, start + other], axis=1)[..., None] * np.array(scene.direction)
    low, high = (places - sizes / 2).min((0, 1)), (places + sizes / 2).max((0, 1))
    return places + draw.uniform(_MARGIN - low, np.array([WIDTH, HEIGHT]) - _MARGIN - high)


def drawn(scene: Scene, places: NDArray[np.float64], draw: np.random.Generator) -> RelationClip:
    """The two cut-outs at these places [T, 2, 2], swaying, the actor behind the other."""
    rates, phases = draw.uniform(1, 1.6, 2), draw.uniform(0, 2 * np.pi, 2)
    seconds = np.arange(NUM_FRAMES)[:, None] / FPS
    angles = _SWAY * np.sin(2 * np.pi * rates * seconds + phases)  # [T, 2]
    frames, boxes = [], []
    for where, turned in zip(places, angles, strict=True):
        frame = scene.background.convert("RGBA")
        for k, cutout in enumerate(scene.cutouts):
            layer = _placed(cutout, where[k], turned[k])
            frame.alpha_composite(layer)
            boxes.append(layer.getbbox())
        frames.append(np.asarray(frame.convert("RGB")))
    return RelationClip(np.stack(frames), np.reshape(np.array(boxes, np.float64), (-1, 2, 4)))


def _placed(cutout: Image.Image, centre: NDArray[np.float64], angle: float) -> Image.Image:
    """A transparent frame with a cut-out turned about its centre, between pixels too."""
    cos, sin = np.cos(angle), np.sin(angle)
    (x, y), (own_x, own_y) = centre, (side / 2 for side in cutout.size)
    back = (cos, sin, own_x - cos * x - sin * y, -sin, cos, own_y + sin * x - cos * y)
    how = Image.Transform.AFFINE, back, Image.Resampling.BICUBIC
    return cutout.transform((WIDTH, HEIGHT), *how)


# ---- photographs ---------------------------------------------------------------------------------


@functools.cache
def _photograph(name: str) -> Image.Image:
    package, below, _ = _PICTURES[name]
    spec: Any = find_spec(package)  # matplotlib is not imported here: it takes seconds
    path = Path(spec.origin).parent / below if spec else Path(package, below)
    if not path.is_file():
        raise DataError(f"{path}: this photograph is missing; install {package} from PyPI again")
    return Image.open(path).convert("RGBA")


@functools.cache
def _cutout(name: str) -> Image.Image:
    """What of a photograph lies in its outline, without empty borders."""
    picture, points = _photograph(name).copy(), [*map(int, _PICTURES[name][2].split())]
    if points:
        inside = Image.new("L", picture.size)
        ImageDraw.Draw(inside).polygon(points, fill=255)
        picture.putalpha(inside)
    return picture.crop(picture.getchannel("A").getbbox())


def _resized(cutout: Image.Image, side: float) -> Image.Image:
    """At an area of `side` squared."""
    scale = side / (cutout.width * cutout.height) ** 0.5
    size = round(scale * cutout.width), round(scale * cutout.height)
    return cutout.resize(size, Image.Resampling.LANCZOS)
