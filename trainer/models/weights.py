"""Networks from a conf, and the checkpoints they start from: our own, and the public files of each family.

`checkpoint_files` reads a file, the network's own `adapt_checkpoint` gives the tensors its names, and here they are matched: what
is missing, unused or of another shape is an error that names it; nothing is copied into a model before all files are found to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.data import flow
from trainer.errors import ConfFault, DataError, Fault, did_you_mean
from trainer.model_rules import check_model, fed_otherwise, model_options
from trainer.models import checkpoint_files, download, published
from trainer.models.checkpoint_files import CheckpointFile
from trainer.models.layers import Part
from trainer.models.registry import create

Head = Literal["keep", "replace"]
# a network's adapt_checkpoint: public names -> its own
Adapt = Callable[[dict[str, Tensor]], dict[str, Tensor]]
SAME_OPTIONS = "were they made with the same model options?"
COUNTER = "num_batches_tracked"  # BatchNorm's; checkpoints older than torch 0.4.1 have none
# the first system saved spatial transformer and resizer as one nn.Sequential
SEQUENTIAL = {"transformer": "0.", "resizer": "1."}


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors. Names are the model's."""

    loaded: tuple[str, ...]
    # left as they were: only BatchNorm counters that the file does not have
    missing: tuple[str, ...]
    unused: tuple[str, ...]  # other parts of a checkpoint of which one part was asked for
    replaced: tuple[str, ...]  # the head, fresh because head is "replace"
    # what one of our own checkpoints says beside its tensors
    fields: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # a Caffe2 training's momenta, learning rate and iteration
    # what is known of published files among those loaded (models/published.py)
    records: tuple[Mapping[str, Any], ...] = ()
    # False where the last layer is a fresh one, so that answers would be random
    head_trained: bool = True

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.replaced:
            parts.append(f"head replaced by a fresh one ({', '.join(self.replaced)})")
        if self.missing:
            parts.append(f"{len(self.missing)} BatchNorm counters not in the file")
        if self.unused:
            parts.append(f"{len(self.unused)} tensors of other parts not used")
        if self.ignored:
            parts.append(f"{len(self.ignored)} blobs of the training's own state ignored")
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


