"""Files that are written whole or not at all, files of weights of which no code is run, the order
of names, progress on standard error, and what of a machine a computation takes.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidgraph.errors import RecipeError, RunError, WeightsError

if TYPE_CHECKING:
    from torch import nn

SMALL_MODEL = 5_000_000  # parameters


def choose_device(wanted: str | None) -> str:
    """`cuda` or `cpu`; for None and `auto` a GPU where there is one.

    Raises:
        RecipeError: a GPU is asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RecipeError("the device is to be cuda, but torch finds no GPU; see vidgraph doctor")
    return "cuda" if available and wanted != "cpu" else "cpu"


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where downloads and exported networks are kept: the environment variable VIDGRAPH_CACHE, else
    ~/.cache/vidgraph."""
    return Path(os.environ.get("VIDGRAPH_CACHE", "~/.cache/vidgraph")).expanduser()


def torch_threads(model: nn.Module) -> int:
    """CPU threads for a model: OMP_NUM_THREADS, else one if it is small, all if it is large.

    The operations of a small model are so short that threads spend their time waiting for each
    other, which becomes ruinous as soon as another process, such as the one that reads the clips,
    takes one of the cores. By benchmarks/threads.py, clips/s of training on two cores of an AMD
    EPYC with one and with two threads, alone and beside a busy process:

        rstg_small, 0.5 M parameters    alone 40 and 57    beside 37 and 20
        i3d_small, 1.1 M parameters     alone 12 and 24    beside 13 and 8
        i3d_r50, 27 M parameters        alone 1.0 and 1.6  beside 0.8 and 0.6

    With one thread the other cores are left to the processes that read clips. A large model is what
    everything waits for, so it gets all cores.
    """
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(threads)) if threads.isdigit() else 1
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL
    return 1 if small else available_cores()


def check_target(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Fails early, before the work, if a file could not be written.

    Args:
        path: the file.
        inputs: what is read, and must not be overwritten.

    Raises:
        RunError: a folder, a link, a device or a pipe, an input, or a folder above it that cannot
            be written.
    """
    target = Path(path)
    _check_can_be_replaced(target)
    for given in map(Path, inputs):
        if target.exists() and given.exists() and target.samefile(given):
            raise RunError(
                f"{target}: is read here, and would be overwritten; name another file to write"
            )
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(
            f"{target}: cannot be written, {parent} is not a folder that you may write to"
        )


