"""Networks from a conf, and the checkpoints they start from: our own, the public I3D files, and those of the first TinyVIRAT system.

No file can run code here: everything is read with `weights_only=True`. What is missing, unused or of another shape is an
error that names it; nothing is copied into a model before all files are found to fit.
"""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.errors import ConfFault, DataError, Fault
from trainer.model_rules import check_model, model_options
from trainer.models.layers import Part
from trainer.models.registry import create

Head = Literal["keep", "replace"]
COUNTER = "num_batches_tracked"  # BatchNorm's; checkpoints older than torch 0.4.1 have none
SEQUENTIAL = {"transformer": "0.", "resizer": "1."}  # the first system saved spatial transformer and resizer as one nn.Sequential


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors. Names are the model's."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # left as they were: only BatchNorm counters that the file does not have
    unused: tuple[str, ...]  # other parts of a checkpoint of which one part was asked for
    replaced: tuple[str, ...]  # the head, fresh because head is "replace"
    fields: dict[str, Any] = field(default_factory=dict)  # what one of our own checkpoints says beside its tensors

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.replaced:
            parts.append(f"head replaced by a fresh one ({', '.join(self.replaced)})")
        if self.missing:
            parts.append(f"{len(self.missing)} BatchNorm counters not in the file")
        if self.unused:
            parts.append(f"{len(self.unused)} tensors of other parts not used")
        return "; ".join(parts)


def create_for(config: Config, classes: Sequence[str]) -> nn.Module:
    """The network of `config.model` for these classes, without weights: num_classes, frames and in_size come from the data.

    Raises ConfFault with everything in which model and data disagree.
    """
    faults = check_model(config, len(classes))
    if faults:
        raise ConfFault(faults)
    return create(config.model.name, **model_options(config, len(classes)))


def apply_freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Freeze parts: no gradients, and BatchNorm statistics that training mode does not move. "i3d" keeps its logits trainable."""
    for part in parts:
        module = _part(model, part)
        if not isinstance(module, Part):
            raise ConfFault([Fault(path="model.freeze", message=f"{part!r} cannot be frozen")])
        module.freeze()


def load_init(model: nn.Module, init: str | Mapping[str, str], *, head: Head = "keep") -> LoadReport:
    """Fill a model from one checkpoint, or some of its parts from one each: {"resizer": path, "i3d": path}.

    Reads bare state dicts and those under `state_dict` or `model`; takes `module.` off the keys, and `model.` off or on. With
    head "replace" the last layer of the checkpoint is left out and the model's own fresh one stays. Raises DataError for a file
    that cannot be read or does not fit, ConfFault for another number of classes and for parts that the model does not have.
    """
    files = {"": init} if isinstance(init, str) else init
    plans = [_plan(model, part, path, head) for part, path in files.items()]
    with torch.no_grad():
        for plan in plans:
            for target, source in plan.pairs:
                target.copy_(source)
    prefixed = [(f"{plan.part}." if plan.part in _child_parts(model) else "", plan) for plan in plans]
    return LoadReport(
        loaded=tuple(prefix + key for prefix, plan in prefixed for key in plan.loaded),
        missing=tuple(prefix + key for prefix, plan in prefixed for key in plan.missing),
        unused=tuple(key for plan in plans for key in plan.unused),
        replaced=tuple(prefix + key for prefix, plan in prefixed for key in plan.replaced),
        fields=plans[0].fields if isinstance(init, str) else {},
    )


@dataclass
class _Plan:
    part: str
    fields: dict[str, Any]
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def _plan(model: nn.Module, part: str, path: str, head: Head) -> _Plan:
    module = _part(model, part) if part else model
    tensors, fields = read_tensors(path)
    tensors, others = _of_part(tensors, part)
    plan = _Plan(part, fields, unused=others)
    state = module.state_dict()
    sources, unused = _matched(tensors, state, path)
    head_module = getattr(module, "head_module", None)
    for key, target in state.items():
        source = sources.get(key)
        if head == "replace" and head_module and key.startswith(f"{head_module}."):
            plan.replaced.append(key)
        elif source is None:
            plan.missing.append(key)
        else:
            _check_shape(key, source, target, path=path, head_module=head_module)
            plan.pairs.append((target, source))
            plan.loaded.append(key)
    lacking = [key for key in plan.missing if not key.endswith(COUNTER)]
    if lacking or unused:
        raise DataError(_misfit(path, lacking, unused), hint=_likely_part(model, part, tensors, path))
    return plan


def read_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by their names, without `module.`, and the other fields of the file.

    Only tensors and plain containers are accepted, so a file cannot run anything. Raises DataError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = "it holds something other than tensors and plain containers, or is damaged"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "if you trust it, save its state_dict() again with today's torch"
        raise DataError(f"the checkpoint {path} was not opened: {why}: {reason}", hint=hint) from error
    except OSError as error:
        raise DataError(f"cannot read the checkpoint {path}: {error.strerror or error}", hint="check model.init") from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, struct.error) as error:
        raise DataError(f"the checkpoint {path} is damaged or no checkpoint: {error}", hint="fetch or copy it again") from error
    fields: dict[str, Any] = {}
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            fields = {key: value for key, value in content.items() if key != wrapper}
            content = content[wrapper]
            break
    strange = _strange(content)
    if strange:
        raise DataError(f"the checkpoint {path} is not a state dict: {strange}")
    return _without_module(content, path), fields


def _strange(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            return f"{key!r} is a {type(value).__name__}"
    return "" if content else "it is empty"


def _without_module(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """`module.` is what nn.DataParallel puts before each name."""
    bare: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in bare:
            raise DataError(f"the checkpoint {path} holds {name!r} twice, with and without the prefix `module.`")
        bare[name] = tensor
    return bare


def _of_part(tensors: dict[str, Tensor], part: str) -> tuple[dict[str, Tensor], list[str]]:
    """A part's tensors, out of a checkpoint of the part alone or of a whole model, and the names of the rest."""
    prefixes = [f"{part}."] if part else []
    if part in SEQUENTIAL and any(key.startswith("0.localization.") for key in tensors):
        prefixes.append(SEQUENTIAL[part])
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in tensors):
            own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            return own, [key for key in tensors if not key.startswith(prefix)]
    return tensors, []


