"""ShuffleNet (Zhang et al. 2018) with 3D kernels, as in Efficient-3DCNNs (Kopuklu et al. 2019), with its key names."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, conv_norm_act, shuffle_channels
from trainer.models.registry import register_model

STEM = 24
# channels by groups, doubled in stages 2 and 3 (the paper's table 1)
STAGE_1: dict[int, int] = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
BLOCKS = (4, 8, 4)

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "shufflenet_3d": (
        {"name": "kinetics600-0.5x", "file": "kinetics_shufflenet_0.5x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 2.1,
         "classes": 600, "options": {"width": 0.5}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 35.51; fine-tuned on UCF101 64.39"},
        {"name": "jester-0.5x", "file": "jester_shufflenet_0.5x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 1.1,
         "classes": 27, "options": {"width": 0.5}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 89.23", "note": "every second frame"},
        {"name": "kinetics600-1.0x", "file": "kinetics_shufflenet_1.0x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 5.9,
         "classes": 600, "options": {"width": 1.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 45.31; fine-tuned on UCF101 76.00"},
        {"name": "jester-1.0x", "file": "jester_shufflenet_1.0x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 3.8,
         "classes": 27, "options": {"width": 1.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 92.27", "note": "every second frame"},
        {"name": "kinetics600-1.5x", "file": "kinetics_shufflenet_1.5x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 11.3,
         "classes": 600, "options": {"width": 1.5}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 52.75; fine-tuned on UCF101 81.73"},
        {"name": "jester-1.5x", "file": "jester_shufflenet_1.5x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 8.1,
         "classes": 27, "options": {"width": 1.5}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.12", "note": "every second frame"},
        {"name": "kinetics600-2.0x", "file": "kinetics_shufflenet_2.0x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 18.3,
         "classes": 600, "options": {"width": 2.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 56.84; fine-tuned on UCF101 84.96"},
        {"name": "jester-2.0x", "file": "jester_shufflenet_2.0x_G3_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 14.1,
         "classes": 27, "options": {"width": 2.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.54", "note": "every second frame"},
    ),
}  # fmt: skip


class Halve(nn.Module):
    """The published average of (2, 3, 3) cells at stride 2, which the last of an odd number of frames passes too, as in conv2."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool3d((2, 3, 3), 2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        # zeros around the frames here, since the pool's own padding refuses maps of less than 3 x 3
        frames = F.pad(torch.cat([x_BCTHW, x_BCTHW[:, :, -1:]], dim=2), (1, 1, 1, 1))
        return self.pool(frames)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Grouped pointwise, shuffle, depthwise 3x3x3, grouped pointwise; + x, or at stride 2 beside the averaged x."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        middle = outputs // 4
        # as published, so at widths other than 1.0 the stem's channels are grouped too
        first_groups = 1 if inputs == STEM else groups
        self.conv1, self.bn1 = conv_norm_act(inputs, middle, groups=first_groups, act=None)
        self.conv2, self.bn2 = conv_norm_act(
            middle, middle, 3, stride=stride, groups=middle, act=None
        )
        self.conv3, self.bn3 = conv_norm_act(
            middle, outputs - inputs if stride == 2 else outputs, groups=groups, act=None
        )
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = Halve() if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle_channels(self.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        if self.shortcut is None:
            return self.relu(out + x)  # type: ignore[no-any-return]
        return self.relu(torch.cat([out, self.shortcut(x)], dim=1))  # type: ignore[no-any-return]


class ShuffleNet3D(Part):
    """B,C,T,H,W of any size to logits B,classes. The last map has ceil(T / 16) x ceil(S / 32)^2 cells, and the head averages them."""

    trainable_when_frozen = ("classifier",)
    head_module = "classifier.1"

    def __init__(
        self, num_classes: int, *, width: float, groups: int, dropout: float, in_channels: int
    ) -> None:
        super().__init__()
        channels = _multiple(STEM * width, groups)
        self.conv1 = nn.Sequential(*conv_norm_act(in_channels, channels, 3, stride=(1, 2, 2)))
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        stages = []
        for stage, blocks in enumerate(BLOCKS):
            outputs = _multiple(STAGE_1[groups] * 2**stage * width, 4 * groups)
            layers = [
                Bottleneck(outputs if i else channels, outputs, stride=1 if i else 2, groups=groups)
                for i in range(blocks)
            ]
            stages.append(nn.Sequential(*layers))
            channels = outputs
        self.layer1, self.layer2, self.layer3 = stages
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        out = self.maxpool(self.conv1(video_BCTHW))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool3d(out, 1).flatten(1))
        return logits


def _multiple(channels: float, of: int) -> int:
    """Down to channels that groups divide; the published widths are such multiples already."""
    return max(1, int(channels) // of) * of


@register_model
def shufflenet_3d(
    num_classes: int,
    *,
    width: float = 1.0,
    groups: Literal[1, 2, 3, 4, 8] = 3,
    dropout: float = 0.2,
    in_channels: int = 3,
) -> nn.Module:
    """ShuffleNet with 3D kernels, 1.3 M parameters: video to classes

    `width` multiplies every number of channels; weights are published for 0.5, 1.0, 1.5 and 2.0 with 3 groups, which fine-tuned
    with dropout 0.9.
    """
    return ShuffleNet3D(
        num_classes, width=width, groups=groups, dropout=dropout, in_channels=in_channels
    )
