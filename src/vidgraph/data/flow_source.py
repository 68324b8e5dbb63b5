"""Where the optical flow of a data set's videos comes from: a store, images of other tools, or
computing on the way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgraph.errors import DataError
from vidgraph.precompute.flow_fields import BOUND, FlowSource
from vidgraph.video.base import Video
from vidgraph.video.snippets import FieldReader

LIVE = "live"


@dataclass(frozen=True)
class VideoFlow:
    """The flow of any video of a data set.

    Attributes:
        stored: holds it, or None where it is computed as videos are read.
        method: by which it is then computed.
        bound: what a byte reaches to, pixels at 340x256.
        short_side: pixels that the frames' shorter side is reduced to before it is computed; None:
            as they are.
    """

    stored: FlowSource | None = None
    method: str = "dis"
    bound: float = BOUND
    short_side: int | None = None

    @property
    def is_live(self) -> bool:
        return self.stored is None

    def method_dict(self) -> dict[str, Any]:
        """How the fields are made, for the fingerprint of the data; flow that is computed on the
        way equals a store's of its method.
        """
        if self.stored is not None:
            return self.stored.method_dict()
        from vidgraph.precompute.flow import FlowJob

        return FlowJob(self.method, self.bound, self.short_side).method().to_dict()

    def reader(self, path: str | Path, video: Video) -> FieldReader:
        """The fields of one video, which is open.

        Raises:
            DataError: the store has none of it, or those of another video, or the video has no
                motion, being a single frame.
        """
        if self.stored is not None:
            return self.stored.flow(path)
        from vidgraph.precompute.flow import LiveFlow

        return LiveFlow(video, self.method, bound=self.bound, short_side=self.short_side)


def open_video_flow(where: str | Path, bound: float = BOUND) -> VideoFlow:
    """Opens what a recipe or the command names.

    Args:
        where: a store of flow, a folder of flow images, `live` to compute it with DIS, or
            `live:tvl1` and so on for another method.
        bound: what a byte reaches to, pixels at 340x256.

    Raises:
        DataError: there is no flow, or it has another bound; an unknown method.
    """
    word, colon, method = str(where).partition(":")
    if word != LIVE or (colon and not method):
        from vidgraph.precompute.flow_store import open_flow

        return VideoFlow(open_flow(where, bound), bound=bound)
    from vidgraph.precompute.flow import FlowJob

    job = FlowJob(method or VideoFlow.method, bound)  # raises
    return VideoFlow(None, job.algorithm, job.bound)


def flow_as_trained(run: str | Path, where: str | Path | None) -> VideoFlow:
    """The flow to show a model: of a store, or computed on the way with the method and settings
    that a run folder was trained on.

    Args:
        run: the run folder; what else can name a model says nothing of flow, which is then DIS with
            a bound of 20 pixels.
        where: as for `open_video_flow`; None: compute it.

    Raises:
        DataError: there is no flow, or it has another bound than that of the training.
    """
    from vidgraph.precompute.flow import METHODS

    try:
        trained = (
            json.loads((Path(run) / "data.json").read_text(encoding="utf-8")).get("flow") or {}
        )
    except (OSError, ValueError, AttributeError):
        trained = {}
    settings, method = trained.get("settings", {}), trained.get("method")
    bound = float(settings.get("bound", BOUND))
    if where is not None:
        return open_video_flow(where, bound)
    return VideoFlow(
        None, method if method in METHODS else VideoFlow.method, bound, settings.get("short_side")
    )


def no_flow(where: str, how: str) -> DataError:
    """What to tell a user whose model takes flow where none is named; `how` is the option that
    names it.
    """
    what = (
        "the model takes optical flow, and no store of it is given; make one with vidgraph "
        "extract flow, and name it with"
    )
    return DataError(
        f"{where}: {what} {how} STORE, or let it be computed on the way with {how} {LIVE}"
    )
