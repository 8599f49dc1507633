"""The residual network behind the VMZ families (Tran et al. 2018, 2019), and where VMZ's Caffe2 blobs go in it.

Names of tensors are those of torchvision's VideoResNet, into which VMZ's Caffe2 blobs are translated. Two things tell the two
apart though the names agree: the channels between the space and the time kernel of a (2+1)D convolution (`midplanes`), and
the epsilon of BatchNorm (1e-3 in VMZ, 1e-5 in torchvision).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.errors import DataError
from trainer.models.layers import Part, Triple, check_input, renamed

torch.fx.wrap("check_input")

Kind = Literal["3d", "2d", "2plus1d", "ir", "ip"]  # of the 3x3x3 convolution of a block
Midplanes = Literal["vmz", "torchvision"]
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
}  # fmt: skip
WIDTHS = (64, 128, 256, 512)
LAYERS = ("layer1", "layer2", "layer3", "layer4")
EPS = {"vmz": 1e-3, "torchvision": 1e-5}
STEM_MIDDLE = 45  # channels between the two kernels of R(2+1)D's stem, whatever comes in


def middle_channels(inputs: int, outputs: int) -> int:
    """Channels between the two kernels of a (2+1)D convolution, so that it has about the weights of the 3x3x3 one."""
    return 27 * inputs * outputs // (9 * inputs + 3 * outputs)


@dataclass(frozen=True)
class Design:
    """What the families differ in. `kinds`: the convolutions of the groups conv_2x to conv_5x."""

    depth: int
    kinds: tuple[Kind, Kind, Kind, Kind]
    stem: Literal["2plus1d"] | Triple = (3, 7, 7)
    frames: int = 8
    midplanes: Midplanes = "vmz"
    bn_eps: float | None = None
    pool1: bool = False

    @property
    def eps(self) -> float:
        """Of every BatchNorm."""
        return EPS[self.midplanes] if self.bn_eps is None else self.bn_eps

    @property
    def simple(self) -> bool:
        """Blocks of two convolutions; deeper networks, and the one of 26 layers, have bottlenecks of three."""
        return self.depth <= 18 or self.depth == 34

    @property
    def expansion(self) -> int:
        """How much wider a block's output is than its inside."""
        return 1 if self.depth <= 34 else 4

    def stride(self, group: int) -> Triple:
        """Of the first block of group 0 to 3. Short clips keep their frames: a group that would have none left to join does not."""
        if group == 0:
            return (1, 1, 1)
        still = self.kinds[group] == "2d" or self.frames < {1: 0, 2: 4, 3: 8}[group]
        return (1 if still else 2, 2, 2)


def _norm(channels: int, eps: float) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=eps)  # Caffe2's momentum 0.9 is torch's 0.1


def _convolution(
    kind: Kind, inputs: int, outputs: int, *, stride: Triple, middle: int, eps: float
) -> nn.Module:
    """The 3x3x3 convolution of a block, whole or in two steps."""
    time, side, _ = stride
    if kind == "2plus1d":
        return nn.Sequential(
            nn.Conv3d(
                inputs, middle, (1, 3, 3), stride=(1, side, side), padding=(0, 1, 1), bias=False
            ),
            _norm(middle, eps),
            nn.ReLU(inplace=True),
            nn.Conv3d(
                middle, outputs, (3, 1, 1), stride=(time, 1, 1), padding=(1, 0, 0), bias=False
            ),
        )
    if kind == "2d":
        return nn.Conv3d(inputs, outputs, (1, 3, 3), stride=stride, padding=(0, 1, 1), bias=False)
    if kind == "3d":
        return nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    depthwise = nn.Conv3d(outputs, outputs, 3, stride=stride, padding=1, groups=outputs, bias=False)
    if kind == "ir":
        return depthwise
    return nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), _norm(outputs, eps), depthwise)


