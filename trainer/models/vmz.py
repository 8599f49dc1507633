"""Residual video networks of VMZ (Tran et al. 2018): R(2+1)D, R3D, 2D networks, and those that mix 2D and 3D convolutions.

`frames` are the clip's: they decide where time is still halved, and R2D's first convolution joins all of them. `midplanes`
is whose weights fit: VMZ counts the channels between the two kernels of a (2+1)D convolution for each convolution and has a
BatchNorm epsilon of 1e-3, torchvision counts them once a block and has 1e-5; `bn_eps` sets another epsilon.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from trainer.models.registry import register_model
from trainer.models.video_resnet import Design, VideoResNet

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "r2plus1d": (
        {
            "name": "torchvision-kinetics400-18", "url": "", "file": "r2plus1d_18-91a641e6.pth", "bytes": 0, "classes": 400,
            "options": {"depth": 18, "midplanes": "torchvision"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
            "accuracy": "Kinetics-400 video top-1 67.46", "torchvision": "R2Plus1D_18_Weights.KINETICS400_V1", "note": "",
        },
        {
            "name": "kinetics400-34-32f", "url": "", "file": "r2.5d_d34_l32.pkl", "bytes": 0, "classes": 400,
            "options": {"depth": 34}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 15,
            "accuracy": "Kinetics-400 clip top-1 60.6, video top-1 72.4, top-5 90.6", "note": "VMZ, Caffe2",
        },
        {
            "name": "sports1m-kinetics400-34-32f", "url": "", "file": "", "bytes": 0, "classes": 400,
            "options": {"depth": 34}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 15,
            "accuracy": "Kinetics-400 clip top-1 63.9, video top-1 74.2, top-5 92.1", "note": "VMZ, Caffe2; Sports-1M first",
        },
        {
            "name": "sports1m-kinetics400-34-32f-flow", "url": "", "file": "", "bytes": 0, "classes": 400,
            "options": {"depth": 34, "in_channels": 2}, "normalise": "vmz_flow", "frames": 32, "size": 112, "fps": 15,
            "accuracy": "Kinetics-400 clip top-1 55.9, video top-1 68.2, top-5 88.0", "note": "VMZ, Caffe2; optical flow; Sports-1M first",
        },
        {
            "name": "ig65m-34-8f", "url": "", "file": "r2plus1d_34_clip8_ig65m_from_scratch-*.pth", "bytes": 0, "classes": 487,
            "options": {"depth": 34}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 0,
            "accuracy": "", "note": "hub moabitcoin/ig65m-pytorch; 487 hashtags",
        },
        {
            "name": "ig65m-34-32f", "url": "", "file": "r2plus1d_34_clip32_ig65m_from_scratch-*.pth", "bytes": 0, "classes": 359,
            "options": {"depth": 34}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 0,
            "accuracy": "", "note": "hub moabitcoin/ig65m-pytorch; 359 hashtags",
        },
        {
            "name": "ig65m-kinetics400-34-8f", "url": "", "file": "r2plus1d_34_clip8_ft_kinetics_from_ig65m-*.pth", "bytes": 0,
            "classes": 400, "options": {"depth": 34}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 0,
            "accuracy": "Kinetics-400 video top-1 74.9, top-5 91.8", "note": "hub moabitcoin/ig65m-pytorch; also VMZ, Caffe2",
        },
        {
            "name": "ig65m-kinetics400-34-32f", "url": "", "file": "r2plus1d_34_clip32_ft_kinetics_from_ig65m-*.pth", "bytes": 0,
            "classes": 400, "options": {"depth": 34}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 0,
            "accuracy": "Kinetics-400 video top-1 80.0, top-5 94.2", "note": "hub moabitcoin/ig65m-pytorch; also VMZ, Caffe2",
        },
        {
            "name": "kinetics400-152-32f", "url": "", "file": "", "bytes": 0, "classes": 400,
            "options": {"depth": 152}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 0,
            "accuracy": "Kinetics-400 video top-1 77.3, top-5 92.5", "note": "VMZ, Caffe2",
        },
        {
            "name": "sports1m-kinetics400-152-32f", "url": "", "file": "", "bytes": 0, "classes": 400,
            "options": {"depth": 152}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 0,
            "accuracy": "Kinetics-400 video top-1 79.5, top-5 94.0", "note": "VMZ, Caffe2; Sports-1M first",
        },
        {
            "name": "ig65m-kinetics400-152-32f", "url": "", "file": "", "bytes": 0, "classes": 400,
            "options": {"depth": 152}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 0,
            "accuracy": "Kinetics-400 video top-1 81.6, top-5 95.3", "note": "VMZ, Caffe2; IG-65M first",
        },
    ),
    "r3d": (
        {
            "name": "torchvision-kinetics400-18", "url": "", "file": "r3d_18-b3b3357e.pth", "bytes": 0, "classes": 400,
            "options": {"depth": 18, "midplanes": "torchvision"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
            "accuracy": "Kinetics-400 video top-1 63.20", "torchvision": "R3D_18_Weights.KINETICS400_V1", "note": "",
        },
    ),
    "mc3": (
        {
            "name": "torchvision-kinetics400-18", "url": "", "file": "mc3_18-a90a0ba3.pth", "bytes": 0, "classes": 400,
            "options": {"depth": 18, "midplanes": "torchvision"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
            "accuracy": "Kinetics-400 video top-1 63.96", "torchvision": "MC3_18_Weights.KINETICS400_V1", "note": "",
        },
    ),
}  # fmt: skip


@register_model
def r2plus1d(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """R(2+1)D: each 3D convolution as one over space and one over time"""
    design = Design(depth, ("2plus1d",) * 4, "2plus1d", frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def r3d(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """R3D: a residual network of 3D convolutions"""
    design = Design(depth, ("3d",) * 4, (3, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def r2d(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """R2D: the first convolution joins all frames into one"""
    design = Design(depth, ("2d",) * 4, (frames, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels, whole_clip=True)


@register_model
def fr2d(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """fR2D: a 2D residual network on each frame, averaged over time"""
    design = Design(depth, ("2d",) * 4, (1, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def mc2(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """MC2: 3D convolutions, from the second group on 2D ones"""
    design = Design(depth, ("2d", "2d", "2d", "2d"), (3, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def mc3(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """MC3: 3D convolutions, from the third group on 2D ones"""
    design = Design(depth, ("3d", "2d", "2d", "2d"), (3, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def mc4(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """MC4: 3D convolutions, from the fourth group on 2D ones"""
    design = Design(depth, ("3d", "3d", "2d", "2d"), (3, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def mc5(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """MC5: 3D convolutions, from the fifth group on 2D ones"""
    design = Design(depth, ("3d", "3d", "3d", "2d"), (3, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def rmc2(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """rMC2: 2D convolutions, from the second group on 3D ones"""
    design = Design(depth, ("3d", "3d", "3d", "3d"), (1, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def rmc3(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """rMC3: 2D convolutions, from the third group on 3D ones"""
    design = Design(depth, ("2d", "3d", "3d", "3d"), (1, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def rmc4(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """rMC4: 2D convolutions, from the fourth group on 3D ones"""
    design = Design(depth, ("2d", "2d", "3d", "3d"), (1, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)


@register_model
def rmc5(
    num_classes: int,
    *,
    depth: Literal[10, 16, 18, 26, 34, 50, 101, 152] = 18,
    frames: int = 8,
    midplanes: Literal["vmz", "torchvision"] = "vmz",
    pool1: bool = False,
    bn_eps: float | None = None,
    in_channels: int = 3,
) -> nn.Module:
    """rMC5: 2D convolutions, from the fifth group on 3D ones"""
    design = Design(depth, ("2d", "2d", "2d", "3d"), (1, 7, 7), frames=frames, midplanes=midplanes, bn_eps=bn_eps, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)
