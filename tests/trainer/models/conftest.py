"""The spec's fill rule: every tensor of a network, and its input, from its length alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer import models

MASK = 0xFFFFFFFF


def uniform(n: int) -> Tensor:
    """u(n): a fixed sequence in [-1, 1), float32."""
    k = torch.arange(n, dtype=torch.int64)
    h = (k * 2654435761 + n * 40503) & MASK
    h ^= h >> 16
    h = (h * 2246822519) & MASK
    h ^= h >> 13
    h = (h * 3266489917) & MASK
    h ^= h >> 16
    return (h.double() / 2**31 - 1).float()


def own_value(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """What the rule gives one of a module's own tensors."""
    u = uniform(tensor.numel()).reshape(tensor.shape)
    if isinstance(module, _BatchNorm):
        return {
            "weight": 1 + 0.1 * u,
            "bias": 0.1 * u,
            "running_mean": 0.1 * u,
            "running_var": 1 + 0.1 * u,
        }[name]
    return u * (6 / (tensor.numel() / tensor.shape[0])) ** 0.5 if name == "weight" else 0.1 * u


def fill(model: nn.Module) -> nn.Module:
    """Every module's own tensors (each module of `modules()`, without its children's) by the rule, in eval mode.

    A tensor's values depend on its length only, so the order of the modules does not matter.
    """
    with torch.no_grad():
        for module in model.modules():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, tensor in own:
                if name != "num_batches_tracked":
                    tensor.copy_(own_value(module, name, tensor))
    return model.eval()


def filled_input(shape: Sequence[int]) -> Tensor:
    return uniform(torch.Size(shape).numel()).reshape(*shape)


@pytest.fixture(scope="session")
def fill_rule() -> tuple[Callable[[nn.Module], nn.Module], Callable[[Sequence[int]], Tensor]]:
    """(fill a model, make an input of a shape)."""
    return fill, filled_input


@pytest.fixture(scope="session")
def gives() -> Callable[..., None]:
    """gives(model, options, input shape, published): fail unless the filled network's output is the published one.

    `published`: the first four outputs, their sum and their L2 norm. Each may be off by a thousandth of the norm's scale.
    """

    def check(
        name: str,
        options: dict[str, Any],
        shape: Sequence[int],
        published: tuple[list[float], float, float],
    ) -> None:
        first, total, norm = published
        with torch.device("meta"):
            model = models.create(name, **options)
        with torch.no_grad():
            # so no time goes into an initialisation
            out = fill(model.to_empty(device="cpu"))(filled_input(shape))
        assert out.shape == (shape[0], options["num_classes"])
        values = out.flatten().double()
        scale = norm / values.numel() ** 0.5  # of one value
        torch.testing.assert_close(
            values[:4], torch.tensor(first, dtype=torch.float64), rtol=1e-4, atol=1e-3 * scale
        )
        assert values.norm().item() == pytest.approx(norm, rel=1e-4)
        assert values.sum().item() == pytest.approx(total, abs=1e-3 * norm)

    return check


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
