"""Layers that several families share: TensorFlow's SAME padding, frames as images, trilinear resize, parts that can be frozen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.errors import DataError

Triple = tuple[int, int, int]


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one dimension by TensorFlow's SAME rule: the output has ceil(size / stride) cells.

    size 112, kernel 7, stride 2:  5 zeros, 2 in front and 3 behind (the odd one goes behind)
    size 111, kernel 7, stride 2:  6 zeros, 3 and 3
    """
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def pad_same(video_BCTHW: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zero-pad T, H and W for a convolution."""
    pads: list[int] = []
    for size, k, d in zip(
        reversed(video_BCTHW.shape[2:]), reversed(kernel), reversed(stride), strict=True
    ):
        pads += same_pad(size, k, d)
    return F.pad(video_BCTHW, pads) if any(pads) else video_BCTHW


@torch.fx.wrap  # a leaf of a traced graph, so that sizes are plain numbers when it runs
def max_pool_same(video_BCTHW: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """SAME max pooling of values >= 0, for which the published zero padding and no padding at all give the same maximum.

    So nothing is copied: the zeros in front become the pool's own padding, and `ceil_mode` opens the windows behind.
    """
    sizes = video_BCTHW.shape[2:]
    front = [same_pad(size, k, d)[0] for size, k, d in zip(sizes, kernel, stride, strict=True)]
    return F.max_pool3d(video_BCTHW, kernel, stride, padding=front, ceil_mode=True)


class SameMaxPool3d(nn.Module):
    """`max_pool_same` as a module. Only for inputs >= 0, as after a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return max_pool_same(video_BCTHW, self.kernel, self.stride)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


def resize_trilinear(video_BCTHW: Tensor, frames: int, size: int) -> Tensor:
    """The video with `frames` frames of `size` x `size`, corners on corners."""
    return F.interpolate(
        video_BCTHW, size=(frames, size, size), mode="trilinear", align_corners=True
    )


def to_images(video_BCTHW: Tensor, *, legacy: bool) -> Tensor:
    """The video's B*T frames as images (B*T, C, H, W), clip after clip.

    `legacy`: as the published weights were trained, a bare reinterpretation of B,C,T,H,W as (B*T, C, H, W), in which each
    "image" is C consecutive time steps of one channel.
    """
    channels, height, width = video_BCTHW.shape[1], video_BCTHW.shape[3], video_BCTHW.shape[4]
    if legacy:
        return video_BCTHW.reshape(-1, channels, height, width)
    return video_BCTHW.transpose(1, 2).flatten(0, 1)


def to_video(images_NCHW: Tensor, frames: int, *, legacy: bool) -> Tensor:
    """The inverse of `to_images`: (B*T, C, H, W) as B,C,T,H,W."""
    _, channels, height, width = images_NCHW.shape
    if legacy:
        return images_NCHW.reshape(-1, channels, frames, height, width)
    return images_NCHW.reshape(-1, frames, channels, height, width).transpose(1, 2)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast in here. The meta device, on which networks are only counted, has none and says so by an error."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def warp(images_NCHW: Tensor, theta_N23: Tensor) -> Tensor:
    """Each image seen through its affine transform: bilinear, zeros outside, corners not aligned."""
    if len(images_NCHW) != len(theta_N23):
        counts = f"{len(theta_N23)} transforms for {len(images_NCHW)} frames"
        raise ValueError(f"{counts}: a clip must have as many frames as the resizer gives")
    # in float32: a grid in bfloat16 has 8 bits for a position, less than a pixel of 112
    with full_precision(images_NCHW.device):
        images = images_NCHW.float()
        grid = F.affine_grid(theta_N23.float(), list(images.shape), align_corners=False)
        return F.grid_sample(
            images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        ).to(images_NCHW.dtype)


def conv_norm_act(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int | Triple = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> list[nn.Module]:
    """Convolution without bias, BatchNorm, and the activation unless it is None: T, H and W become ceil(size / stride).

    A list, so that it can be a module of its own or stand among others in one nn.Sequential, as the published key names want it.
    """
    conv = nn.Conv3d(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm3d(outputs), *([act(inplace=True)] if act else [])]


def shuffle_channels(x_BCTHW: Tensor, groups: int) -> Tensor:
    """The channels of `groups` groups interleaved: first of each group, second of each, ... (Zhang et al. 2018)."""
    grouped: Tensor = x_BCTHW.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
    return grouped.transpose(1, 2).flatten(1, 2)


def initialise_convs(model: nn.Module) -> None:
    """Convolutions by He et al. 2015, normal and by fan out, as the 3D ResNets start; all else stays as PyTorch starts it."""
    for module in model.modules():
        # whose normal_ does nothing but load the compiler, for seconds
        if isinstance(module, nn.Conv3d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """A checkpoint's tensors under other names. Raises DataError for two that get one name."""
    found: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for key, tensor in tensors.items():
        name = rename(key)
        if name in found:
            raise DataError(f"the checkpoint holds {name} twice, as {sources[name]} and as {key}")
        found[name], sources[name] = tensor, key
    return found


def identity_affine(inputs: int) -> nn.Linear:
    """A layer that gives the six numbers of a 2x3 affine transform, at first those of the identity."""
    layer = nn.Linear(inputs, 6)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    return layer


@torch.fx.wrap  # a leaf of a traced graph, so that sizes are plain numbers when it runs
def check_input(batch: Tensor, wanted: Sequence[int | None]) -> None:
    """Refuse a batch that is not B and then `wanted`, None for any size. Raises ValueError.

    A module that calls it says `torch.fx.wrap("check_input")` too.
    """
    sizes = batch.shape[1:]
    if len(sizes) != len(wanted) or any(
        need not in (None, have) for have, need in zip(sizes, wanted, strict=True)
    ):
        letters = "CTHW" if len(wanted) == 4 else "CHW"
        shown = ",".join(
            letter if need is None else str(need)
            for letter, need in zip(letters, wanted, strict=True)
        )
        raise ValueError(
            f"this network takes batches of B,{shown}, not {','.join(map(str, batch.shape))}"
        )


class ExactSequential(nn.Sequential):
    """nn.Sequential in the precision of its weights, also under autocast.

    For transforms: bfloat16 has no number between 1 and 1.0078, which is half a pixel at the edge of 112, so small steps of
    training would not move the frames at all.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = next(self.parameters())
        with full_precision(weight.device):
            out: Tensor = super().forward(x.to(weight.dtype))  # type: ignore[no-untyped-call]
        return out


class Part(nn.Module):
    """A network that can be frozen: its weights get no gradient and its BatchNorm statistics do not move in training mode."""

    # modules that stay trainable: of a classifier its last layer
    trainable_when_frozen: Collection[str] = ()
    frozen = False

    def freeze(self) -> None:
        """Freeze all but `trainable_when_frozen`, for good."""
        self.frozen = True
        trainable = tuple(f"{name}." for name in self.trainable_when_frozen)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(trainable))
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module.train, but the BatchNorms of a frozen part stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
