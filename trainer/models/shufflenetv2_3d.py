"""ShuffleNetV2 (Ma et al. 2018) with 3D kernels, as in Efficient-3DCNNs (Kopuklu et al. 2019), with its key names."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.layers import Part, conv_norm_act, shuffle_channels
from trainer.models.registry import register_model

STEM = 24
# channels of the three stages and of the last convolution, by width
STAGES: dict[float, tuple[int, int, int, int]] = {
    0.25: (32, 64, 128, 1024),
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (224, 488, 976, 2048),
}
BLOCKS = (4, 8, 4)

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "shufflenetv2_3d": (
        {"name": "kinetics600-0.25x", "file": "kinetics_shufflenetv2_0.25x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 3.2,
         "classes": 600, "options": {"width": 0.25}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 25.73; fine-tuned on UCF101 56.52"},
        {"name": "jester-0.25x", "file": "jester_shufflenetv2_0.25x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 0.9,
         "classes": 27, "options": {"width": 0.25}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 86.91", "note": "every second frame"},
        {"name": "kinetics600-1.0x", "file": "kinetics_shufflenetv2_1.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 7.4,
         "classes": 600, "options": {"width": 1.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 46.10; fine-tuned on UCF101 77.90"},
        {"name": "jester-1.0x", "file": "jester_shufflenetv2_1.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 5.1,
         "classes": 27, "options": {"width": 1.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 91.96", "note": "every second frame"},
        {"name": "kinetics600-1.5x", "file": "kinetics_shufflenetv2_1.5x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 12.2,
         "classes": 600, "options": {"width": 1.5}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 52.05; fine-tuned on UCF101 82.32"},
        {"name": "jester-1.5x", "file": "jester_shufflenetv2_1.5x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 9.9,
         "classes": 27, "options": {"width": 1.5}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.16", "note": "every second frame"},
        {"name": "kinetics600-2.0x", "file": "kinetics_shufflenetv2_2.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 25.5,
         "classes": 600, "options": {"width": 2.0}, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 55.17; fine-tuned on UCF101 83.32"},
        {"name": "jester-2.0x", "file": "jester_shufflenetv2_2.0x_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 21.0,
         "classes": 27, "options": {"width": 2.0}, "normalise": "kinetics_bgr", "frames": 16, "size": 112,
         "accuracy": "Jester video top-1 93.71", "note": "every second frame"},
    ),
}  # fmt: skip


class InvertedResidual(nn.Module):
    """Half of the channels through a bottleneck, the other half beside it; at stride 2 all through both branches. Then a shuffle."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.beside = 0 if stride == 2 else half  # channels that pass by
        self.banch1 = None  # spelt as in the published weights
        if stride == 2:
            self.banch1 = nn.Sequential(
                *conv_norm_act(inputs, inputs, 3, stride=stride, groups=inputs, act=None),
                *conv_norm_act(inputs, half),
            )
        self.banch2 = nn.Sequential(
            *conv_norm_act(inputs if stride == 2 else half, half),
            *conv_norm_act(half, half, 3, stride=stride, groups=half, act=None),
            *conv_norm_act(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        beside = x[:, : self.beside] if self.banch1 is None else self.banch1(x)
        return shuffle_channels(torch.cat([beside, self.banch2(x[:, self.beside :])], dim=1), 2)


class ShuffleNetV2(Part):
    """B,C,T,H,W of any size to logits B,classes. The last map has ceil(T / 16) x ceil(S / 32)^2 cells, and the head averages them."""

    trainable_when_frozen = ("classifier",)
    head_module = "classifier.1"

    def __init__(self, num_classes: int, *, width: float, dropout: float, in_channels: int) -> None:
        super().__init__()
        *stages, features = STAGES[width]
        self.conv1 = nn.Sequential(*conv_norm_act(in_channels, STEM, 3, stride=(1, 2, 2)))
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        layers: list[nn.Module] = []
        channels = STEM
        for outputs, blocks in zip(stages, BLOCKS, strict=True):
            layers += [
                InvertedResidual(outputs if i else channels, outputs, stride=1 if i else 2)
                for i in range(blocks)
            ]
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.conv_last = nn.Sequential(*conv_norm_act(channels, features))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, num_classes))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        out = self.conv_last(self.features(self.maxpool(self.conv1(video_BCTHW))))
        logits: Tensor = self.classifier(F.adaptive_avg_pool3d(out, 1).flatten(1))
        return logits


@register_model
def shufflenetv2_3d(
    num_classes: int,
    *,
    width: Literal[0.25, 0.5, 1.0, 1.5, 2.0] = 1.0,  # type: ignore[valid-type]  # typing has no literal floats, `signatures` does
    dropout: float = 0.2,
    in_channels: int = 3,
) -> nn.Module:
    """ShuffleNetV2 with 3D kernels, 1.7 M parameters: video to classes

    Weights are published for the widths 0.25, 1.0, 1.5 and 2.0, which fine-tuned with dropout 0.9.
    """
    return ShuffleNetV2(num_classes, width=width, dropout=dropout, in_channels=in_channels)
