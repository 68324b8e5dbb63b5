"""Which decoders really decode on this machine, found out by decoding a probe clip."""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
import numpy as np

from vidgraph.errors import VidgraphError
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video


def probe_decoders() -> dict[str, str]:
    """Writes a small clip, reads three of its frames with each decoder and compares.

    PyAV is what `open_video` uses. torchcodec is reported where it is installed; `open_video` does
    not use it even then: on frames spread over a video it was slower here (benchmarks/reader.py
    times both), and how it treats damaged files is not established.

    Returns:
        Decoder name -> `"ok ..."` with its version, or one line that says why it cannot be used.
    """
    clip = np.zeros((12, 32, 48, 3), dtype=np.uint8)  # [T, H, W, 3]
    clip[:, :, :, 0] = np.linspace(0, 240, 12, dtype=np.uint8)[:, None, None]
    clip[:, 8:24, 8:24, 1] = 200
    indices = [0, 7, 11]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        try:
            write_video(path, clip, fps=25, lossless=True)
            with open_video(path) as video:
                is_exact = np.array_equal(video.read(indices), clip[indices])
        except (VidgraphError, av.FFmpegError) as error:
            return {
                "pyav": f"does not decode a probe clip ({error})",
                "torchcodec": "not probed: there is no probe clip",
            }
        write_video(path, clip, fps=25)
        with open_video(path) as video:
            reference = video.read(indices)
        ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
        pyav = (
            f"ok (PyAV {av.__version__}, libavcodec {ffmpeg})"
            if is_exact
            else "decodes a lossless probe clip wrongly"
        )
        return {"pyav": pyav, "torchcodec": _probe_torchcodec(path, indices, reference)}


def _probe_torchcodec(path: Path, indices: list[int], reference: np.ndarray) -> str:
    # Without FFmpeg's shared libraries torchcodec fails at import (OSError) or at first use
    # (RuntimeError), by version.
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(
            str(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC"
        )
        frames = decoder.get_frames_at(indices).data.numpy()
    except ImportError:
        return "not installed"
    except (OSError, RuntimeError) as error:
        return "installed, but does not load or decode: " + str(error).strip().splitlines()[0]
    if frames.shape != reference.shape or not np.array_equal(frames, reference):
        return "decodes a probe clip to other pixels than PyAV"
    return f"ok (torchcodec {torchcodec.__version__}, equal to PyAV on a probe clip)"
