"""Video encoders of transformers as backbones: V-JEPA 2, VideoMAE, TimeSformer and ViViT.

Shapes: B batch, C D channels, T frames, H W pixels, T' h w map, N tokens.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vidgraph.errors import RecipeError, WeightsError, nearest
from vidgraph.records import options
from vidgraph.util import hub_file

Channels = tuple[float, ...]
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_PIXELS = ("video_preprocessor_config.json", "preprocessor_config.json")
# Where neither the model's card nor its folder says it; by the beginning of the id.
_LICENSES = {
    "facebook/vjepa2-vitl": "mit",
    "facebook/vjepa2-vitg": "apache-2.0",
    "MCG-NJU/videomae": "cc-by-nc-4.0",
}


@dataclass(frozen=True)
class Family:
    """What the encoders of one kind have in common.

    Attributes:
        name: that the names of its classes in transformers begin with.
        mean: of pixels from 0 to 1, where the model has no file that says it.
        std: likewise.
        offset: that its processor takes off pixels after scaling them, where no file says it.
        any_length: takes any even number of frames, and any square size that it is built for; the
            others have a position for every token.
    """

    name: str
    mean: Channels
    std: Channels
    offset: float = 0.0
    any_length: bool = False


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAMILIES = {
    "vjepa2": Family("VJEPA2", *_IMAGENET, any_length=True),
    "videomae": Family("VideoMAE", *_IMAGENET),
    "timesformer": Family("Timesformer", (0.45,) * 3, (0.225,) * 3),
    "vivit": Family("Vivit", (0.5,) * 3, (0.5,) * 3, offset=1.0),
}


@options
class HFOptions:
    """A video encoder of transformers, written `hf:ID` for short.

    Attributes:
        id: on the Hugging Face hub, or a folder with `config.json` and `model.safetensors`.
        weights: "pretrained": those of `id`; another id or folder to take both files from; None:
            random ones.
        config: the content of `config.json`; None: it is read, and kept with what is trained.
        license: of the weights, by the model's card; None: it is read, and kept likewise.
    """

    id: str
    weights: str | None = "pretrained"
    config: dict[str, Any] | None = None
    license: str | None = None
    type: Literal["hf"] = "hf"

    def __post_init__(self) -> None:
        if self.config is None:
            config = _read_json(_needed(self.source, _CONFIG))
            config = {k: v for k, v in config.items() if k not in ("id2label", "label2id")}
            object.__setattr__(self, "config", config)
            if self.license is None and self.weights is not None:
                object.__setattr__(self, "license", _license(self.source))

    @property
    def source(self) -> str:
        """The id or folder whose files count."""
        return self.id if self.weights in (None, "pretrained") else str(self.weights)

    @property
    def family(self) -> Family:
        """Of the encoder.

        Raises:
            RecipeError: it is none of `FAMILIES`.
        """
        kind = str((self.config or {}).get("model_type"))
        if kind not in FAMILIES:
            raise RecipeError(
                f"{self.id} is no video encoder but {kind!r}{nearest(kind, FAMILIES)}"
            )
        return FAMILIES[kind]

    def build(self, in_channels: int, size: tuple[int, int]) -> VideoTransformer:
        """The backbone for clips of such frames, with random weights."""
        return VideoTransformer(self, size)


def hf_options(options: Any) -> Any:
    """What `hf:ID` is short for; other options as they are."""
    if isinstance(options, str) and options.startswith("hf:"):
        return {"type": "hf", "id": options.removeprefix("hf:")}
    return options


def video_statistics(how: HFOptions) -> tuple[Channels, Channels]:
    """Mean and deviation of the pixels, from 0 to 1, that an encoder's weights take.

    Raises:
        WeightsError: the file that says them is broken.
    """
    family = how.family
    mean, std = family.mean, family.std
    for name in _PIXELS if how.weights is not None else ():
        if file := _optional(how.source, name):
            said = _read_json(file)
            # (scale x - offset - mean) / std, of x from 0 to 1
            scale = 255 * said.get("rescale_factor", 1 / 255)
            offset = float(said.get("offset", family.offset))
            mean = tuple((m + offset) / scale for m in said.get("image_mean", mean))
            std = tuple(s / scale for s in said.get("image_std", std))
            break
    return mean, std


def video_clip(how: HFOptions) -> dict[str, int]:
    """The fields of `InputSpec` that an encoder decides: frames, where it takes only so many, and
    the size that its positions were learned for."""
    config = _configuration(how)
    rows, columns = _pair(config.crop_size if how.family.any_length else config.image_size)
    frames = {} if how.family.any_length else {"num_frames": config.num_frames}
    return {**frames, "height": rows, "width": columns}


class VideoTransformer(nn.Module):
    """A video encoder whose tokens are laid out as a map.

    Args:
        how: which.
        size: rows and columns of the clips. V-JEPA 2 rotates keys and queries by the place of a
            token in a square of this size; the others have a size of their own.

    Attributes:
        out_channels: channels of the map (D).
        stride: frames, rows and columns of the clip per cell.
    """

    def __init__(self, how: HFOptions, size: tuple[int, int]) -> None:
        super().__init__()
        self.how, self.config = how, _configuration(how)
        if how.family.any_length:
            self.config.crop_size = size[0]
            self.clip = (None, size[0], size[0])
        else:
            self.clip = (self.config.num_frames, *_pair(self.config.image_size))
        self.time_last = self.config.model_type == "timesformer"
        self.stride = _stride(self.config)
        self.out_channels: int = self.config.hidden_size
        self.encoder = _encoder(_model_class(how)(self.config))

    def forward(self, clip: Tensor) -> Tensor:
        """[B, 3, T, H, W] to [B, D, T', h, w].

        Raises:
            RecipeError: the encoder does not take clips of such a size.
        """
        self._check(*clip.shape[1:])
        frames, rows, columns = (
            side // stride for side, stride in zip(clip.shape[2:], self.stride, strict=True)
        )
        tokens = self.encoder(clip.transpose(1, 2)).last_hidden_state  # [B, N, D]
        # Without the token of the class, which is the first where there is one: [B, D, T' h w]
        tokens = tokens[:, -frames * rows * columns :].mT.contiguous()
        if not self.time_last:
            return tokens.unflatten(2, (frames, rows, columns))
        return tokens.unflatten(2, (rows, columns, frames)).movedim(-1, 2).contiguous()

    def _check(self, channels: int, *size: int) -> None:
        frames, *sides = self.clip
        fits = size[0] % self.stride[0] == 0 if frames is None else size[0] == frames
        if channels != 3 or not fits or [*size[1:]] != sides:
            length = f"a multiple of {self.stride[0]}" if frames is None else frames
            raise RecipeError(
                f"{self.how.id} takes clips of {length} frames of {sides[0]} x {sides[1]} in RGB, "
                f"not {size[0]} of {size[1]} x {size[2]} with {channels} channels; set "
                "input.num_frames, input.height and input.width"
            )

    def load_weights(self) -> None:
        """Fills the encoder from `model.safetensors`; that of the hub comes with a line on its
        license.

        Raises:
            WeightsError: there are no such weights, or they leave a tensor of the encoder unfilled.
        """
        how = self.how
        if how.weights is None:
            return
        file, kind = _needed(how.source, _WEIGHTS), _model_class(how)
        if not Path(how.source).is_dir():
            print(f"{how.id}: weights of {how.source}, license {how.license}", file=sys.stderr)
        # It warns of a classifier in the file, which no encoder has a place for.
        logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
        try:
            model, report = kind.from_pretrained(
                file.parent,
                config=self.config,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below
                dtype="float32",
            )
        except Exception as error:  # whatever transformers and safetensors make of a broken file
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise WeightsError(f"{file}: cannot be read ({reason}); download it again") from error
        others = {name for name, *_ in report["mismatched_keys"]} | report["missing_keys"]
        if unfilled := sorted(name for name in others if not name.startswith(("pred", "pooler"))):
            raise WeightsError(
                f"{file}: has no {unfilled[0]!r} of the shape that its {_CONFIG} asks for "
                f"({len(unfilled)} such tensors); take both files from the same model"
            )
        self.encoder = _encoder(model).train()


def _configuration(how: HFOptions) -> Any:
    """Transformers' own record of it, with every default."""
    if (how.config or {}).get("attention_type") == "space_only":
        raise RecipeError(f"{how.id} sees frames one by one; take an image network of timm")
    kind = getattr(_transformers(how), f"{how.family.name}Config")
    try:
        return kind.from_dict(dict(how.config or {}))
    except Exception as error:  # its own kinds of error for values of a wrong type
        reason = " ".join(str(error).split())
        raise RecipeError(f"{how.id}: {_CONFIG} is not usable: {reason}") from error


def _stride(config: Any) -> tuple[int, int, int]:
    """Of a token; ViViT has all three in its tubelet."""
    if config.model_type == "vivit":
        frames, rows, columns = config.tubelet_size
        return frames, rows, columns
    return getattr(config, "tubelet_size", 1), *_pair(config.patch_size)


def _model_class(how: HFOptions) -> Any:
    return getattr(_transformers(how), f"{how.family.name}Model")


def _encoder(model: Any) -> nn.Module:
    """Without what comes after the tokens: V-JEPA 2's predictor, ViViT's pooler."""
    if hasattr(model, "pooler"):
        model.pooler = None
    encoder: nn.Module = model.encoder if hasattr(model, "predictor") else model
    return encoder


def _transformers(how: HFOptions) -> Any:
    try:
        import transformers  # takes seconds
    except ImportError as error:
        raise RecipeError(
            f"hf:{how.id} needs transformers; pip install 'vidgraph[video]'"
        ) from error
    return transformers


def _pair(size: Any) -> tuple[int, int]:
    return tuple(size) if isinstance(size, Iterable) else (size, size)


# ---- files of a model ----------------------------------------------------------------------------


def _file(source: str, name: str) -> Path | None:
    """Of a folder, or of a model on the hub; None where it has no such file."""
    if not Path(source).is_dir():
        return hub_file(source, name)
    return path if (path := Path(source) / name).is_file() else None


def _optional(source: str, name: str) -> Path | None:
    """None also where the hub cannot be reached, and the file was not downloaded before."""
    with suppress(WeightsError):
        return _file(source, name)
    return None


def _needed(source: str, name: str) -> Path:
    advice = (
        f"download {_CONFIG}, {_WEIGHTS} and, where the model has it, {_PIXELS[1]} from its page "
        "on the Hugging Face hub into a folder, and give hf:FOLDER"
    )
    try:
        file = _file(source, name)
    except WeightsError as error:
        raise WeightsError(f"{error}; or {advice}") from error
    if file is None:
        raise WeightsError(f"{source}: has no {name}; {advice}")
    return file


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: is not readable JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: holds no keys and values; download it again")
    return content


def _license(source: str) -> str:
    """By the head of the model's card, else by the table."""
    if card := _optional(source, _CARD):
        head = card.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---")[0]
        said = dict(re.findall(r"^(license|license_name): *[\"']?([\w.-]+)", head, re.M))
        if said:
            return str(said.get("license_name", said.get("license")))
    known = (name for start, name in _LICENSES.items() if source.startswith(start))
    return next(known, "not known; read its page on the Hugging Face hub")
