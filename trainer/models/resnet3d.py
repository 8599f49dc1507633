"""3D ResNet and ResNeXt (Hara, Kataoka and Satoh, CVPR 2018), with the key names of their and of Efficient-3DCNNs' checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, conv_norm_act, initialise_convs
from trainer.models.registry import register_model

Shortcut = Literal["A", "B"]
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
STEM = 64

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "resnet3d": (
        {"name": "kinetics600-18", "file": "kinetics_resnet_18_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 127.2,
         "classes": 600, "options": {"depth": 18, "shortcut": "A"}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 57.65; fine-tuned on UCF101 80.09"},
        {"name": "jester-18", "file": "jester_resnet_18_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 126.1, "classes": 27,
         "options": {"depth": 18, "shortcut": "A"}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.34", "note": "every second frame"},
        {"name": "kinetics600-50", "file": "kinetics_resnet_50_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 181.1,
         "classes": 600, "options": {"depth": 50, "shortcut": "B"}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 63.00; fine-tuned on UCF101 88.92"},
        {"name": "jester-50", "file": "jester_resnet_50_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 176.6, "classes": 27,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.70", "note": "every second frame"},
        {"name": "kinetics600-101", "file": "kinetics_resnet_101_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 330.3,
         "classes": 600, "options": {"depth": 101, "shortcut": "B"}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 64.18; fine-tuned on UCF101 87.02"},
        {"name": "jester-101", "file": "jester_resnet_101_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 325.8, "classes": 27,
         "options": {"depth": 101, "shortcut": "B"}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 94.10", "note": "every second frame"},
        {"name": "kinetics400-18", "file": "resnet-18-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 126.8,
         "classes": 400, "options": {"depth": 18, "shortcut": "A"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 66.1"},
        {"name": "kinetics400-34", "file": "resnet-34-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 242.5,
         "classes": 400, "options": {"depth": 34, "shortcut": "A"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 71.0"},
        {"name": "kinetics400-50", "file": "resnet-50-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 179.6,
         "classes": 400, "options": {"depth": 50, "shortcut": "B"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 72.2"},
        {"name": "kinetics400-101", "file": "resnet-101-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 328.7,
         "classes": 400, "options": {"depth": 101, "shortcut": "B"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 73.3"},
        {"name": "kinetics400-152", "file": "resnet-152-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 451.6,
         "classes": 400, "options": {"depth": 152, "shortcut": "B"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 73.7"},
        {"name": "kinetics400-200", "file": "resnet-200-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 486.8,
         "classes": 400, "options": {"depth": 200, "shortcut": "B"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 73.7"},
        {"name": "k-18", "file": "r3d18_K_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 128.1, "classes": 700,
         "options": {"depth": 18, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700"},
        {"name": "km-18", "file": "r3d18_KM_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 128.7, "classes": 1039,
         "options": {"depth": 18, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700 and Moments"},
        {"name": "k-34", "file": "r3d34_K_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 243.7, "classes": 700,
         "options": {"depth": 34, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700"},
        {"name": "km-34", "file": "r3d34_KM_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 244.4, "classes": 1039,
         "options": {"depth": 34, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700 and Moments"},
        {"name": "k-50", "file": "r3d50_K_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 181.9, "classes": 700,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700"},
        {"name": "km-50", "file": "r3d50_KM_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 184.6, "classes": 1039,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700 and Moments"},
        {"name": "kms-50", "file": "r3d50_KMS_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 185.3, "classes": 1139,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700, Moments and STAIR"},
        {"name": "ks-50", "file": "r3d50_KS_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 182.7, "classes": 800,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700 and STAIR"},
        {"name": "m-50", "file": "r3d50_M_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 179.1, "classes": 339,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Moments"},
        {"name": "ms-50", "file": "r3d50_MS_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 179.9, "classes": 439,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Moments and STAIR"},
        {"name": "s-50", "file": "r3d50_S_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 177.2, "classes": 100,
         "options": {"depth": 50, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "STAIR"},
        {"name": "k-101", "file": "r3d101_K_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 331.1, "classes": 700,
         "options": {"depth": 101, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700"},
        {"name": "km-101", "file": "r3d101_KM_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 333.7, "classes": 1039,
         "options": {"depth": 101, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700 and Moments"},
        {"name": "k-152", "file": "r3d152_K_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 453.9, "classes": 700,
         "options": {"depth": 152, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700"},
        {"name": "km-152", "file": "r3d152_KM_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 456.6, "classes": 1039,
         "options": {"depth": 152, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700 and Moments"},
        {"name": "k-200", "file": "r3d200_K_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 489.1, "classes": 700,
         "options": {"depth": 200, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112, "note": "Kinetics-700"},
        {"name": "km-200", "file": "r3d200_KM_200ep.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2020", "mib": 491.7, "classes": 1039,
         "options": {"depth": 200, "shortcut": "B"}, "normalise": "hara_2020", "frames": 16, "size": 112,
         "note": "Kinetics-700 and Moments"},
    ),
    "resnext3d": (
        {"name": "kinetics600-101", "file": "kinetics_resnext_101_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 186.5,
         "classes": 600, "options": {"depth": 101, "shortcut": "B"}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 68.30; fine-tuned on UCF101 89.08"},
        {"name": "jester-101", "file": "jester_resnext_101_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 182.0,
         "classes": 27, "options": {"depth": 101, "shortcut": "B"}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 94.89", "note": "every second frame"},
        {"name": "kinetics400-101", "file": "resnext-101-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 184.9,
         "classes": 400, "options": {"depth": 101, "shortcut": "B"}, "normalise": "activitynet", "frames": 16, "size": 112,
         "accuracy": "Kinetics-400 mean of video top-1 and top-5 75.4"},
        {"name": "kinetics400-101-64f", "file": "resnext-101-64f-kinetics.pth", "page": "kenshohara/3D-ResNets-PyTorch, 2018", "mib": 184.9,
         "classes": 400, "options": {"depth": 101, "shortcut": "B"}, "normalise": "activitynet", "frames": 64, "size": 112},
    ),
}  # fmt: skip


class PadShortcut(nn.Module):
    """Shortcut A: every `stride`-th cell, and zeros as further channels. No parameters.

    `legacy` cuts its gradient, as the published code does by using `.data`; the outputs are the same.
    """

    def __init__(self, extra: int, stride: int, *, legacy: bool) -> None:
        super().__init__()
        self.extra, self.stride, self.legacy = extra, stride, legacy

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.legacy:
            x_BCTHW = x_BCTHW.detach()
        step = self.stride
        return F.pad(x_BCTHW[:, :, ::step, ::step, ::step], (0, 0, 0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"extra={self.extra}, stride={self.stride}, legacy={self.legacy}"


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions, the first with the stride, and the shortcut (the input itself without `downsample`)."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm_act(inputs, outputs, 3, stride=stride, act=None)
        self.conv2, self.bn2 = conv_norm_act(outputs, outputs, 3, act=None)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Pointwise to `middle` channels, 3x3x3 with the stride (in `groups` for ResNeXt), pointwise up, and the shortcut."""

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        *,
        stride: int,
        groups: int,
        downsample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm_act(inputs, middle, act=None)
        self.conv2, self.bn2 = conv_norm_act(
            middle, middle, 3, stride=stride, groups=groups, act=None
        )
        self.conv3, self.bn3 = conv_norm_act(middle, outputs, act=None)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Form:
    """Which blocks a network is made of. `cardinality` is a ResNeXt's number of groups, 0 for a ResNet."""

    depth: int
    shortcut: Shortcut
    legacy_shortcut: bool
    cardinality: int = 0

    def outputs(self, stage: int) -> int:
        """Channels after a stage, 0 to 3."""
        return (64 if self.depth < 50 else 256) << stage

    def block(self, inputs: int, stage: int, stride: int) -> nn.Module:
        """One block of a stage."""
        outputs = self.outputs(stage)
        downsample = (
            self._downsample(inputs, outputs, stride) if stride != 1 or inputs != outputs else None
        )
        if self.depth < 50:
            return BasicBlock(inputs, outputs, stride=stride, downsample=downsample)
        middle = self.cardinality * (outputs // 64) if self.cardinality else outputs // 4
        return Bottleneck(
            inputs,
            middle,
            outputs,
            stride=stride,
            groups=self.cardinality or 1,
            downsample=downsample,
        )

    def _downsample(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        if self.shortcut == "A":
            return PadShortcut(outputs - inputs, stride, legacy=self.legacy_shortcut)
        return nn.Sequential(*conv_norm_act(inputs, outputs, stride=stride, act=None))


class ResNet3D(Part):
    """B,C,T,H,W to logits B,classes. The last map has ceil(T / 16) x ceil(S / 32)^2 cells, and the head averages them.

    So the published pool, of just that size for one size of clip, and this one are equal, and clips of any size work;
    `frames` and `size` only say which clips the network is meant for.
    """

    trainable_when_frozen = ("fc",)
    head_module = "fc"

    def __init__(
        self, num_classes: int, form: Form, *, in_channels: int, frames: int, size: int
    ) -> None:
        super().__init__()
        self.frames, self.size = frames, size
        self.conv1 = nn.Conv3d(in_channels, STEM, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((3, 3, 3), 2, 1)
        channels = STEM
        stages = []
        for stage, blocks in enumerate(BLOCKS[form.depth]):
            layers = []
            for i in range(blocks):
                layers.append(form.block(channels, stage, 2 if stage and i == 0 else 1))
                channels = form.outputs(stage)
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise_convs(self)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        out = self.maxpool(self.relu(self.bn1(self.conv1(video_BCTHW))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.fc(self.avgpool(out).flatten(1))
        return logits


@register_model
def resnet3d(
    num_classes: int,
    depth: Literal[10, 18, 34, 50, 101, 152, 200],
    *,
    shortcut: Literal["A", "B"] = "A",
    size: int = 112,
    frames: int = 16,
    in_channels: int = 3,
    legacy_shortcut: bool = False,
) -> nn.Module:
    """3D ResNet, 8.3 G multiply-adds at depth 18: video to classes

    Shortcut A pads with zeros, B convolves; the published weights of depths 50 and more have B, as all of 2020 have.
    `legacy_shortcut` trains as the published code did, without a gradient through shortcuts of kind A.
    """
    form = Form(depth, shortcut, legacy_shortcut)
    return ResNet3D(num_classes, form, in_channels=in_channels, frames=frames, size=size)


@register_model
def resnext3d(
    num_classes: int,
    depth: Literal[50, 101, 152],
    *,
    shortcut: Literal["A", "B"] = "A",
    size: int = 112,
    frames: int = 16,
    in_channels: int = 3,
    cardinality: int = 32,
    legacy_shortcut: bool = False,
) -> nn.Module:
    """3D ResNeXt, 9.6 G multiply-adds at depth 101: video to classes

    `cardinality` is the number of groups of the 3x3x3 convolutions. The published weights have shortcut B.
    """
    form = Form(depth, shortcut, legacy_shortcut, cardinality)
    return ResNet3D(num_classes, form, in_channels=in_channels, frames=frames, size=size)
