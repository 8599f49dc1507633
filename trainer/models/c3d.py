"""C3D (Tran et al. 2015), eight 3x3x3 convolutions and three linear layers, in the three published forms.

All flatten their last map, so they take clips of 16 frames of 112 x 112 and nothing else.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.layers import Part, Triple, check_input, renamed
from trainer.models.registry import register_model

torch.fx.wrap("check_input")

FRAMES, SIZE = 16, 112
HIDDEN = 4096
# names and widths of the convolutions, in the groups that a pool ends
GROUPS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("conv1", 64),),
    (("conv2", 128),),
    (("conv3a", 256), ("conv3b", 256)),
    (("conv4a", 512), ("conv4b", 512)),
    (("conv5a", 512), ("conv5b", 512)),
)
SPORTS1M = {
    "features.0": "conv1", "features.3": "conv2", "features.6": "conv3a", "features.8": "conv3b", "features.11": "conv4a",
    "features.13": "conv4b", "features.16": "conv5a", "features.18": "conv5b", "classifier.0": "fc6", "classifier.3": "fc7",
    "classifier.6": "fc8",
}  # fmt: skip
# Caffe2's riv is the variance itself
BLOBS = {"w": "weight", "b": "bias", "s": "weight", "rm": "running_mean", "riv": "running_var"}

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "c3d": (
        {"name": "sports1m", "file": "c3d-pretrained.pth", "page": "https://pan.baidu.com/s/1saNqGBkzZHwZpG-A5RDLVw", "mib": 297.5,
         "classes": 487, "normalise": "c3d_bgr", "frames": 16, "size": 112, "note": "names features.N; has no fc8"},
        {"name": "sports1m-487", "url": "https://aimagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle", "mib": 305.1, "classes": 487,
         "normalise": "sports1m_bgr", "frames": 16, "size": 112, "note": "DavideA/c3d-pytorch"},
    ),
    "c3d_vmz": (
        {"name": "kinetics400", "url": "https://www.dropbox.com/s/z6w799mqet65mkq/c3d_kinetics_from_scratch_f129282105.pkl?dl=1",
         "mib": 247.8, "classes": 400, "normalise": "vmz", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 video top-1 66.6, top-5 86.7", "note": "VMZ, Caffe2"},
        {"name": "sports1m-kinetics400",
         "url": "https://www.dropbox.com/s/jadubfxhh5hdyp5/c3d_ft_kinetics_from_sports1m_f131638306.pkl?dl=1", "mib": 247.8, "classes": 400,
         "normalise": "vmz", "frames": 16, "size": 112, "accuracy": "Kinetics-400 video top-1 67.4, top-5 87.2",
         "note": "VMZ, Caffe2; Sports-1M first"},
        {"name": "kinetics400-2018", "url": "https://www.dropbox.com/s/hbzn4ykva64avxu/c3d_l16.pkl?dl=1", "mib": 247.8, "classes": 400,
         "normalise": "vmz", "frames": 16, "size": 112, "fps": 15, "accuracy": "Kinetics-400 clip top-1 52.3, video top-1 63.4, top-5 84.6",
         "note": "VMZ, Caffe2; the paper's"},
    ),
}  # fmt: skip


class _Clips(Part):
    """Takes clips of 16 x 112 x 112 only."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.wanted = (in_channels, FRAMES, SIZE, SIZE)