def load_init(
    model: nn.Module,
    init: str | Mapping[str, str],
    *,
    head: Head = "keep",
    file: CheckpointFile | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> LoadReport:
    """Fill a model from one checkpoint, or some of its parts from one each: {"resizer": ..., "i3d": ...}.

    A checkpoint is whatever `model.init` takes (published.FORMS); what lies on the network is fetched once. With head "replace"
    the last layer of the checkpoint is left out and the model's own fresh one stays. `file`: the one that `init` names, where the
    caller has read it already. Raises DataError for a file that cannot be
    had, read or does not fit, CannotWrite for a volume that a download does not fit on, ConfFault for another number of classes,
    for parts that the model does not have and for names that nothing published has.
    """
    files = {"": init} if isinstance(init, str) else init
    plans = [_plan(model, part, text, head, file=file, say=say) for part, text in files.items()]
    with torch.no_grad():
        for plan in plans:
            for target, source in plan.pairs:
                target.copy_(source)
    prefixed = [
        (f"{plan.part}." if plan.part in _child_parts(model) else "", plan) for plan in plans
    ]
    loaded = tuple(prefix + key for prefix, plan in prefixed for key in plan.loaded)
    return LoadReport(
        loaded=loaded,
        missing=tuple(prefix + key for prefix, plan in prefixed for key in plan.missing),
        unused=tuple(key for plan in plans for key in plan.unused),
        replaced=tuple(prefix + key for prefix, plan in prefixed for key in plan.replaced),
        fields=plans[0].fields if isinstance(init, str) else {},
        ignored=tuple(key for plan in plans for key in plan.ignored),
        records=tuple(plan.record for plan in plans if plan.record),
        head_trained={key for key in model.state_dict() if _in_head(model, key)} <= set(loaded),
    )


def notes(config: Config, report: LoadReport) -> list[str]:
    """Where the conf feeds the network otherwise than its checkpoint was trained: colours, mean and std, frames, size, rate."""
    trained = [("this checkpoint", report.fields)] if report.fields.get("format") else []
    trained += [
        (f"the published {record['name']}", published.fields(record)) for record in report.records
    ]
    found = [
        (name, fault)
        for name, fields in trained
        for fault in (*fed_otherwise(config, fields), *other_flow(config, fields))
    ]
    return [f"note: {name}: {fault.message}; {fault.hint}" for name, fault in found]


def other_flow(config: Config, trained: Mapping[str, Any]) -> list[Fault]:
    """Where data.flow_root holds flow of another kind than a checkpoint learnt from; nothing where one of them does not say."""
    learnt = trained.get("flow") or {}
    here = (
        flow.made_as(Path(config.data.flow_root)) if learnt and config.data.stream == "flow" else {}
    )
    if not here or here == learnt:
        return []
    told = [
        ", ".join(f"{key} {kind.get(key)}" for key in flow.KIND if here.get(key) != learnt.get(key))
        for kind in (learnt, here)
    ]
    message = f"was trained with flow of {told[0]}; {config.data.flow_root} holds {told[1]}"
    return [
        Fault(
            path="data.flow_root",
            message=message,
            hint="prepare the flow as that of the training: prepare.flow_*",
        )
    ]


def local_path(
    init: str, model: str, *, say: Callable[[str], None] = lambda _: None
) -> tuple[str, published.Record]:
    """The file that one `model.init` names for a model or part, fetched if need be, and what is known of it.

    Raises ConfFault, DataError, CannotWrite.
    """
    source = published.source(init, model)
    if isinstance(source, Fault):
        raise ConfFault([source])
    if source.kind == "path":
        return source.value, source.record
    url = _torchvision_address(source.value) if source.kind == "torchvision" else source.value
    known = source.record
    return str(download.fetch(url, sha256=str(known.get("sha256", "")), say=say)), known


def _torchvision_address(name: str) -> str:
    """Where torchvision publishes weights, "Inception_V3_Weights.IMAGENET1K_V1"."""
    # slow to import, and few confs need it
    from torchvision.models import get_model_weights, get_weight, list_models

    try:
        return str(get_weight(name).url)
    except (ValueError, LookupError):
        known = [str(weights) for model in list_models() for weights in get_model_weights(model)]
        hint = did_you_mean(name, known) or "see torchvision.models"
        raise ConfFault(
            [Fault(path="model.init", message=f"torchvision has no weights {name!r}", hint=hint)]
        ) from None


@dataclass
class _Plan:
    part: str
    fields: dict[str, Any]
    record: Mapping[str, Any]
    ignored: tuple[str, ...]
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def _plan(
    model: nn.Module,
    part: str,
    init: str,
    head: Head,
    *,
    file: CheckpointFile | None,
    say: Callable[[str], None],
) -> _Plan:
    module = _part(model, part) if part else model
    parts = _child_parts(model)
    path, record = local_path(
        init, part if part in parts else getattr(model, "model_name", part), say=say
    )
    file = file or checkpoint_files.read(path)
    tensors, others = _of_part(file.tensors, part)
    plan = _Plan(part, file.fields, record, file.ignored, unused=others)
    state = module.state_dict()
    adapt: Adapt | None = getattr(module, "adapt_checkpoint", None)
    sources, unused = _matched(adapt(dict(tensors)) if adapt else tensors, state, path)
    for key, target in state.items():
        source = sources.get(key)
        if head == "replace" and (
            _in_head(module, key) or (source is None and _fresh_with_head(module, key))
        ):
            plan.replaced.append(key)
        elif source is None:
            plan.missing.append(key)
        else:
            plan.pairs.append((target, source))
            plan.loaded.append(key)
    _require_fit(module, plan, unused, path, likely=_likely_part(model, part, tensors, path))
    for key, (target, source) in zip(plan.loaded, plan.pairs, strict=True):
        _check_shape(key, source, target, path=path, in_head=_in_head(module, key))
    return plan


def _require_fit(
    module: nn.Module, plan: _Plan, unused: Sequence[str], path: str, *, likely: str
) -> None:
    """Raise DataError when something is missing or unused, ConfFault when that is the last layer only."""
    lacking = [key for key in plan.missing if not key.endswith(COUNTER)]
    if (
        lacking
        and not unused
        and all(_in_head(module, key) or _fresh_with_head(module, key) for key in lacking)
    ):
        message = f"the checkpoint {path} has no last layer"
        raise ConfFault(
            [
                Fault(
                    path="model.init_head",
                    message=message,
                    hint="init_head: replace starts with a fresh one",
                )
            ]
        )
    if lacking or unused:
        raise DataError(
            _misfit(path, lacking, unused),
            hint=likely or published.whose(path, plan.record) or SAME_OPTIONS,
        )


def _in_head(module: nn.Module, key: str) -> bool:
    """Whether a tensor belongs to the last layer."""
    head: str | None = getattr(module, "head_module", None)
    return bool(head) and key.startswith(f"{head}.")


def _fresh_with_head(module: nn.Module, key: str) -> bool:
    """Whether public files of the network's trunk lack this tensor, so that it may start fresh where the last layer does."""
    prefixes: tuple[str, ...] = getattr(module, "fresh_with_head", ())
    return key.startswith(prefixes)


def _of_part(tensors: dict[str, Tensor], part: str) -> tuple[dict[str, Tensor], list[str]]:
    """A part's tensors, out of a checkpoint of the part alone or of a whole model, and the names of the rest."""
    prefixes = [f"{part}."] if part else []
    if part in SEQUENTIAL and any(key.startswith("0.localization.") for key in tensors):
        prefixes.append(SEQUENTIAL[part])
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in tensors):
            own = {
                key.removeprefix(prefix): tensor
                for key, tensor in tensors.items()
                if key.startswith(prefix)
            }
            return own, [key for key in tensors if not key.startswith(prefix)]
    return tensors, []