class Block(nn.Module):
    """What both blocks share: the shortcut, projected where sizes change, and the sum."""

    convs: tuple[str, ...]

    def __init__(self, inputs: int, outputs: int, *, stride: Triple, eps: float) -> None:
        super().__init__()
        project = inputs != outputs or stride != (1, 1, 1)
        self.downsample = (
            nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), _norm(outputs, eps)
            )
            if project
            else None
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for name in self.convs:
            out = getattr(self, name)(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        added: Tensor = self.relu(out + shortcut)
        return added


class SimpleBlock(Block):
    """Two convolutions."""

    convs = ("conv1", "conv2")

    def __init__(
        self, inputs: int, width: int, *, kind: Kind, stride: Triple, design: Design
    ) -> None:
        super().__init__(inputs, width, stride=stride, eps=design.eps)
        eps, first, second = (
            design.eps,
            middle_channels(inputs, width),
            middle_channels(width, width),
        )
        if design.midplanes == "torchvision":
            second = first  # once a block
        self.conv1 = nn.Sequential(
            _convolution(kind, inputs, width, stride=stride, middle=first, eps=eps),
            _norm(width, eps),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            _convolution(kind, width, width, stride=(1, 1, 1), middle=second, eps=eps),
            _norm(width, eps),
        )


class Bottleneck(Block):
    """1x1x1, the convolution of the kind, 1x1x1; the stride is the middle one's."""

    convs = ("conv1", "conv2", "conv3")

    def __init__(
        self, inputs: int, width: int, *, kind: Kind, stride: Triple, design: Design
    ) -> None:
        outputs, eps = width * design.expansion, design.eps
        super().__init__(inputs, outputs, stride=stride, eps=eps)
        middle = middle_channels(inputs if design.midplanes == "torchvision" else width, width)
        self.conv1 = nn.Sequential(
            nn.Conv3d(inputs, width, 1, bias=False), _norm(width, eps), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(
            _convolution(kind, width, width, stride=stride, middle=middle, eps=eps),
            _norm(width, eps),
            nn.ReLU(inplace=True),
        )
        self.conv3 = nn.Sequential(nn.Conv3d(width, outputs, 1, bias=False), _norm(outputs, eps))


def _stem(kernel: Literal["2plus1d"] | Triple, in_channels: int, eps: float) -> nn.Sequential:
    if kernel == "2plus1d":
        return nn.Sequential(
            nn.Conv3d(
                in_channels, STEM_MIDDLE, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False
            ),
            _norm(STEM_MIDDLE, eps),
            nn.ReLU(inplace=True),
            nn.Conv3d(STEM_MIDDLE, 64, (3, 1, 1), padding=(1, 0, 0), bias=False),
            _norm(64, eps),
            nn.ReLU(inplace=True),
        )
    padding = (1 if kernel[0] == 3 else 0, 3, 3)
    return nn.Sequential(
        nn.Conv3d(in_channels, 64, kernel, stride=(1, 2, 2), padding=padding, bias=False),
        _norm(64, eps),
        nn.ReLU(inplace=True),
    )


class VideoResNet(Part):
    """B,C,T,H,W to B,classes. The last map is averaged whole, so clips of any size work that the strides leave something of."""

    trainable_when_frozen = ("fc",)
    head_module = "fc"

    def __init__(
        self, num_classes: int, design: Design, *, in_channels: int = 3, whole_clip: bool = False
    ) -> None:
        """`whole_clip`: the stem joins all frames, so clips must have `design.frames` of them."""
        super().__init__()
        self.design, self.in_channels = design, in_channels
        self.wanted = (in_channels, design.frames if whole_clip else None, None, None)
        self.stem = _stem(design.stem, in_channels, design.eps)
        self.pool1 = (
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
            if design.pool1
            else nn.Identity()
        )
        block = SimpleBlock if design.simple else Bottleneck
        inputs = 64
        for group, (width, blocks, kind) in enumerate(
            zip(WIDTHS, BLOCKS[design.depth], design.kinds, strict=True)
        ):
            layer = nn.Sequential()
            for index in range(blocks):
                stride = design.stride(group) if index == 0 else (1, 1, 1)
                layer.append(block(inputs, width, kind=kind, stride=stride, design=design))
                inputs = width * design.expansion
            self.add_module(f"layer{group + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        check_input(video_BCTHW, self.wanted)
        logits: Tensor = self.fc(self.extract_features(video_BCTHW))
        return logits

    def extract_features(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 512) or, with bottlenecks four times as wide, (B, 2048)."""
        x = self.pool1(self.stem(video_BCTHW))
        for name in LAYERS:
            x = getattr(self, name)(x)
        features: Tensor = self.avgpool(x).flatten(1)
        return features

    def adapt_checkpoint(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """VMZ's Caffe2 blobs under our names; torchvision's and the hub's files have them already.

        Blobs that the network has no place for keep their names. Raises DataError for the other `midplanes`, and for another R(2+1)D.
        """
        if any(key.endswith("_s.weight") for key in tensors):
            hint = "no network here takes it; resnet3d takes the same authors' r3d*.pth"
            raise DataError(
                "the checkpoint is of the R(2+1)D of 3D-ResNets-PyTorch (conv1_s, conv1_t), another network",
                hint=hint,
            )
        if any(re.fullmatch(r"conv1_w|comp_\d+_conv_1(_middle)?_w", key) for key in tensors):
            names = dict(blob_names(self))
            tensors = renamed(
                tensors, lambda blob: names.get(re.sub(r"^last_out_L\d+", "last_out", blob), blob)
            )
        self._check_middles(tensors)
        return tensors

    def _check_middles(self, tensors: dict[str, Tensor]) -> None:
        ours = self.state_dict()
        for key, tensor in tensors.items():
            if (
                not re.search(r"\.conv[12]\.0\.0\.weight$", key)
                or key not in ours
                or tensor.shape[:1] == ours[key].shape[:1]
            ):
                continue
            counts = f"{tensor.shape[0]} channels in the checkpoint, {len(ours[key])} in the model"
            other = "torchvision" if self.design.midplanes == "vmz" else "vmz"
            hint = f"model.midplanes: {other}, unless the checkpoint has another depth"
            raise DataError(
                f"{key}, the first half of a (2+1)D convolution, has {counts}", hint=hint
            )


def initialise(model: nn.Module) -> None:
    """MSRA: normal with variance 2 / fan-out for convolutions; BatchNorm 1 and 0; a small last layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


# Caffe2's riv is the variance itself
BATCH_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}


def blob_names(model: VideoResNet) -> Iterator[tuple[str, str]]:
    """(VMZ's blob, our tensor) for every tensor; the last layer's blobs without their number of classes, `last_out_w`.

    Blocks are numbered through all groups. In ir-CSN the number of the second convolution is skipped.
    """
    middles = {"_middle": 0, "": 3} if len(model.stem) > 3 else {"": 0}
    for suffix, place in middles.items():
        yield from _step_blobs(
            f"conv1{suffix}", f"conv1{suffix}_spatbn_relu", (f"stem.{place}", f"stem.{place + 1}")
        )
    index = 0
    for group, kind in enumerate(model.design.kinds, 1):
        for number, block in enumerate(model.get_submodule(f"layer{group}").children()):
            assert isinstance(block, Block)
            for conv in block.convs:
                yield from _conv_blobs(
                    block, f"layer{group}.{number}", conv, index=index, skip=kind == "ir"
                )
            if block.downsample is not None:
                where, blob = f"layer{group}.{number}.downsample", f"shortcut_projection_{index}"
                yield from _step_blobs(blob, f"{blob}_spatbn", (f"{where}.0", f"{where}.1"))
            index += 1
    yield from (("last_out_w", "fc.weight"), ("last_out_b", "fc.bias"))


def _conv_blobs(
    block: Block, where: str, conv: str, *, index: int, skip: bool
) -> Iterator[tuple[str, str]]:
    number = int(conv.removeprefix("conv"))
    if skip and number > 1:
        number += 1
    blob, norm, inner = (
        f"comp_{index}_conv_{number}",
        f"comp_{index}_spatbn_{number}",
        block.get_submodule(f"{conv}.0"),
    )
    last = f"{where}.{conv}.0"
    if isinstance(inner, nn.Sequential):
        yield from _step_blobs(f"{blob}_middle", f"{norm}_middle", (f"{last}.0", f"{last}.1"))
        last = f"{last}.{len(inner) - 1}"
    yield from _step_blobs(blob, norm, (last, f"{where}.{conv}.1"))


def _step_blobs(
    conv_blob: str, norm_blob: str, modules: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """A convolution and the BatchNorm behind it."""
    conv, norm = modules
    yield f"{conv_blob}_w", f"{conv}.weight"
    for blob, name in BATCH_NORM.items():
        yield f"{norm_blob}_{blob}", f"{norm}.{name}"
