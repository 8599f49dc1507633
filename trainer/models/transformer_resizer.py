"""The combined model: a learned 2D resizer that reads an affine transform at one of its points and applies it there or later."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.layers import (
    ExactSequential,
    Part,
    Triple,
    identity_affine,
    resize_trilinear,
    to_images,
    to_video,
    warp,
)
from trainer.models.registry import register_model
from trainer.models.resizer import KERNELS, WIDTH, ConvUnit, residual_chain
from trainer.models.spatial_transformer import pooled_side

WIDE = 32  # channels after c1
torch.fx.wrap("warp")  # a leaf of a traced graph


class TransformerResizer(Part):
    """B,C,T,H,W with frames of `in_size` px to B,C,frames,size,size.

    Points: 0 input, 1 after c1, 2 after c2, 3 after the resize, 4 after the residual blocks, 5 after c3, 6 after the inner skip,
    7 after c4, 8 after the outer skip. The inner skip starts at point 3 after the transform, the outer one at the input before it.
    """

    def __init__(
        self, *, frames: int, size: int, in_size: int, residual_blocks: int, read_at: int, apply_at: int,
        legacy_frame_view: bool = False, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.frames, self.size = frames, size
        self.read_at, self.apply_at = read_at, apply_at
        self.legacy_frame_view = legacy_frame_view
        channels = in_channels if read_at in (0, 7, 8) else WIDE if read_at == 1 else WIDTH
        features = 8 * pooled_side(size if read_at >= 3 else in_size) ** 2
        self.localization = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.Tanh(),
            nn.Conv2d(16, 8, 3, padding=1),
            nn.MaxPool2d(2, stride=2),
            nn.BatchNorm2d(8),
            nn.Tanh(),
        )
        self.fc_loc = ExactSequential(nn.Linear(features, 32), nn.Tanh(), identity_affine(32))
        self.scalar = ExactSequential(
            nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid()
        )
        kernels: dict[str, Triple] = KERNELS["2d"]
        self.c1 = ConvUnit(in_channels, WIDE, kernels["c1"], act=True, norm=False)
        self.c2 = ConvUnit(WIDE, WIDTH, (1, 1, 1), act=True, norm=True)
        self.residual_blocks = residual_chain(residual_blocks, kernels["residual"])
        self.c3 = ConvUnit(WIDTH, WIDTH, kernels["residual"], act=False, norm=True)
        self.c4 = ConvUnit(WIDTH, in_channels, kernels["c4"], act=False, norm=False)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        outer = resize_trilinear(video_BCTHW, self.frames, self.size)
        x, theta = self._at(0, video_BCTHW, None)
        x, theta = self._at(1, self.c1(x), theta)
        x, theta = self._at(2, self.c2(x), theta)
        x, theta = self._at(3, resize_trilinear(x, self.frames, self.size), theta)
        inner = x
        x, theta = self._at(4, self.residual_blocks(x), theta)
        x, theta = self._at(5, self.c3(x), theta)
        x, theta = self._at(6, x + inner, theta)
        x, theta = self._at(7, self.c4(x), theta)
        x, theta = self._at(8, x + outer, theta)
        return x

    def _at(self, point: int, x: Tensor, theta_N23: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The value at a point after reading and applying, if either happens there, and the transform once it is read."""
        if point == self.read_at:
            theta_N23 = self._theta(to_images(x, legacy=self.legacy_frame_view))
        if point == self.apply_at:
            assert theta_N23 is not None, f"{self.read_at = } is after {self.apply_at = }"
            images = warp(to_images(x, legacy=self.legacy_frame_view), theta_N23)
            x = to_video(images, x.shape[2], legacy=self.legacy_frame_view)
        return x, theta_N23

    def _theta(self, images_NCHW: Tensor) -> Tensor:
        """(1 + scalar) times an affine transform for each image: a new one is the identity zoomed by about 1.5."""
        features = self.localization(images_NCHW).flatten(1)
        theta: Tensor = (1 + self.scalar(features)) * self.fc_loc(features)
        return theta.reshape(-1, 2, 3)


@register_model
def transformer_resizer(
    *,
    frames: int = 32,
    size: int = 112,
    in_size: int = 28,
    residual_blocks: int = 3,
    read_at: int = 0,
    apply_at: int = 0,
    legacy_frame_view: bool = False,
    in_channels: int = 3,
) -> nn.Module:
    """Learned resizer with a spatial transformer inside: video to video

    `read_at` <= `apply_at`, points 0 to 8. `legacy_frame_view`: as for spatial_transformer.
    """
    return TransformerResizer(
        frames=frames, size=size, in_size=in_size, residual_blocks=residual_blocks, read_at=read_at, apply_at=apply_at,
        legacy_frame_view=legacy_frame_view, in_channels=in_channels,
    )  # fmt: skip
