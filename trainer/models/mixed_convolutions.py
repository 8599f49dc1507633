"""VMZ's residual networks that mix 2D and 3D convolutions (Tran et al. 2018): MCx are 3D at first, rMCx 2D at first.

Options as those of the unmixed ones (vmz.py).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from trainer.models.registry import register_model
from trainer.models.video_resnet import Design, VideoResNet

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "mc2": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/lkmhyjok8odtv8e/mc2_d18_l8.pkl?dl=1", "mib": 43.5, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.6, video top-1 63.0, top-5 83.8", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/xmtqk2w3p60yly0/mc2_d18_l16.pkl?dl=1", "mib": 43.5, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 53.6, video top-1 64.8, top-5 85.1", "note": "VMZ, Caffe2"},
    ),
    "mc3": (
        {"name": "torchvision-kinetics400-18", "torchvision": "MC3_18_Weights.KINETICS400_V1", "file": "mc3_18-a90a0ba3.pth", "mib": 44.7,
         "classes": 400, "options": {"depth": 18, "midplanes": "torchvision"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 video top-1 63.96"},
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/3jxzhc3kduyrpik/mc3_d18_l8.pkl?dl=1", "mib": 44.7, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 51.1, video top-1 63.3, top-5 84.2", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/rpgbzjewagjeu2f/mc3_d18_l16.pkl?dl=1", "mib": 44.7, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 54.1, video top-1 65.2, top-5 85.8", "note": "VMZ, Caffe2"},
    ),
    "mc4": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/vx2xee36et823gs/mc4_d18_l8.pkl?dl=1", "mib": 48.6, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.9, video top-1 63.0, top-5 84.2", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/lrjwye0ldsgi2p2/mc4_d18_l16.pkl?dl=1", "mib": 48.6, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 54.3, video top-1 65.6, top-5 85.6", "note": "VMZ, Caffe2"},
    ),
    "mc5": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/z6fxv6jr30i2lwz/mc5_d18_l8.pkl?dl=1", "mib": 64.3, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.7, video top-1 62.9, top-5 84.2", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/3qp62d3159rzwsj/mc5_d18_l16.pkl?dl=1", "mib": 64.3, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 54.1, video top-1 65.6, top-5 85.5", "note": "VMZ, Caffe2"},
    ),
    "rmc2": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/vnjpzq7li2b7tk2/rmc2_d18_l8.pkl?dl=1", "mib": 127.3, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.2, video top-1 62.7, top-5 83.9", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/70k3p0xz6rjcdtb/rmc2_d18_l16.pkl?dl=1", "mib": 127.3,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 53.5, video top-1 65.4, top-5 85.5", "note": "VMZ, Caffe2"},
    ),
    "rmc3": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/1vwjomlc45ox6u1/rmc3_d18_l8.pkl?dl=1", "mib": 126.1, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.2, video top-1 62.8, top-5 83.7", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/n8eulubwh6l3o0b/rmc3_d18_l16.pkl?dl=1", "mib": 126.1,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 53.6, video top-1 65.5, top-5 85.7", "note": "VMZ, Caffe2"},
    ),
    "rmc4": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/zots41ng2xs2ezu/rmc4_d18_l8.pkl?dl=1", "mib": 122.2, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.3, video top-1 62.8, top-5 83.3", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/di3wwadbapc61rn/rmc4_d18_l16.pkl?dl=1", "mib": 122.2,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 53.9, video top-1 65.6, top-5 85.3", "note": "VMZ, Caffe2"},
    ),
    "rmc5": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/3e56jjx6x1qot4x/rmc5_d18_l8.pkl?dl=1", "mib": 106.5, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 49.7, video top-1 61.6, top-5 83.1", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/lb5jaji177hid7p/rmc5_d18_l16.pkl?dl=1", "mib": 106.5,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 52.5, video top-1 63.5, top-5 84.2", "note": "VMZ, Caffe2"},
    ),
}  # fmt: skip


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
    design = Design(
        depth,
        ("2d", "2d", "2d", "2d"),
        (3, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("3d", "2d", "2d", "2d"),
        (3, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("3d", "3d", "2d", "2d"),
        (3, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("3d", "3d", "3d", "2d"),
        (3, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("3d", "3d", "3d", "3d"),
        (1, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("2d", "3d", "3d", "3d"),
        (1, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("2d", "2d", "3d", "3d"),
        (1, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("2d", "2d", "2d", "3d"),
        (1, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
    return VideoResNet(num_classes, design, in_channels=in_channels)
