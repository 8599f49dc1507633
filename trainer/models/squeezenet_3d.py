"""SqueezeNet 1.1 (Iandola et al. 2016) with 3D kernels, as in Efficient-3DCNNs (Kopuklu et al. 2019), with its key names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.layers import Part, initialise_convs
from trainer.models.registry import register_model

FIRES = (  # channels squeezed to, and of each of the two expansions; a pool stands before each row
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192)),
    ((64, 256), (64, 256)),
)
STEM = 64

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "squeezenet_3d": (
        {"name": "kinetics600", "file": "kinetics_squeezenet_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 8.2,
         "classes": 600, "normalise": "activitynet_bgr", "frames": 16, "size": 112,
         "accuracy": "Kinetics-600 video top-1 40.52; fine-tuned on UCF101 74.94"},
        {"name": "jester", "file": "jester_squeezenet_RGB_16_best.pth", "page": "okankop/Efficient-3DCNNs", "mib": 7.1, "classes": 27,
         "normalise": "kinetics_bgr", "frames": 16, "size": 112, "accuracy": "Jester video top-1 90.77", "note": "every second frame"},
    ),
}  # fmt: skip


class Fire(nn.Module):
    """Pointwise down, then pointwise and 3x3x3 up side by side, BatchNorm after each; the second Fire of a pair adds its input."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, *, bypass: bool) -> None:
        super().__init__()
        self.bypass = bypass
        self.squeeze = nn.Conv3d(inputs, squeezed, 1)
        self.squeeze_bn = nn.BatchNorm3d(squeezed)
        self.expand1x1 = nn.Conv3d(squeezed, expanded, 1)
        self.expand1x1_bn = nn.BatchNorm3d(expanded)
        self.expand3x3 = nn.Conv3d(squeezed, expanded, 3, padding=1)
        self.expand3x3_bn = nn.BatchNorm3d(expanded)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.relu(self.squeeze_bn(self.squeeze(x)))
        out = torch.cat(
            [
                self.expand1x1_bn(self.expand1x1(squeezed)),
                self.expand3x3_bn(self.expand3x3(squeezed)),
            ],
            dim=1,
        )
        if self.bypass:
            out = out + x
        return self.relu(out)  # type: ignore[no-any-return]


class SqueezeNet3D(Part):
    """B,C,T,H,W of any size to logits B,classes, each >= 0: the published head has a ReLU after its convolution.

    The last map has ceil(T / 16) x ceil(S / 32)^2 cells, and the head averages its answers over them.
    """

    trainable_when_frozen = ("classifier",)
    head_module = "classifier.1"

    def __init__(self, num_classes: int, *, dropout: float, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv3d(in_channels, STEM, 3, stride=(1, 2, 2), padding=1),
            nn.BatchNorm3d(STEM),
            nn.ReLU(inplace=True),
        ]
        channels = STEM
        for pair in FIRES:
            layers.append(nn.MaxPool3d(3, 2, 1))
            for i, (squeezed, expanded) in enumerate(pair):
                layers.append(Fire(channels, squeezed, expanded, bypass=i == 1))
                channels = 2 * expanded
        self.features = nn.Sequential(*layers)
        head = nn.Conv3d(channels, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), head, nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1)
        )
        initialise_convs(self)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(video_BCTHW))
        return logits.flatten(1)


@register_model
def squeezenet_3d(num_classes: int, *, dropout: float = 0.5, in_channels: int = 3) -> nn.Module:
    """SqueezeNet 1.1 with 3D kernels, BatchNorm and bypasses, 2.0 M parameters: video to classes

    The published fine-tuning kept dropout 0.5.
    """
    return SqueezeNet3D(num_classes, dropout=dropout, in_channels=in_channels)
