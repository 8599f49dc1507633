"""MobileNetV2 (Sandler et al. 2018) with 3D kernels, as in Efficient-3DCNNs (Kopuklu et al. 2019), with its key names."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, conv_norm_act
from trainer.models.registry import register_model

STEM, FEATURES = 32, 1280
STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "mobilenetv2_3d": (
        {"name": "kinetics600-0.2x", "file": "kinetics_mobilenetv2_0.2x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 3.7,
         "classes": 600, "options": {"width": 0.2}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 24.14; fine-tuned on UCF101 55.56"},
        {"name": "jester-0.2x", "file": "jester_mobilenetv2_0.2x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 0.9,
         "classes": 27, "options": {"width": 0.2}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 86.43", "note": "every second frame"},
        {"name": "kinetics600-0.45x", "file": "kinetics_mobilenetv2_0.45x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 5.4,
         "classes": 600, "options": {"width": 0.45}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 36.47; fine-tuned on UCF101 68.31"},
        {"name": "jester-0.45x", "file": "jester_mobilenetv2_0.45x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 2.6,
         "classes": 27, "options": {"width": 0.45}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 90.21", "note": "every second frame"},
        {"name": "kinetics600-0.7x", "file": "kinetics_mobilenetv2_0.7x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 7.9,
         "classes": 600, "options": {"width": 0.7}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 45.59; fine-tuned on UCF101 77.32"},
        {"name": "jester-0.7x", "file": "jester_mobilenetv2_0.7x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 5.1,
         "classes": 27, "options": {"width": 0.7}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.34", "note": "every second frame"},
        {"name": "kinetics600-1.0x", "file": "kinetics_mobilenetv2_1.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 12.0,
         "classes": 600, "options": {"width": 1.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 50.65; fine-tuned on UCF101 81.60"},
        {"name": "jester-1.0x", "file": "jester_mobilenetv2_1.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 9.2,
         "classes": 27, "options": {"width": 1.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 94.59", "note": "every second frame"},
    ),
}  # fmt: skip


class InvertedResidual(nn.Module):
    """Pointwise to `expansion` times the channels (none at expansion 1), depthwise 3x3x3, pointwise without activation; + x if it fits."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        hidden = inputs * expansion
        self.conv = nn.Sequential(
            *(conv_norm_act(inputs, hidden, act=nn.ReLU6) if expansion > 1 else []),
            *conv_norm_act(hidden, hidden, 3, stride=stride, groups=hidden, act=nn.ReLU6),
            *conv_norm_act(hidden, outputs, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(Part):
    """B,C,T,H,W of any size to logits B,classes. The last map has ceil(T / 16) x ceil(S / 32)^2 cells, and the head averages them."""

    trainable_when_frozen = ("classifier",)
    head_module = "classifier.1"

    def __init__(self, num_classes: int, *, width: float, dropout: float, in_channels: int) -> None:
        super().__init__()
        channels = max(1, int(STEM * width))
        layers: list[nn.Module] = [
            nn.Sequential(*conv_norm_act(in_channels, channels, 3, stride=(1, 2, 2), act=nn.ReLU6))
        ]
        for expansion, stage, blocks, first_stride in STAGES:
            outputs = max(1, int(stage * width))
            for i in range(blocks):
                layers.append(
                    InvertedResidual(
                        channels, outputs, stride=first_stride if i == 0 else 1, expansion=expansion
                    )
                )
                channels = outputs
        features = int(FEATURES * max(1.0, width))  # narrow networks keep the full head
        self.features = nn.Sequential(
            *layers, nn.Sequential(*conv_norm_act(channels, features, act=nn.ReLU6))
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, num_classes))
        # whose normal_ does nothing but load the compiler, for seconds
        if not self.classifier[1].weight.is_meta:
            _initialise(self)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        features = F.adaptive_avg_pool3d(self.features(video_BCTHW), 1).flatten(1)
        logits: Tensor = self.classifier(features)
        return logits


def _initialise(model: nn.Module) -> None:
    """As published: convolutions normal with variance 2 / (kernel cells * outputs), linear normal(0, 0.01) and bias 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(
                module.weight,
                std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)),
            )
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


@register_model
def mobilenetv2_3d(
    num_classes: int, *, width: float = 1.0, dropout: float = 0.2, in_channels: int = 3
) -> nn.Module:
    """MobileNetV2 with 3D kernels, 2.9 M parameters: video to classes

    `width` multiplies every number of channels; weights are published for 0.2, 0.45, 0.7 and 1.0, which fine-tuned with dropout 0.9.
    """
    return MobileNetV2(num_classes, width=width, dropout=dropout, in_channels=in_channels)
