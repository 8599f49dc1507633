"""MobileNet (Howard et al. 2017) with 3D kernels, as in Efficient-3DCNNs (Kopuklu et al. 2019), with its key names."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, conv_norm_act
from trainer.models.registry import register_model

STEM = 32
# channels, blocks, stride of the first block
STAGES = ((64, 1, 2), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 1))

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "mobilenet_3d": (
        {"name": "kinetics600-0.5x", "file": "kinetics_mobilenet_0.5x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 4.5,
         "classes": 600, "options": {"width": 0.5}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 31.74; fine-tuned on UCF101 62.17"},
        {"name": "jester-0.5x", "file": "jester_mobilenet_0.5x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 3.4,
         "classes": 27, "options": {"width": 0.5}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 87.61", "note": "every second frame"},
        {"name": "kinetics600-1.0x", "file": "kinetics_mobilenet_1.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 15.0,
         "classes": 600, "options": {"width": 1.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 40.07; fine-tuned on UCF101 70.95"},
        {"name": "jester-1.0x", "file": "jester_mobilenet_1.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 12.8,
         "classes": 27, "options": {"width": 1.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 90.81", "note": "every second frame"},
        {"name": "kinetics600-1.5x", "file": "kinetics_mobilenet_1.5x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 31.5,
         "classes": 600, "options": {"width": 1.5}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 48.24; fine-tuned on UCF101 76.00"},
        {"name": "jester-1.5x", "file": "jester_mobilenet_1.5x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 28.1,
         "classes": 27, "options": {"width": 1.5}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 91.28", "note": "every second frame"},
        {"name": "kinetics600-2.0x", "file": "kinetics_mobilenet_2.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 54.0,
         "classes": 600, "options": {"width": 2.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 48.53; fine-tuned on UCF101 76.18"},
        {"name": "jester-2.0x", "file": "jester_mobilenet_2.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 49.5,
         "classes": 27, "options": {"width": 2.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 92.56", "note": "every second frame"},
    ),
}  # fmt: skip


class Block(nn.Module):
    """Depthwise 3x3x3, then pointwise, BatchNorm and ReLU after each."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm_act(
            inputs, inputs, 3, stride=stride, groups=inputs, act=None
        )
        self.conv2, self.bn2 = conv_norm_act(inputs, outputs, act=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return out


class MobileNet3D(Part):
    """B,C,T,H,W of any size to logits B,classes. The last map has ceil(T / 16) x ceil(S / 32)^2 cells, and the head averages them."""

    trainable_when_frozen = ("classifier",)
    head_module = "classifier.1"

    def __init__(self, num_classes: int, *, width: float, dropout: float, in_channels: int) -> None:
        super().__init__()
        channels = max(1, int(STEM * width))
        layers: list[nn.Module] = [
            nn.Sequential(*conv_norm_act(in_channels, channels, 3, stride=(1, 2, 2)))
        ]
        for stage, blocks, first_stride in STAGES:
            outputs = max(1, int(stage * width))
            for i in range(blocks):
                layers.append(Block(channels, outputs, first_stride if i == 0 else 1))
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        features = F.adaptive_avg_pool3d(self.features(video_BCTHW), 1).flatten(1)
        logits: Tensor = self.classifier(features)
        return logits


@register_model
def mobilenet_3d(
    num_classes: int, *, width: float = 1.0, dropout: float = 0.2, in_channels: int = 3
) -> nn.Module:
    """MobileNet with 3D kernels, 3.7 M parameters: video to classes

    `width` multiplies every number of channels; weights are published for 0.5, 1.0, 1.5 and 2.0, which fine-tuned with dropout 0.9.
    """
    return MobileNet3D(num_classes, width=width, dropout=dropout, in_channels=in_channels)
