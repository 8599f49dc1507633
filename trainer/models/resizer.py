"""Learned resizers (V4): small video to large video around a trilinear skip, with kernels of temporal extent 1 ("2d") or full ("3d")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, Triple, resize_trilinear
from trainer.models.registry import register_model

WIDTH = 16  # channels of the trunk
SLOPE = 0.2  # of every leaky ReLU


class ConvUnit(nn.Module):
    """SAME convolution without bias, then leaky ReLU if `act`, then BatchNorm if `norm`: in that order."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, *, act: bool, norm: bool) -> None:
        super().__init__()
        t, h, w = kernel  # odd, so SAME at stride 1 is the same on both sides
        self.conv3d = nn.Conv3d(
            inputs, outputs, kernel, padding=(t // 2, h // 2, w // 2), bias=False
        )
        self.act = act
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3d(x)
        if self.act:
            out = F.leaky_relu(out, SLOPE)
        return out if self.bn is None else self.bn(out)


class Residual(nn.Module):
    """x + BN(conv(leaky(BN(conv(x))))), convolutions with bias, nothing after the sum."""

    def __init__(self, width: int, kernel: Triple) -> None:
        super().__init__()
        t, h, w = kernel
        self.conv1 = nn.Conv3d(width, width, kernel, padding=(t // 2, h // 2, w // 2))
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, kernel, padding=(t // 2, h // 2, w // 2))
        self.bn2 = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.leaky_relu(self.bn1(self.conv1(x)), SLOPE)))
        return x + out


def residual_chain(blocks: int, kernel: Triple) -> nn.Sequential:
    """`blocks` residual blocks of the trunk's width, one after the other."""
    return nn.Sequential(*(Residual(WIDTH, kernel) for _ in range(blocks)))


class Resizer(Part):
    """B,C,T,H,W of any size to B,C,frames,size,size.

    x --> c1 c2 --> resize --> residual blocks --> c3 --> + --> c4 --> + --> out
    |                  +------------------------------->--|            |
    +---- trilinear ------------------------------------------------->-|
    """

    def __init__(
        self,
        kernels: dict[str, Triple],
        *,
        frames: int,
        size: int,
        residual_blocks: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.frames, self.size = frames, size
        self.c1 = ConvUnit(in_channels, WIDTH, kernels["c1"], act=True, norm=False)
        self.c2 = ConvUnit(WIDTH, WIDTH, (1, 1, 1), act=True, norm=True)
        self.residual_blocks = residual_chain(residual_blocks, kernels["residual"])
        self.c3 = ConvUnit(WIDTH, WIDTH, kernels["residual"], act=False, norm=True)
        self.c4 = ConvUnit(WIDTH, in_channels, kernels["c4"], act=False, norm=False)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        skip = resize_trilinear(video_BCTHW, self.frames, self.size)
        resized = resize_trilinear(self.c2(self.c1(video_BCTHW)), self.frames, self.size)
        trunk = self.c3(self.residual_blocks(resized)) + resized
        out: Tensor = self.c4(trunk) + skip
        return out


KERNELS: dict[str, dict[str, Triple]] = {
    "2d": {"c1": (1, 7, 7), "residual": (1, 3, 3), "c4": (1, 7, 7)},
    "3d": {"c1": (7, 7, 7), "residual": (3, 3, 3), "c4": (3, 3, 3)},
}


@register_model
def resizer2d(
    *, frames: int = 32, size: int = 112, residual_blocks: int = 1, in_channels: int = 3
) -> nn.Module:
    """Learned resizer V4, frame by frame: video to video"""
    return Resizer(
        KERNELS["2d"],
        frames=frames,
        size=size,
        residual_blocks=residual_blocks,
        in_channels=in_channels,
    )


@register_model
def resizer3d(
    *, frames: int = 32, size: int = 112, residual_blocks: int = 1, in_channels: int = 3
) -> nn.Module:
    """Learned resizer V4 with 3D kernels: video to video"""
    return Resizer(
        KERNELS["3d"],
        frames=frames,
        size=size,
        residual_blocks=residual_blocks,
        in_channels=in_channels,
    )
