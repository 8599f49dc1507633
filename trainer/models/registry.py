"""From a model's name to the network. Families register themselves with `@register_model`; a new family is one new file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from trainer import signatures
from trainer.errors import ConfFault, Fault
from trainer.models import rules

if TYPE_CHECKING:
    from torch import nn

Builder = TypeVar("Builder", bound=Callable[..., "nn.Module"])
_builders: dict[str, Callable[..., nn.Module]] = {}


@overload
def register_model(builder: Builder) -> Builder: ...
@overload
def register_model(
    *, parts: tuple[str, ...] = ..., clip: str = ...
) -> Callable[[Builder], Builder]: ...
def register_model(
    builder: Builder | None = None,
    *,
    parts: tuple[str, ...] = (),  # noqa: ARG001 - read from the source, by signatures.py
    clip: str = "",  # noqa: ARG001
) -> Any:
    """Make a function that builds a network known under its own name.

    `parts`: its submodules that `init` and `freeze` may name. `clip`: "<frames>x<side>" where it takes clips of that size only,
    "<frames>x<side>+" where of that and more; of a 2D network only the side counts.
    `signatures` reads all of it from the source, so it is written as literals. Raises ValueError for a second model of a name.
    """

    def register(function: Builder) -> Builder:
        name = function.__name__
        known = _builders.get(name)
        if known is not None and known.__module__ != function.__module__:
            raise ValueError(
                f"model {name!r} is registered by {known.__module__} already; {function.__module__} needs another name"
            )
        _builders[name] = function
        return function

    return register if builder is None else register(builder)


def names() -> list[str]:
    """All models, in alphabetical order."""
    return list(signatures.read())


def create(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A fresh network with PyTorch's default initialisation, in training mode.

    Classifiers need `num_classes`; resizers and spatial transformers take none. Raises ConfFault with everything that is
    wrong with the name and the options.
    """
    unknown = rules.model_fault(name)
    if unknown:
        raise ConfFault([unknown])
    signature = signatures.of(name)
    if num_classes is not None:
        options["num_classes"] = num_classes
    values, faults = rules.option_faults(signature, options)
    for key, option in signature.options.items():
        if option.required and key not in options:
            faults.append(Fault(path=f"model.{key}", message=f"{name} needs {key}"))
    if faults:
        raise ConfFault(faults)
    importlib.import_module(f"{__package__}.{signature.module}")
    network = _builders[name](**values)
    network.__dict__["model_name"] = name  # whose published weights it may take
    return network