def _matched(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The checkpoint's tensors by the model's names, and those that the model has no place for."""
    matched: dict[str, Tensor] = {}
    unused = []
    for key, tensor in tensors.items():
        name = next(
            (name for name in (key, key.removeprefix("model."), f"model.{key}") if name in state),
            None,
        )
        if name is None:
            unused.append(key)
        elif name in matched:
            raise DataError(
                f"the checkpoint {path} holds {name!r} twice, with and without the prefix `model.`"
            )
        else:
            matched[name] = tensor
    return matched, unused


def _check_shape(key: str, source: Tensor, target: Tensor, *, path: str, in_head: bool) -> None:
    if source.shape == target.shape:
        return
    if in_head and source.shape[1:] == target.shape[1:]:
        message = (
            f"the checkpoint {path} has {source.shape[0]} classes, the model {target.shape[0]}"
        )
        raise ConfFault(
            [
                Fault(
                    path="model.init_head",
                    message=message,
                    hint="init_head: replace starts with a fresh last layer",
                )
            ]
        )
    shapes = f"{tuple(source.shape)} in the checkpoint {path}, {tuple(target.shape)} in the model"
    if (
        source.dim() == target.dim() >= 4
        and source.shape[0] == target.shape[0]
        and {source.shape[1], target.shape[1]} & {2, 3}
    ):
        raise DataError(
            f"the checkpoint takes {source.shape[1]} channels, the model {target.shape[1]}: {key} is {shapes}"
        )
    raise DataError(f"{key} is {shapes}", hint=SAME_OPTIONS)


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
    return ""


def _child_parts(model: nn.Module) -> list[str]:
    return [name for name, child in model.named_children() if isinstance(child, Part)]


def _part(model: nn.Module, part: str) -> nn.Module:
    """A named part of a composite; a model without parts is its own."""
    parts = _child_parts(model)
    if not parts:
        return model
    if part not in parts:
        raise ConfFault(
            [
                Fault(
                    path="model.init",
                    message=f"the model has no part {part!r}",
                    hint=f"its parts: {', '.join(parts)}",
                )
            ]
        )
    return model.get_submodule(part)
