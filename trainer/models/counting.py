"""What a network costs: its trainable parameters and its multiply-adds, counted on the meta device, so without memory or arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Count = Callable[[nn.Module, Tensor, Tensor], int]  # of a module, its input and its output


def parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def gmacs(model: nn.Module, input_shape: Sequence[int]) -> float:
    """Billions of multiply-adds of the convolutions and linear layers for one input, biases not counted.

    `input_shape` with the batch: (1, 3, 16, 112, 112). The model may be on any device, "meta" too, and is left as it was.
    """
    return _total(model, input_shape, _macs) / 1e9


def published_mflops(model: nn.Module, input_shape: Sequence[int]) -> float:
    """Millions of operations by the definition of Kopuklu et al. 2019 (Efficient-3DCNNs), table 1.

    Convolutions: multiply-adds and bias adds. BatchNorm: 2 a cell. ReLU: 1 a cell. Pools: kernel cells - 1 a cell of the output,
    where their program took a kernel written as one number for a line of cells: 3 counts 2, (3, 3, 3) counts 26.
    Linear: 2 * inputs - 1 an output. What is no module (additions, zero-padding, the mean before `classifier`) was not counted.
    """
    return _total(model, input_shape, _published) / 1e6


def _macs(module: nn.Module, _: Tensor, out: Tensor) -> int:
    if isinstance(module, _ConvNd):
        return out.numel() * module.weight[0].numel()
    return out.numel() * module.in_features if isinstance(module, nn.Linear) else 0


def _published(module: nn.Module, given: Tensor, out: Tensor) -> int:
    if isinstance(module, _ConvNd):
        return _macs(module, given, out) + (0 if module.bias is None else out.numel())
    if isinstance(module, nn.Linear):
        return (2 * module.in_features - 1) * out.numel()
    if isinstance(module, _BatchNorm):
        return 2 * given.numel()
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return given.numel()
    if isinstance(module, (nn.MaxPool3d, nn.AvgPool3d)):
        kernel = (
            module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,)
        )
        return (math.prod(kernel) - 1) * out.numel()
    return given.numel() - out.numel() if isinstance(module, nn.AdaptiveAvgPool3d) else 0


def _total(model: nn.Module, input_shape: Sequence[int], count: Count) -> int:
    found: list[int] = []

    def hook(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        found.append(count(module, given[0], out))

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(hook) for module in leaves]
    state = {
        key: tensor.to("meta")
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    try:
        with torch.no_grad(), _in_evaluation(model):
            torch.func.functional_call(
                model, state, (torch.empty(tuple(input_shape), device="meta"),)
            )
    finally:
        for handle in handles:
            handle.remove()
    return sum(found)


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Each module's own flag is put back, so that frozen parts stay as they were."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