def _matched(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str) -> tuple[dict[str, Tensor], list[str]]:
    """The checkpoint's tensors by the model's names, and those that the model has no place for."""
    matched: dict[str, Tensor] = {}
    unused = []
    for key, tensor in tensors.items():
        name = next((name for name in (key, key.removeprefix("model."), f"model.{key}") if name in state), None)
        if name is None:
            unused.append(key)
        elif name in matched:
            raise DataError(f"the checkpoint {path} holds {name!r} twice, with and without the prefix `model.`")
        else:
            matched[name] = tensor
    return matched, unused


def _check_shape(key: str, source: Tensor, target: Tensor, *, path: str, head_module: str | None) -> None:
    if source.shape == target.shape:
        return
    if head_module and key.startswith(f"{head_module}."):
        message = f"the checkpoint {path} has {source.shape[0]} classes, the model {target.shape[0]}"
        raise ConfFault([Fault(path="model.init_head", message=message, hint="init_head: replace starts with a fresh last layer")])
    shapes = f"{tuple(source.shape)} in the checkpoint {path}, {tuple(target.shape)} in the model"
    if source.dim() == target.dim() == 5 and source.shape[1] != target.shape[1] and key.endswith("Conv3d_1a_7x7.conv3d.weight"):
        raise DataError(f"the checkpoint takes {source.shape[1]} channels, the model {target.shape[1]}: {key} is {shapes}")
    raise DataError(f"{key} is {shapes}", hint="were they made with the same model options?")


def _misfit(path: str, lacking: Sequence[str], unused: Sequence[str]) -> str:
    reasons = []
    if lacking:
        reasons.append(f"lacks {_some(lacking)}")
    if unused:
        reasons.append(f"has {_some(unused)}, which the model does not")
    return f"the checkpoint {path} does not fit the model: it {' and '.join(reasons)}"


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _likely_part(model: nn.Module, part: str, tensors: Mapping[str, Tensor], path: str) -> str:
    for name in () if part else _child_parts(model):
        known = {key for key in _part(model, name).state_dict() if not key.endswith(COUNTER)}
        if known and len(known & {key.removeprefix("model.") for key in tensors}) > len(known) / 2:
            return f"it looks like the part {name}: write model.init: {{{name}: {path}}}"
    return "were they made with the same model options?"


def _child_parts(model: nn.Module) -> list[str]:
    return [name for name, child in model.named_children() if isinstance(child, Part)]


def _part(model: nn.Module, part: str) -> nn.Module:
    """A named part of a composite; a model without parts is its own."""
    parts = _child_parts(model)
    if not parts:
        return model
    if part not in parts:
        raise ConfFault([Fault(path="model.init", message=f"the model has no part {part!r}", hint=f"its parts: {', '.join(parts)}")])
    return model.get_submodule(part)
