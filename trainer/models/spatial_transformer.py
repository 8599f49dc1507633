"""Spatial transformer (Jaderberg et al. 2015) on each frame: the network finds an affine view of a frame and gives that."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.layers import ExactSequential, Part, identity_affine, to_images, to_video, warp
from trainer.models.registry import register_model

torch.fx.wrap("warp")  # a leaf of a traced graph


def pooled_side(side: int) -> int:
    """Side of a localization's last map: a 3x3 pool of stride 2 and padding 1, then a 2x2 pool."""
    return (side + 1) // 2 // 2


class SpatialTransformer(Part):
    """B,C,T,H,W to the same shape, frames of `in_size` px. A new one is the identity within 6e-5."""

    def __init__(
        self, in_size: int, *, legacy_frame_view: bool = False, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.legacy_frame_view = legacy_frame_view
        self.localization = nn.Sequential(
            nn.Conv2d(in_channels, 16, 7, padding=3),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(16, 8, 5, padding=2),
            nn.MaxPool2d(2, stride=2),
            nn.Tanh(),
        )
        self.fc_loc = ExactSequential(
            nn.Linear(8 * pooled_side(in_size) ** 2, 32), nn.Tanh(), identity_affine(32)
        )

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        images = to_images(video_BCTHW, legacy=self.legacy_frame_view)
        theta = self.fc_loc(self.localization(images).flatten(1)).reshape(-1, 2, 3)
        return to_video(warp(images, theta), video_BCTHW.shape[2], legacy=self.legacy_frame_view)


@register_model
def spatial_transformer(
    in_size: int, *, legacy_frame_view: bool = False, in_channels: int = 3
) -> nn.Module:
    """Spatial transformer on each frame: video to video of the same size

    `legacy_frame_view`: weights published before the fix need the old, wrong cutting of a clip into frames.
    """
    return SpatialTransformer(in_size, legacy_frame_view=legacy_frame_view, in_channels=in_channels)