class C3D(_Clips):
    """B,C,16,112,112 to B,classes: as published, without BatchNorm (Sports-1M), or with VMZ's."""

    trainable_when_frozen = ("fc8",)
    head_module = "fc8"

    def __init__(
        self, num_classes: int, *, norm: bool, dropout: float = 0.5, in_channels: int = 3
    ) -> None:
        """`norm`: VMZ's form, with BatchNorm behind each convolution and no padding before the last pool."""
        super().__init__(in_channels)
        inputs = in_channels
        for number, group in enumerate(GROUPS, 1):
            for name, width in group:
                self.add_module(name, nn.Conv3d(inputs, width, 3, padding=1))
                if norm:
                    self.add_module(f"{name}_bn", nn.BatchNorm3d(width, eps=1e-3))
                inputs = width
            kernel: Triple = (1, 2, 2) if number == 1 else (2, 2, 2)
            self.add_module(
                f"pool{number}",
                nn.MaxPool3d(kernel, padding=(0, 1, 1) if number == 5 and not norm else 0),
            )
        side = 3 if norm else 4
        self.fc6 = nn.Linear(512 * side * side, HIDDEN)
        self.fc7 = nn.Linear(HIDDEN, HIDDEN)
        self.fc8 = nn.Linear(HIDDEN, num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self._initialise(norm)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        check_input(video_BCTHW, self.wanted)
        x = video_BCTHW
        for number, group in enumerate(GROUPS, 1):
            for name, _ in group:
                x = getattr(self, name)(x)
                x = self.relu(getattr(self, f"{name}_bn")(x) if hasattr(self, f"{name}_bn") else x)
            x = getattr(self, f"pool{number}")(x)
        x = self.dropout(self.relu(self.fc6(x.flatten(1))))
        logits: Tensor = self.fc8(self.dropout(self.relu(self.fc7(x))))
        return logits

    def _initialise(self, norm: bool) -> None:
        """Normal: by fan-in for the plain form's convolutions; VMZ's convolutions 0.01 and linear layers 0.005 wide."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv3d) and not norm:
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif norm and name in ("fc6", "fc7"):
                nn.init.normal_(module.weight, std=0.005)
                nn.init.zeros_(module.bias)

    def adapt_checkpoint(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sports-1M's `features.N`, `classifier.N`, and VMZ's Caffe2 blobs, under our names; `conv1` to `fc8` stay."""
        return renamed(tensors, _own_name)


def _own_name(key: str) -> str:
    module, _, kind = key.rpartition(".")
    if module in SPORTS1M:
        return f"{SPORTS1M[module]}.{kind}"
    blob = re.fullmatch(r"(conv\d[ab]?(?:_bn)?|fc[67]|last_out_L\d+)_(w|b|s|rm|riv)", key)
    if not blob:
        return key
    layer = re.sub(r"^conv([12])a", r"conv\1", blob[1])
    return f"{'fc8' if layer.startswith('last_out') else layer}.{BLOBS[blob[2]]}"


class C3DNorm(_Clips):
    """B,C,16,112,112 to B,classes: the form of the efficient 3D CNNs, whose first pool joins pairs of frames and keeps 15 of them."""

    trainable_when_frozen = ("fc",)
    head_module = "fc"

    def __init__(self, num_classes: int, *, dropout: float = 0.5, in_channels: int = 3) -> None:
        super().__init__(in_channels)
        inputs = in_channels
        strides: tuple[Triple, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
        for number, (group, stride) in enumerate(zip(GROUPS, strides, strict=True), 1):
            layers = nn.Sequential()
            for _, width in group:
                layers.extend(
                    [
                        nn.Conv3d(inputs, width, 3, padding=1),
                        nn.BatchNorm3d(width),
                        nn.ReLU(inplace=True),
                    ]
                )
                inputs = width
            last = number == len(GROUPS)
            layers.append(
                nn.MaxPool3d(
                    (1, 2, 2) if last else 2, stride=stride, padding=(0, 1, 1) if last else 0
                )
            )
            self.add_module(f"group{number}", layers)
        self.fc1 = nn.Sequential(
            nn.Linear(512 * 4 * 4, HIDDEN), nn.ReLU(inplace=True), nn.Dropout(dropout)
        )
        self.fc2 = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(inplace=True), nn.Dropout(dropout)
        )
        self.fc = nn.Sequential(nn.Linear(HIDDEN, num_classes))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        check_input(video_BCTHW, self.wanted)
        x = video_BCTHW
        for number in range(1, len(GROUPS) + 1):
            x = getattr(self, f"group{number}")(x)
        logits: Tensor = self.fc(self.fc2(self.fc1(x.flatten(1))))
        return logits


@register_model(clip="16x112")
def c3d(num_classes: int, *, dropout: float = 0.5, in_channels: int = 3) -> nn.Module:
    """C3D without BatchNorm, as its Sports-1M weights want it"""
    return C3D(num_classes, norm=False, dropout=dropout, in_channels=in_channels)


@register_model(clip="16x112")
def c3d_bn(num_classes: int, *, dropout: float = 0.5, in_channels: int = 3) -> nn.Module:
    """C3D with BatchNorm, of the efficient 3D CNNs"""
    return C3DNorm(num_classes, dropout=dropout, in_channels=in_channels)


@register_model(clip="16x112")
def c3d_vmz(num_classes: int, *, dropout: float = 0.5, in_channels: int = 3) -> nn.Module:
    """C3D with BatchNorm, of VMZ"""
    return C3D(num_classes, norm=True, dropout=dropout, in_channels=in_channels)
