"""An image network on everything that one stream of a clip shows: its frames, or its snippets of
optical flow.

Shapes: B batch, T frames, S snippets at each frame, L flow fields per snippet, C channels, H W
    pixels, h w map.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from vidgraph.errors import DataError
from vidgraph.records import InputSpec


class FrameStream(nn.Module):
    """Normalisation and a 2D network, shared by all images of the stream.

    A snippet is one image whose channels are its fields. The networks of all snippets are one
    network, so that the number of snippets changes no weights.

    Args:
        pixels: normalisation of the frames, [B, C, T, H, W], or of the flow, [B, T, S, 2 L, H, W].
        backbone: images [N, C, H, W] to maps [N, C', h, w], with `out_channels`.
    """

    def __init__(self, pixels: nn.Module, backbone: nn.Module) -> None:
        super().__init__()
        self.pixels, self.backbone = pixels, backbone
        self.out_channels = cast(int, backbone.out_channels)

    def maps(self, clip: Tensor) -> Tensor:
        """Frames [B, C, T, H, W] to [B, T, C', h, w], or flow [B, T, S, 2 L, H, W] to [B, T * S,
        C', h, w], frame after frame.
        """
        normal = self.pixels(clip)
        images = (
            normal.transpose(1, 2) if clip.dim() == 5 else normal.flatten(1, 2)
        )  # [B, T, C, H, W]
        maps: Tensor = self.backbone(images.flatten(0, 1))  # [B * T, C', h, w]
        return maps.reshape(*images.shape[:2], *maps.shape[1:])

    def forward(self, clip: Tensor) -> Tensor:
        """See `maps`."""
        return self.maps(clip)


def check_streams(spec: InputSpec, video: Tensor | None, flow: Tensor | None) -> None:
    """Names what a clip lacks of what a model eats.

    Args:
        spec: of the model.
        video: [B, C, T, H, W]; needed if the spec has channels.
        flow: [B, T, S, 2 L, H, W]; needed if the spec has flow.

    Raises:
        DataError: frames or flow are missing, or the flow has another number of snippets or fields,
            or belongs to other frames.
    """
    if spec.channels and video is None:
        raise DataError("this model looks at frames, and the clips came without; give it video")
    if not spec.flow_length:
        return
    if flow is None:
        raise DataError(
            "this model looks at optical flow, and the clips came without; give a store of flow "
            "(data.table.flow, --flow)"
        )
    wanted = (spec.num_stacks, 2 * spec.flow_length)
    if flow.dim() != 6 or tuple(flow.shape[2:4]) != wanted:
        raise DataError(
            f"this model takes flow [B, T, {wanted[0]}, {wanted[1]}, H, W] (snippets, x and y of "
            f"each field), not {list(flow.shape)}"
        )
    if (
        spec.channels
        and video is not None
        and (len(video), video.shape[2]) != tuple(flow.shape[:2])
    ):
        raise DataError(
            f"the video is of {len(video)} clips of {video.shape[2]} frames, and the flow of "
            f"{flow.shape[0]} clips of {flow.shape[1]}; "
            "give snippets for every frame"
        )
