"""Residual video networks of VMZ (Tran et al. 2018): R(2+1)D, R3D and 2D networks. Those that mix 2D and 3D are mixed_convolutions.py's.

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
        {"name": "torchvision-kinetics400-18", "torchvision": "R2Plus1D_18_Weights.KINETICS400_V1", "file": "r2plus1d_18-91a641e6.pth",
         "mib": 120.3, "classes": 400, "options": {"depth": 18, "midplanes": "torchvision"}, "normalise": "vmz", "frames": 16, "size": 112,
         "fps": 15, "accuracy": "Kinetics-400 video top-1 67.46"},
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/wzgx4d80mrh7pnf/r2.5d_d18_l8.pkl?dl=1", "mib": 127.4,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 53.2, video top-1 65.3, top-5 85.2", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/94d2ruqn6tp7xno/r2.5d_d18_l16.pkl?dl=1", "mib": 127.4,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 57.3, video top-1 68.5, top-5 87.5", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-34-32f", "url": "https://www.dropbox.com/s/y6c6jf7myv2w6iq/r2.5d_d34_l32.pkl?dl=1", "mib": 243.2,
         "classes": 400, "options": {"depth": 34, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 60.6, video top-1 72.4, top-5 90.6", "note": "VMZ, Caffe2"},
        {"name": "sports1m-kinetics400-34-32f", "url": "https://www.dropbox.com/s/odd9smqn2t54run/r2.5d_d34_l32_ft_sports1m.pkl?dl=1",
         "mib": 243.2, "classes": 400, "options": {"depth": 34, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112,
         "fps": 15, "accuracy": "Kinetics-400 clip top-1 63.9, video top-1 74.2, top-5 92.1", "note": "VMZ, Caffe2; Sports-1M first"},
        {"name": "sports1m-kinetics400-34-32f-flow",
         "url": "https://www.dropbox.com/s/30zj1t9xte5vy64/r2.5d_d34_l32_ft_sports1m_optical_flow.pkl?dl=1", "mib": 243.2, "classes": 400,
         "options": {"depth": 34, "midplanes": "vmz", "in_channels": 2}, "normalise": "vmz_flow", "frames": 32, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 55.9, video top-1 68.2, top-5 88.0", "note": "VMZ, Caffe2; optical flow; Sports-1M first"},
        {"name": "ig65m-34-8f",
         "url": "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth",
         "mib": 243.3, "classes": 487, "options": {"depth": 34, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112,
         "note": "487 hashtags"},
        {"name": "ig65m-34-32f",
         "url": "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth",
         "mib": 243.1, "classes": 359, "options": {"depth": 34, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112,
         "note": "359 hashtags"},
        {"name": "ig65m-kinetics400-34-8f",
         "url": "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
         "r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth",
         "mib": 243.2, "classes": 400, "options": {"depth": 34, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112,
         "accuracy": "Kinetics-400 video top-1 74.9, top-5 91.8"},
        {"name": "ig65m-kinetics400-34-32f",
         "url": "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
         "r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth",
         "mib": 243.2, "classes": 400, "options": {"depth": 34, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112,
         "accuracy": "Kinetics-400 video top-1 80.0, top-5 94.2"},
        {"name": "kinetics400-152-32f",
         "url": "https://www.dropbox.com/s/9770y063u3z5bmb/r2plus1d_152_kinetics_from_scratch_f127858918.pkl?dl=1", "mib": 451.8,
         "classes": 400, "options": {"depth": 152, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112,
         "accuracy": "Kinetics-400 video top-1 77.3, top-5 92.5", "note": "VMZ, Caffe2"},
        {"name": "sports1m-kinetics400-152-32f",
         "url": "https://github.com/bjuncek/VMZ/releases/download/test_models/r2plus1d_152_ft_kinetics_from_sports1m_f128957437.pth",
         "mib": 451.8, "classes": 400, "options": {"depth": 152, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112,
         "accuracy": "Kinetics-400 video top-1 79.5, top-5 94.0", "note": "VMZ; Sports-1M first"},
        {"name": "ig65m-kinetics400-152-32f",
         "url": "https://github.com/bjuncek/VMZ/releases/download/test_models/r2plus1d_152_ft_kinetics_from_ig65m_f107107466.pth",
         "mib": 451.8, "classes": 400, "options": {"depth": 152, "midplanes": "vmz"}, "normalise": "vmz", "frames": 32, "size": 112,
         "accuracy": "Kinetics-400 video top-1 81.6, top-5 95.3", "note": "VMZ; IG-65M first"},
    ),
    "r3d": (
        {"name": "torchvision-kinetics400-18", "torchvision": "R3D_18_Weights.KINETICS400_V1", "file": "r3d_18-b3b3357e.pth", "mib": 127.4,
         "classes": 400, "options": {"depth": 18, "midplanes": "torchvision"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 video top-1 63.20"},
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/n3ax2591imcy9ly/r3d_d18_l8.pkl?dl=1", "mib": 127.3, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 49.8, video top-1 62.3, top-5 83.4", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/8tqp8uhjmedflu1/r3d_d18_l16.pkl?dl=1", "mib": 127.3,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 52.9, video top-1 64.7, top-5 85.0", "note": "VMZ, Caffe2"},
    ),
    "r2d": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/ju4fah9dksn08s1/r2d_d18_l8.pkl?dl=1", "mib": 43.7, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz", "frames": 8}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 47.0, video top-1 60.0, top-5 81.2", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/hyw8ltzvhadxgia/r2d_d18_l16.pkl?dl=1", "mib": 44.0, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz", "frames": 16}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 47.5, video top-1 59.4, top-5 81.3", "note": "VMZ, Caffe2"},
    ),
    "fr2d": (
        {"name": "kinetics400-18-8f", "url": "https://www.dropbox.com/s/4jexszps3564za3/r2df_d18_l8.pkl?dl=1", "mib": 43.5, "classes": 400,
         "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 8, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 48.5, video top-1 60.0, top-5 81.8", "note": "VMZ, Caffe2"},
        {"name": "kinetics400-18-16f", "url": "https://www.dropbox.com/s/4yy0tdfebdy0ptr/r2df_d18_l16.pkl?dl=1", "mib": 43.5,
         "classes": 400, "options": {"depth": 18, "midplanes": "vmz"}, "normalise": "vmz", "frames": 16, "size": 112, "fps": 15,
         "accuracy": "Kinetics-400 clip top-1 50.7, video top-1 60.9, top-5 81.9", "note": "VMZ, Caffe2"},
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
    design = Design(
        depth,
        ("2plus1d",) * 4,
        "2plus1d",
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("3d",) * 4,
        (3, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("2d",) * 4,
        (frames, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
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
    design = Design(
        depth,
        ("2d",) * 4,
        (1, 7, 7),
        frames=frames,
        midplanes=midplanes,
        bn_eps=bn_eps,
        pool1=pool1,
    )
    return VideoResNet(num_classes, design, in_channels=in_channels)
