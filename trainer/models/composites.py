"""Whole classifiers of small video: [spatial transformer,] learned resizer, I3D, trained together. The mode gives the resizer's size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from trainer.models.i3d import I3D
from trainer.models.layers import Part
from trainer.models.registry import register_model
from trainer.models.resizer import KERNELS, ConvUnit, Resizer
from trainer.models.spatial_transformer import SpatialTransformer
from trainer.models.transformer_resizer import TransformerResizer


class ResizedI3D(nn.Module):
    """B,C,T,H,W with small frames to I3D's logits. Children: `transformer` if there is one, `resizer`, `i3d`."""

    head_module = "i3d.logits"

    def __init__(
        self,
        transformer: Part | None,
        resizer: Part,
        i3d: I3D,
        *,
        freeze_i3d: bool,
        bn_momentum: float,
    ) -> None:
        super().__init__()
        for part in resizer.modules():
            if isinstance(part, ConvUnit) and part.bn is not None:
                part.bn.momentum = bn_momentum  # published as I3D's, so the option means both
        if transformer is not None:
            self.transformer = transformer
        self.resizer = resizer
        self.i3d = i3d
        if freeze_i3d:
            i3d.freeze()

    def resize(self, video_BCTHW: Tensor) -> Tensor:
        """What I3D is fed: B,C,frames,size,size."""
        if hasattr(self, "transformer"):
            video_BCTHW = self.transformer(video_BCTHW)
        resized: Tensor = self.resizer(video_BCTHW)
        return resized

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.i3d(self.resize(video_BCTHW))
        return logits


@register_model(parts=("resizer", "i3d"))
def resizer_i3d(
    num_classes: int,
    *,
    mode: str = "32x112",
    frames: int | None = None,
    size: int | None = None,
    residual_blocks: int = 1,
    resizer: Literal["2d", "3d"] = "2d",
    in_channels: int = 3,
    head: Literal["pooled", "per_frame"] = "pooled",
    dropout: float = 0.5,
    bn_momentum: float = 0.01,
    freeze_i3d: bool = False,
) -> nn.Module:
    """Learned resizer, then I3D: small video to classes

    `frames` and `size` are the mode's. `freeze_i3d` keeps I3D as it is, but for its logits.
    """
    i3d = I3D(
        num_classes,
        mode,
        in_channels=in_channels,
        head=head,
        dropout=dropout,
        bn_momentum=bn_momentum,
    )
    return ResizedI3D(
        None,
        _resizer(i3d, resizer, residual_blocks, frames, size),
        i3d,
        freeze_i3d=freeze_i3d,
        bn_momentum=bn_momentum,
    )


@register_model(parts=("transformer", "resizer", "i3d"))
def stn_resizer_i3d(
    num_classes: int,
    *,
    in_size: int,
    mode: str = "32x112",
    frames: int | None = None,
    size: int | None = None,
    residual_blocks: int = 1,
    resizer: Literal["2d", "3d"] = "2d",
    legacy_frame_view: bool = False,
    in_channels: int = 3,
    head: Literal["pooled", "per_frame"] = "pooled",
    dropout: float = 0.5,
    bn_momentum: float = 0.01,
    freeze_i3d: bool = False,
) -> nn.Module:
    """Spatial transformer on each frame, learned resizer, I3D: small video to classes"""
    i3d = I3D(
        num_classes,
        mode,
        in_channels=in_channels,
        head=head,
        dropout=dropout,
        bn_momentum=bn_momentum,
    )
    transformer = SpatialTransformer(
        in_size, legacy_frame_view=legacy_frame_view, in_channels=in_channels
    )
    return ResizedI3D(
        transformer,
        _resizer(i3d, resizer, residual_blocks, frames, size),
        i3d,
        freeze_i3d=freeze_i3d,
        bn_momentum=bn_momentum,
    )


@register_model(parts=("resizer", "i3d"))
def transformer_resizer_i3d(
    num_classes: int,
    *,
    mode: str = "32x112",
    frames: int | None = None,
    size: int | None = None,
    in_size: int = 28,
    residual_blocks: int = 3,
    read_at: int = 0,
    apply_at: int = 0,
    resizer: Literal["2d"] = "2d",
    legacy_frame_view: bool = False,
    in_channels: int = 3,
    head: Literal["pooled", "per_frame"] = "pooled",
    dropout: float = 0.5,
    bn_momentum: float = 0.01,
    freeze_i3d: bool = False,
) -> nn.Module:
    """Learned resizer with a spatial transformer inside, then I3D: small video to classes

    Its resizer's kernels are 2D; there is no published 3D form.
    """
    assert resizer == "2d"
    i3d = I3D(
        num_classes,
        mode,
        in_channels=in_channels,
        head=head,
        dropout=dropout,
        bn_momentum=bn_momentum,
    )
    combined = TransformerResizer(
        frames=frames or i3d.frames, size=size or i3d.size, in_size=in_size, residual_blocks=residual_blocks,
        read_at=read_at, apply_at=apply_at, legacy_frame_view=legacy_frame_view, in_channels=in_channels,
    )  # fmt: skip
    return ResizedI3D(None, combined, i3d, freeze_i3d=freeze_i3d, bn_momentum=bn_momentum)


def _resizer(
    i3d: I3D,
    kernels: Literal["2d", "3d"],
    residual_blocks: int,
    frames: int | None,
    size: int | None,
) -> Resizer:
    return Resizer(
        KERNELS[kernels],
        frames=frames or i3d.frames,
        size=size or i3d.size,
        residual_blocks=residual_blocks,
        in_channels=i3d.in_channels,
    )
