"""R(2+1)D and R3D of 18 layers as the C3D system had them: BatchNorm and ReLU twice over, and shortcuts that are convolutions in
two steps themselves. No other system's weights fit.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.layers import Part, Triple, check_input
from trainer.models.registry import register_model

torch.fx.wrap("check_input")

STEM_MIDDLE = 45
WIDTHS = (64, 128, 256, 512)
BLOCKS = 2  # in each group
Form = Literal["2plus1d", "3d"]


def _stage(form: Form, inputs: int, outputs: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution, BatchNorm and ReLU; in the (2+1)D form over space, then again over time."""
    if form == "3d":
        conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        return nn.Sequential(
            OrderedDict(
                temporal_spatial_conv=conv, bn=nn.BatchNorm3d(outputs), relu=nn.ReLU(inplace=True)
            )
        )
    middle = kernel**3 * inputs * outputs // (kernel**2 * inputs + kernel * outputs)
    return _two_steps(
        nn.Conv3d(
            inputs,
            middle,
            (1, kernel, kernel),
            stride=(1, stride, stride),
            padding=(0, kernel // 2, kernel // 2),
            bias=False,
        ),
        nn.Conv3d(
            middle,
            outputs,
            (kernel, 1, 1),
            stride=(stride, 1, 1),
            padding=(kernel // 2, 0, 0),
            bias=False,
        ),
    )


def _two_steps(space: nn.Conv3d, time: nn.Conv3d) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            spatial_conv=space,
            bn1=nn.BatchNorm3d(space.out_channels),
            relu1=nn.ReLU(inplace=True),
            temporal_conv=time,
            bn2=nn.BatchNorm3d(time.out_channels),
            relu2=nn.ReLU(inplace=True),
        )
    )


def _stem(form: Form, in_channels: int) -> nn.Sequential:
    space: Triple = (1, 2, 2)
    if form == "3d":
        conv = nn.Conv3d(in_channels, 64, (3, 7, 7), stride=space, padding=(1, 3, 3), bias=False)
        return nn.Sequential(
            OrderedDict(
                temporal_spatial_conv=conv, bn=nn.BatchNorm3d(64), relu=nn.ReLU(inplace=True)
            )
        )
    return _two_steps(
        nn.Conv3d(in_channels, STEM_MIDDLE, (1, 7, 7), stride=space, padding=(0, 3, 3), bias=False),
        nn.Conv3d(STEM_MIDDLE, 64, (3, 1, 1), padding=(1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """Two stages with a further BatchNorm behind each; where the sizes change, the shortcut is a stage with one too."""

    def __init__(self, form: Form, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shrinks = inputs != outputs
        if self.shrinks:
            self.downsampleconv = _stage(form, inputs, outputs, kernel=1, stride=2)
            self.downsamplebn = nn.BatchNorm3d(outputs)
        self.conv1 = _stage(form, inputs, outputs, kernel=3, stride=2 if self.shrinks else 1)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = _stage(form, outputs, outputs, kernel=3)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        shortcut = self.downsamplebn(self.downsampleconv(x)) if self.shrinks else x
        added: Tensor = self.relu(out + shortcut)
        return added


class Group(nn.Module):
    """`block1`, and the rest in `blocks`."""

    def __init__(self, form: Form, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block1 = Block(form, inputs, outputs)
        self.blocks = nn.ModuleList(Block(form, outputs, outputs) for _ in range(BLOCKS - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(x)
        for block in self.blocks:
            x = block(x)
        return x


class Trunk(nn.Module):
    """B,C,T,H,W to B,512."""

    def __init__(self, form: Form, in_channels: int) -> None:
        super().__init__()
        self.conv1 = _stem(form, in_channels)
        inputs = 64
        for number, width in enumerate(WIDTHS, 2):
            self.add_module(f"conv{number}", Group(form, inputs, width))
            inputs = width
        self.pool = nn.AdaptiveAvgPool3d(1)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        x = video_BCTHW
        for number in range(1, len(WIDTHS) + 2):
            x = getattr(self, f"conv{number}")(x)
        features: Tensor = self.pool(x).flatten(1)
        return features


class LeafResNet(Part):
    """B,C,T,H,W to B,classes. Clips of any size. The trunk is called `res2plus1d` or `res3d`, as in its checkpoints."""

    trainable_when_frozen = ("linear",)
    head_module = "linear"

    def __init__(self, num_classes: int, form: Form, *, in_channels: int = 3) -> None:
        super().__init__()
        self.trunk = f"res{form}"
        self.wanted = (in_channels, None, None, None)
        self.add_module(self.trunk, Trunk(form, in_channels))
        self.linear = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        check_input(video_BCTHW, self.wanted)
        logits: Tensor = self.linear(getattr(self, self.trunk)(video_BCTHW))
        return logits


@register_model
def leafdp_r2plus1d(num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """R(2+1)D of 18 layers with BatchNorm twice over, of the C3D system"""
    return LeafResNet(num_classes, "2plus1d", in_channels=in_channels)


@register_model
def leafdp_r3d(num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """R3D of 18 layers with BatchNorm twice over, of the C3D system"""
    return LeafResNet(num_classes, "3d", in_channels=in_channels)
