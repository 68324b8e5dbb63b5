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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vidgraph.errors import RecipeError, RunError, WeightsError

if TYPE_CHECKING:
    from torch import nn

SMALL_MODEL = 5_000_000  # parameters


def choose_device(wanted: str | None) -> str:
    """`cuda` or `cpu`; for None and `auto` a GPU where there is one."""
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

    The operations of a small model are so short that its threads mostly wait for each other, which
    becomes ruinous as soon as another process, such as one that reads clips, takes a core. By
    benchmarks/threads.py, clips/s of training on two cores (AMD EPYC) with one and two threads:

        rstg_small, 0.5 M parameters    alone 40 and 57    beside a busy process 37 and 20
        i3d_small, 1.1 M parameters     alone 12 and 24    beside a busy process 13 and 8
        i3d_r50, 27 M parameters        alone 1.0 and 1.6  beside a busy process 0.8 and 0.6
    """
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(threads)) if threads.isdigit() else 1
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL
    return 1 if small else available_cores()


def check_target(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Fails early, before the work, if a file could not be written, or is one of the `inputs`."""
    target = Path(path)
    _check_can_be_replaced(target)
    for given in map(Path, inputs):
        if target.exists() and given.exists() and target.samefile(given):
            what = "is read here, and would be overwritten; name another file to write"
            raise RunError(f"{target}: {what}")
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = f"cannot be written, {parent} is not a folder that you may write to"
        raise RunError(f"{target}: {what}")


def _check_can_be_replaced(target: Path) -> None:
    """A rename over a link, device or pipe would lose it."""
    if not target.name or target.is_dir():  # the current folder has no name
        what = "a folder; name a file to write"
    elif target.is_symlink():
        what = "a symbolic link; name the file that it points to, or another one"
    elif target.exists() and not target.is_file():
        what = "a device, pipe or socket; name a regular file"
    else:
        return
    raise RunError(f"{target}: cannot be written, it is {what}")


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
        what = f"cannot be written ({error.strerror or error}); an older file there is intact"
        raise RunError(f"{target}: {what}") from error
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


def hub_file(hub_id: str, name: str) -> Path | None:
    """A file of a model on the Hugging Face hub, downloaded into the hub's cache; offline the cache
    is used. None where the model has no such file.

    Raises:
        WeightsError: there is no such model, or the hub cannot be reached and the file is not in
            the cache.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        offline = not _resolves(constants.ENDPOINT)
        return Path(huggingface_hub.hf_hub_download(hub_id, name, local_files_only=offline))
    except errors.LocalEntryNotFoundError as error:
        problem = "no such folder here, and the hub cannot be reached; check the path"
        raise WeightsError(f"{hub_id}: {problem} or the network") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        problem = "no such folder here, and no such (public) model on the hub; check the spelling"
        raise WeightsError(f"{hub_id}: {problem}") from error
    except errors.EntryNotFoundError:
        return None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        problem = f"cannot be fetched from the hub ({error})"
        raise WeightsError(f"{hub_id}: {problem}; try again, or give its folder") from error


def _resolves(endpoint: str) -> bool:
    """Whether the hub's name has an address; asking in vain would retry for half a minute."""
    import socket
    import urllib.request
    from urllib.parse import urlsplit

    address = urlsplit(endpoint)
    if urllib.request.getproxies().get(address.scheme):
        return True
    try:
        socket.getaddrinfo(address.hostname, address.port or 443)
    except OSError:
        return False
    return True


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts `class2` before `class10`: runs of digits compare as numbers, the rest as text.

    Names of equal numbers, such as `1` and `01`, are ordered as text, so no two names are equal.
    Digits are compared by length and then as text: Python converts no more than 4,300 to a number.
    """
    pieces = [(0, piece) for piece in re.split(r"([0-9]+)", name)]  # text and digits in turn
    pieces[1::2] = [(len(digits.lstrip("0")), digits.lstrip("0")) for _, digits in pieces[1::2]]
    return pieces, name


@contextmanager
def counter(
    what: str, every_seconds: float = 15.0, note: Callable[[], str] = str
) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be called with (done, in all), which tells how many per second, the time
    left, and what `note` says: beside a moving bar on a terminal; in a log file by a line now and
    then.
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


# Torch's zip, and what it wrote before version 1.6.
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")
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
        what = f"not a whole checkpoint of plain tensors ({error}); nothing in it was run"
        raise WeightsError(f"{file}: {what}; download it again") from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise WeightsError(f"{file}: holds a {kind}, not named tensors; give a checkpoint")
    return {str(name): value for name, value in content.items()}


def _read_plain(file: Path) -> Any:
    """What a file holds; ValueError where it is cut short or holds more than numbers and texts."""
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
        what = f"{refused[1]} is not allowed" if refused else "cut short, or more than tensors"
        raise ValueError(what) from error
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise ValueError(" ".join(str(error).split()).partition(". ")[0] or "cut short") from error
    return unpickle_arrays(file.read_bytes())


def unpickle_arrays(content: bytes) -> Any:
    """Containers, texts, numbers and arrays of a pickle, also Python 2's; no code runs. ValueError:
    anything else is in it, functions above all, or it is no whole pickle.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever a damaged one raises
        raise ValueError(" ".join(str(error).split())) from error


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
        # What numpy's own reconstruction does, for plain arrays only.
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.uint8),
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.uint8),
        ("numpy", "ndarray"): object,  # only ever handed to these, which ignore it
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
