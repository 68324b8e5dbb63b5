"""Weights of torchvision's networks that extraction uses: downloaded once, or from a file. No code
in them can run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidgraph.errors import WeightsError

RANDOM = "random"  # the same each time, for tests


@dataclass(frozen=True)
class PublishedWeights:
    """Where the weights of one network come from.

    Attributes:
        entry: torchvision's own, a member of its enumeration.
        user: who needs them, such as `the rpn`.
        network: its name in torchvision.
        instead: what to do without them.
    """

    entry: Any
    user: str
    network: str
    instead: str

    def name(self, weights: str | None) -> str:
        """What a store remembers of the weights: torchvision's name, `random`, or the sha256 of a
        file. Downloads torchvision's if they are needed.

        Raises:
            WeightsError: there is no such file, or no network to fetch them by.
        """
        if weights == RANDOM:
            return RANDOM
        if weights is None:
            self._read(None)
            return str(self.entry.name)
        try:
            return hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(
                f"{weights}: cannot be read ({error.strerror or error}); leave out --weights for "
                "torchvision's"
            ) from error

    def fill(self, module: nn.Module, weights: str | None) -> None:
        """Gives a network, or a part of one, its weights; what the part does not have is left out.
        `random` changes nothing.

        Raises:
            WeightsError: they are missing, or not those of this network.
        """
        if weights == RANDOM:
            return
        state, own = self._read(weights), module.state_dict()
        wrong = [
            key
            for key, value in own.items()
            if key not in state or getattr(state[key], "shape", None) != value.shape
        ]
        if wrong:
            name, more = weights or self.entry.url, len(wrong) - 1
            raise WeightsError(
                f"{name}: is not {self.network}'s, {wrong[0]} and {more} more are absent or of "
                "another shape"
            )
        module.load_state_dict({key: state[key] for key in own})

    def _read(self, weights: str | None) -> dict[str, Tensor]:
        if weights is None:
            try:
                return dict(self.entry.get_state_dict(progress=True, check_hash=True))
            except (OSError, RuntimeError) as error:
                what = f"the weights of {self.user} cannot be fetched ({error})"
                raise WeightsError(
                    f"{what}; fetch {self.entry.url} elsewhere and give it with --weights FILE, "
                    f"or {self.instead}"
                ) from error
        if not Path(weights).is_file():
            raise WeightsError(
                f"{weights}: there is no such file; leave out --weights for torchvision's"
            )
        if weights.endswith(".safetensors"):
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return load_file(weights)
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{weights}: cannot be read ({error})") from error
        try:
            content = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle raises whatever the bytes lead it to
            raise WeightsError(
                f"{weights}: holds no weights that can be read without running code ({error})"
            ) from error
        if not isinstance(content, dict):
            raise WeightsError(f"{weights}: holds no weights by name")
        return content