def _check_can_be_replaced(target: Path) -> None:
    """A rename over a link, device or pipe would lose it."""
    if not target.name or target.is_dir():  # the current folder has no name
        raise RunError(f"{target}: cannot be written, it is a folder; name a file to write")
    if target.is_symlink():
        raise RunError(
            f"{target}: cannot be written, it is a symbolic link; name the file that it points "
            "to, or another one"
        )
    if target.exists() and not target.is_file():
        raise RunError(
            f"{target}: cannot be written, it is a device, pipe or socket; name a regular file"
        )


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to it on success, else removed.

    The temporary name keeps the suffix, so that writers that choose a format by suffix work.

    Raises:
        RunError: `path` is a folder, link, device or pipe, the folder cannot be written or the disk
            is full; what stood at `path` before is intact.
    """
    target = Path(path)
    _check_can_be_replaced(target)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):  # where the folder itself is no folder, there is nothing to remove
            temporary.unlink(missing_ok=True)
        raise RunError(
            f"{target}: cannot be written ({error.strerror or error}); an older file there is "
            "intact"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder_lock(folder: Path, purpose: str, advice: str) -> Iterator[None]:
    """Makes a folder and holds it for this process; the system lets go of it whenever that ends.

    Raises:
        RunError: another process holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False).acquire()
    except Timeout as error:
        raise RunError(f"{folder}: {advice}") from error
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{folder}: cannot be used as {purpose} ({reason})") from error
    with lock:
        yield


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts `class2` before `class10`: runs of digits compare as numbers, the rest as text.

    Names of equal numbers, such as `1` and `01`, are ordered as text, so no two names are equal.
    Digits are compared by length and then as text, because Python converts no more than 4,300 of
    them to a number.
    """
    pieces = [(0, piece) for piece in re.split(r"([0-9]+)", name)]  # text and digits in turn
    for i in range(1, len(pieces), 2):
        digits = pieces[i][1].lstrip("0")
        pieces[i] = (len(digits), digits)
    return pieces, name


@contextmanager
def counter(
    what: str, every_seconds: float = 15.0, note: Callable[[], str] = str
) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be called with (done, in all), which tells how many per second, and the
    time left: beside a moving bar on a terminal; in a log file by a line every few seconds.

    Args:
        what: is counted.
        every_seconds: distance of lines in a log file.
        note: what else a line says; it is only asked when one is shown.
    """
    on_terminal, begin = sys.stderr.isatty(), time.monotonic()
    every, shown, first = 0.5 if on_terminal else every_seconds, begin, -1

    def line(done: int, total: int) -> str:
        rate = (done - first) / max(time.monotonic() - begin, 1e-9)
        left = f"{duration((total - done) / rate)} left" if rate else "the time left is not known"
        return f"{done:,} of {total:,} {what}  {rate:.3g} {what}/s  {left}  {note()}".rstrip()

    def report(done: int, total: int) -> None:
        nonlocal first, shown
        first = done if first < 0 else first  # of work that is continued, a part is done already
        if time.monotonic() - shown < every or not total:
            return
        shown = time.monotonic()
        if bar is None:
            print(f"{100 * done / total:5.1f} %  {line(done, total)}", file=sys.stderr, flush=True)
        else:
            bar.update(task, completed=done, total=total, description=line(done, total))

    if not on_terminal:
        bar = None
        yield report
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield report


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_TORCH_STARTS = (
    b"PK\x03\x04",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19",
)  # torch's zip, and what it wrote before version 1.6
# Where training codes put the weights among other things.
_NESTED = ("model_state", "state_dict", "model", "blobs")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Names and values of a .safetensors, .npz or torch file or of a pickle of arrays, without
    running any code of it; what lies around the weights is dropped.

    Raises:
        WeightsError: no such file, not a whole one, or one that holds more than plain tensors,
            arrays, texts and numbers.
    """
    file = Path(path)
    try:
        content = _read_plain(file)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise WeightsError(
            f"{file}: not a whole checkpoint of plain tensors ({error}); nothing in it was run; "
            "download it again"
        ) from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(
            f"{file}: holds a {type(content).__name__}, not named tensors; give a checkpoint"
        )
    return {str(name): value for name, value in content.items()}


def _read_plain(file: Path) -> Any:
    """What a file holds.

    Raises:
        ValueError: it holds something else than numbers and texts, or is cut short.
    """
    import safetensors.torch
    import torch

    with open(file, "rb") as opened:
        start = opened.read(max(map(len, _TORCH_STARTS)))
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if start.startswith(_TORCH_STARTS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{refused[1]} is not allowed" if refused else "cut short, or more than tensors"
        ) from error
    except (
        *(RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError, OSError),
        *(safetensors.SafetensorError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise ValueError(" ".join(str(error).split()).partition(". ")[0] or "cut short") from error
    return unpickle_arrays(file.read_bytes())


def unpickle_arrays(content: bytes) -> Any:
    """Containers, texts, numbers and arrays of a pickle, also Python 2's; no code runs.

    Raises:
        ValueError: anything else is in it, functions above all, or it is no whole pickle.
    """
    broken = (pickle.UnpicklingError, EOFError, TypeError, LookupError, AttributeError)
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (*broken, MemoryError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """What numpy's own reconstruction does, for plain arrays only."""
    return np.empty(0, np.uint8)


def _number_dtype(code: str, *_flags: bool) -> np.dtype[Any]:
    if not re.fullmatch(r"[<>|=]?[iufb][1248]", code):
        raise pickle.UnpicklingError(f"arrays of type {code} are not allowed")
    return np.dtype(code)


def _latin1(text: str, encoding: str) -> bytes:
    """Old pickles store bytes as text; no other encoding is needed, so none is allowed."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding} is not allowed")
    return text.encode("latin-1")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain containers and arrays of numbers; all else is refused."""

    allowed: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): object,  # only ever handed to `_empty_array`, which ignores it
        ("numpy", "dtype"): _number_dtype,
        ("_codecs", "encode"): _latin1,
        # How old pickles store the bytes of an empty array.
        ("builtins", "bytes"): lambda: b"",
        ("__builtin__", "bytes"): lambda: b"",
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self.allowed[module, name]
