"""Channel-separated networks (Tran et al. 2019): bottlenecks whose 3x3x3 convolution is depthwise, in two published layouts.

ip-CSN has a 1x1x1 convolution before the depthwise one, so that channels still meet there; ir-CSN has the depthwise one alone.
The "vmz" flavour is VMZ's. The "002" flavour, of the compressed 3D CNNs, has the names of 3D ResNets, the default BatchNorm
epsilon, no BatchNorm between ip-CSN's two convolutions, always the pool behind the stem, and another network of 26 layers.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.models.layers import Part, check_input
from trainer.models.registry import register_model
from trainer.models.video_resnet import LAYERS, WIDTHS, Design, VideoResNet, initialise

torch.fx.wrap("check_input")

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    26: (1, 2, 4, 1),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = 4

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "csn": (
        {"name": "ir-152-kinetics400",
         "url": "https://www.dropbox.com/s/46gcm7up60ssx5c/irCSN_152_kinetics_from_scratch_f98268019.pkl?dl=1", "mib": 113.9,
         "classes": 400, "options": {"depth": 152, "bottleneck": "ir", "flavour": "vmz", "pool1": True}, "normalise": "vmz", "frames": 32,
         "size": 224, "accuracy": "Kinetics-400 video top-1 76.5, top-5 92.1", "note": "VMZ, Caffe2"},
        {"name": "ir-152-sports1m-kinetics400",
         "url": "https://github.com/bjuncek/VMZ/releases/download/test_models/irCSN_152_ft_kinetics_from_Sports1M_f101599884.pth",
         "mib": 113.9, "classes": 400, "options": {"depth": 152, "bottleneck": "ir", "flavour": "vmz", "pool1": True}, "normalise": "vmz",
         "frames": 32, "size": 224, "accuracy": "Kinetics-400 video top-1 78.2, top-5 93.0", "note": "VMZ; Sports-1M first"},
        {"name": "ir-152-ig65m-kinetics400",
         "url": "https://github.com/bjuncek/VMZ/releases/download/test_models/irCSN_152_ft_kinetics_from_ig65m_f126851907.pth",
         "mib": 113.9, "classes": 400, "options": {"depth": 152, "bottleneck": "ir", "flavour": "vmz", "pool1": True}, "normalise": "vmz",
         "frames": 32, "size": 224, "accuracy": "Kinetics-400 video top-1 82.6, top-5 95.3", "note": "VMZ; IG-65M first"},
        {"name": "ip-152-kinetics400",
         "url": "https://www.dropbox.com/s/3fihu6ti60047mu/ipCSN_152_kinetics_from_scratch_f129594342.pkl?dl=1", "mib": 126.6,
         "classes": 400, "options": {"depth": 152, "bottleneck": "ip", "flavour": "vmz", "pool1": True}, "normalise": "vmz", "frames": 32,
         "size": 224, "accuracy": "Kinetics-400 video top-1 77.8, top-5 92.8", "note": "VMZ, Caffe2"},
        {"name": "ip-152-sports1m-kinetics400",
         "url": "https://github.com/bjuncek/VMZ/releases/download/test_models/ipCSN_152_ft_kinetics_from_Sports1M_f111279053.pth",
         "mib": 126.6, "classes": 400, "options": {"depth": 152, "bottleneck": "ip", "flavour": "vmz", "pool1": True}, "normalise": "vmz",
         "frames": 32, "size": 224, "accuracy": "Kinetics-400 video top-1 78.8, top-5 93.5", "note": "VMZ; Sports-1M first"},
        {"name": "ip-152-ig65m-kinetics400",
         "url": "https://github.com/bjuncek/VMZ/releases/download/test_models/ipCSN_152_ft_kinetics_from_ig65m_f133090949.pth",
         "mib": 126.6, "classes": 400, "options": {"depth": 152, "bottleneck": "ip", "flavour": "vmz", "pool1": True}, "normalise": "vmz",
         "frames": 32, "size": 224, "accuracy": "Kinetics-400 video top-1 82.5, top-5 95.3", "note": "VMZ; IG-65M first"},
    ),
}  # fmt: skip


class Bottleneck(nn.Module):
    """1x1x1, depthwise 3x3x3 (`conv2`, with ip-CSN's 1x1x1 convolution in front), 1x1x1 four times as wide."""

    def __init__(self, inputs: int, width: int, *, stride: int, mixed: bool) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Sequential()
        if mixed:
            self.conv2.append(nn.Conv3d(width, width, 1, bias=False))
        self.conv2.append(
            nn.Conv3d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        )
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        project = inputs != outputs or stride != 1
        self.downsample = (
            nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm3d(outputs)
            )
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        added: Tensor = self.relu(out + shortcut)
        return added


class CSN(Part):
    """B,C,T,H,W to B,classes, in the layout of the compressed 3D CNNs. Clips of any size."""

    trainable_when_frozen = ("fc",)
    head_module = "fc"

    def __init__(self, num_classes: int, depth: int, *, mixed: bool, in_channels: int = 3) -> None:
        """`mixed`: ip-CSN."""
        super().__init__()
        self.wanted = (in_channels, None, None, None)
        self.conv1 = nn.Conv3d(
            in_channels, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False
        )
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        inputs = 64
        for group, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), 1):
            layer = nn.Sequential()
            for index in range(blocks):
                layer.append(
                    Bottleneck(
                        inputs, width, stride=2 if group > 1 and index == 0 else 1, mixed=mixed
                    )
                )
                inputs = width * EXPANSION
            self.add_module(f"layer{group}", layer)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        check_input(video_BCTHW, self.wanted)
        x = self.maxpool(self.relu(self.bn1(self.conv1(video_BCTHW))))
        for name in LAYERS:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


@register_model
def csn(
    num_classes: int,
    *,
    depth: Literal[26, 50, 101, 152] = 50,
    bottleneck: Literal["ip", "ir"] = "ip",
    flavour: Literal["002", "vmz"] = "002",
    pool1: bool = False,
    in_channels: int = 3,
) -> nn.Module:
    """Channel-separated network (ip-CSN, ir-CSN)

    `flavour` is the system whose layout and checkpoints it has. `pool1` is for "vmz", whose published networks of 224 pixels
    have that pool; "002" always has it.
    """
    if flavour == "002":
        return CSN(num_classes, depth, mixed=bottleneck == "ip", in_channels=in_channels)
    design = Design(depth, (bottleneck,) * 4, pool1=pool1)
    return VideoResNet(num_classes, design, in_channels=in_channels)
