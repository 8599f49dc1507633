"""VGG-16 with its fully connected layers as dilated convolutions, as SSD has it, on single images or stacks of frames."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.layers import Part, check_input
from trainer.models.registry import register_model
from trainer.models.stacks import tile_channels

torch.fx.wrap("check_input")

SIZE = 300
# widths of the 3x3 convolutions; M: a pool of 2 pixels, C: one that keeps an odd last row
LAYERS: tuple[int | str, ...] = (
    64,
    64,
    "M",
    128,
    128,
    "M",
    256,
    256,
    256,
    "C",
    512,
    512,
    512,
    "M",
    512,
    512,
    512,
)
WIDE = 1024
LAST_SIDE = 3
# layers of `conv_base` that the classification networks have too, those of torchvision under the
# same numbers
TRUNK = 30

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "vgg16": (
        {"name": "imagenet", "torchvision": "VGG16_Weights.IMAGENET1K_FEATURES", "file": "vgg16_features-amdegroot-88682ab5.pth",
         "mib": 527.8, "classes": 1000, "normalise": "vgg", "frames": 1, "note": "3x3 convolutions only, the rest starts fresh"},
        {"name": "imagenet-reducedfc", "url": "https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth", "mib": 78.1, "classes": 1000,
         "normalise": "vgg", "frames": 1, "note": "conv_base only, the rest starts fresh"},
    ),
}  # fmt: skip


class VGG16(Part):
    """B, seq_len * in_channels, 300, 300 to B,classes."""

    head_module = "classifier.4"
    # what the public image networks have no weights for; weights.py lets it start fresh with the
    # last layer
    fresh_with_head = (
        f"conv_base.{TRUNK + 1}.",
        f"conv_base.{TRUNK + 3}.",
        "extra_layers.",
        "classifier.",
    )
    # frozen as it started, it would be noise
    trainable_when_frozen = tuple(name.removesuffix(".") for name in fresh_with_head)

    def __init__(
        self,
        num_classes: int,
        *,
        seq_len: int = 1,
        hidden: int = 4096,
        dropout: float = 0.6,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels = seq_len * in_channels
        self.conv_base = _base(self.channels)
        self.extra_layers = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(WIDE, WIDE, 3, stride=3), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(WIDE * LAST_SIDE * LAST_SIDE, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        check_input(images_BCHW, (self.channels, SIZE, SIZE))
        logits: Tensor = self.classifier(self.extra_layers(self.conv_base(images_BCHW)).flatten(1))
        return logits

    def adapt_checkpoint(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """`vgg16_reducedfc.pth` (`0.weight`), later ones (`conv_base.conv_base.0.weight`), torchvision's `vgg16` (`features.0.weight`).

        torchvision's classifier, which is of another shape, is left out.
        """
        images = any(key.startswith("features.") for key in tensors)
        adapted = {}
        for key, tensor in tensors.items():
            if not (images and key.startswith("classifier.")):
                adapted[
                    re.sub(r"^(?:conv_base\.conv_base\.|features\.|(?=\d+\.))", "conv_base.", key)
                ] = tensor
        return tile_channels(adapted, "conv_base.0.weight", self.channels)


def _base(channels: int) -> nn.Sequential:
    """VGG-16's convolutions, then its first two linear layers as convolutions; 300 pixels become 19."""
    base = nn.Sequential()
    for layer in LAYERS:
        if isinstance(layer, int):
            base.extend([nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU(inplace=True)])
            channels = layer
        else:
            base.append(nn.MaxPool2d(2, ceil_mode=layer == "C"))
    assert len(base) == TRUNK
    base.append(nn.MaxPool2d(3, stride=1, padding=1))
    base.extend([nn.Conv2d(channels, WIDE, 3, padding=6, dilation=6), nn.ReLU(inplace=True)])
    return base.extend([nn.Conv2d(WIDE, WIDE, 1), nn.ReLU(inplace=True)])


@register_model(clip="1x300")
def vgg16(
    num_classes: int,
    *,
    seq_len: int = 1,
    hidden: int = 4096,
    dropout: float = 0.6,
    in_channels: int = 3,
) -> nn.Module:
    """VGG-16 with reduced fully connected layers, 2D: a frame or a stack of frames to classes

    `hidden` is the width before the last layer; later published checkpoints have 1024.
    """
    return VGG16(
        num_classes, seq_len=seq_len, hidden=hidden, dropout=dropout, in_channels=in_channels
    )
