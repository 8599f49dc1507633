"""Inception v3 on single images or stacks of frames (Szegedy et al. 2016), with torchvision's names and without its auxiliary head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.layers import Part, check_input
from trainer.models.registry import register_model
from trainer.models.stacks import tile_channels

torch.fx.wrap("check_input")
torch.fx.wrap("_check_size")

FEATURES = 2048
IMAGENET_CLASSES = 1000
LEAST_SIZE = 75  # pixels that leave one cell of the last map
Size = int | tuple[int, int]

PUBLISHED: dict[str, tuple[dict[str, Any], ...]] = {
    "inception_v3": (
        {"name": "imagenet", "torchvision": "Inception_V3_Weights.IMAGENET1K_V1", "file": "inception_v3_google-0cc3c7bd.pth", "mib": 103.9,
         "classes": 1000, "normalise": "minus_one_one", "frames": 1, "size": 299, "accuracy": "ImageNet top-1 77.294, top-5 93.45",
         "note": "earlier copies: inception_v3_google-1a9a5a14.pth"},
    ),
}  # fmt: skip


class BasicConv2d(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size, *, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


def _row(inputs: int, outputs: int) -> BasicConv2d:
    return BasicConv2d(inputs, outputs, (1, 7), padding=(0, 3))


def _column(inputs: int, outputs: int) -> BasicConv2d:
    return BasicConv2d(inputs, outputs, (7, 1), padding=(3, 0))


def _average() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1)  # zeros at the border count


class InceptionA(nn.Module):
    """1x1, 5x5, two 3x3, pool: 224 channels and `pool_features` more."""

    def __init__(self, inputs: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 64, 1)
        self.branch5x5_1 = BasicConv2d(inputs, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.pool = _average()
        self.branch_pool = BasicConv2d(inputs, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                double,
                self.branch_pool(self.pool(x)),
            ],
            1,
        )


class InceptionB(nn.Module):
    """Halves the map: 3x3, two 3x3, pool."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, self.pool(x)], 1)


class InceptionC(nn.Module):
    """1x1, 7x7 as a row and a column, twice that, pool; `width` inside."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 192, 1)
        self.branch7x7_1 = BasicConv2d(inputs, width, 1)
        self.branch7x7_2 = _row(width, width)
        self.branch7x7_3 = _column(width, 192)
        self.branch7x7dbl_1 = BasicConv2d(inputs, width, 1)
        self.branch7x7dbl_2 = _column(width, width)
        self.branch7x7dbl_3 = _row(width, width)
        self.branch7x7dbl_4 = _column(width, width)
        self.branch7x7dbl_5 = _row(width, 192)
        self.pool = _average()
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(self.pool(x))], 1)


class InceptionD(nn.Module):
    """Halves the map: 3x3, 7x7 as a row and a column and then 3x3, pool."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(inputs, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(inputs, 192, 1)
        self.branch7x7x3_2 = _row(192, 192)
        self.branch7x7x3_3 = _column(192, 192)
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, self.pool(x)], 1)


class InceptionE(nn.Module):
    """1x1, 3x3 and two 3x3 that end in a row beside a column, pool: 2048 channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 320, 1)
        self.branch3x3_1 = BasicConv2d(inputs, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(inputs, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.pool = _average()
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        branches += [
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionV3(Part):
    """B, seq_len * in_channels, H, W to B,classes; published for 299 pixels, and the last map is averaged whole, so from 75 on.

    The last layer is called `fc` for the 1000 classes of ImageNet and else `fc_kin`, as in the published checkpoints.
    """

    def __init__(
        self, num_classes: int, *, seq_len: int = 1, dropout: float = 0.6, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.channels = seq_len * in_channels
        self.Conv2d_1a_3x3 = BasicConv2d(self.channels, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(FEATURES)
        self.trunk = tuple(self._modules)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head_module = "fc" if num_classes == IMAGENET_CLASSES else "fc_kin"
        self.trainable_when_frozen = (self.head_module,)
        self.add_module(self.head_module, nn.Linear(FEATURES, num_classes))
        self._initialise()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        check_input(images_BCHW, (self.channels, None, None))
        _check_size(images_BCHW)
        x = images_BCHW
        for name in self.trunk:
            x = getattr(self, name)(x)
        logits: Tensor = getattr(self, self.head_module)(self.dropout(self.avgpool(x).flatten(1)))
        return logits

    def _initialise(self) -> None:
        """Normal of 0.02 cut at two deviations; BatchNorm 1 and 0."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)

    def adapt_checkpoint(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's `inception_v3`: without the auxiliary head, its last layer as ours, its first one tiled for stacks of frames."""
        adapted = {}
        for key, tensor in tensors.items():
            if key.startswith("AuxLogits."):
                continue
            layer, _, rest = key.partition(".")
            adapted[f"{self.head_module}.{rest}" if layer in ("fc", "fc_kin") else key] = tensor
        return tile_channels(adapted, "Conv2d_1a_3x3.conv.weight", self.channels)


def _check_size(images_BCHW: Tensor) -> None:
    if min(images_BCHW.shape[2:]) < LEAST_SIZE:
        height, width = images_BCHW.shape[2:]
        raise ValueError(
            f"Inception v3 takes frames of {LEAST_SIZE} x {LEAST_SIZE} pixels and more, not {height} x {width}"
        )


@register_model(clip="1x75+")
def inception_v3(
    num_classes: int, *, seq_len: int = 1, dropout: float = 0.6, in_channels: int = 3
) -> nn.Module:
    """Inception v3, 2D: a frame or a stack of frames to classes

    Published for 299 pixels; frames of 75 and more work, as the last map is averaged whole.
    """
    return InceptionV3(num_classes, seq_len=seq_len, dropout=dropout, in_channels=in_channels)
