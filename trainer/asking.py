"""A trained network that can be asked about videos: its weights, its classes, and how it wants frames fed.

One of our own checkpoints says all of that itself, so what it is asked is prepared exactly as it was trained. A published file
says nothing beside its tensors: the network, the clips and the class names are then the conf's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer import signatures
from trainer.checkpoints import FORMAT
from trainer.compute import Compute
from trainer.config import INFERENCE, Config, DataConf, PrepareConf
from trainer.data import normalise
from trainer.data.dataset_files import class_names
from trainer.data.decode import Frames
from trainer.data.flow import KIND
from trainer.data.sampling import span_of
from trainer.data.transforms import ModelInput
from trainer.errors import ConfFault, DataError, Fault, did_you_mean
from trainer.model_rules import check_model
from trainer.models import published
from trainer.models.checkpoint_files import CheckpointFile
from trainer.models.registry import create
from trainer.models.weights import LoadReport, create_for, load_init
from trainer.scoring import read_as_written, require_init


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A network in evaluation mode, on its device."""

    model: nn.Module
    classes: tuple[str, ...]
    multi_label: bool
    data: DataConf  # how frames become its clips
    flow: PrepareConf  # how frames become its flow, where data.stream is that
    flow_known: bool  # whether the checkpoint says that itself
    inputs: ModelInput
    compute: Compute

    @property
    def span(self) -> int:
        """Frames of video that one clip reaches over."""
        return span_of(self.data.frames, self.data.stride)

    def answer(self, clips: Sequence[Frames]) -> NDArray[np.float32]:
        """Scores of clips (T, size, size, C): sigmoid of each class, or their softmax with one class a video. (N, C)"""
        video = self.inputs(self.compute.place(torch.from_numpy(np.stack(clips))))
        with torch.no_grad():
            logits = self.compute.run(self.model, video).float().cpu()
        return (logits.sigmoid() if self.multi_label else logits.softmax(dim=1)).numpy()


def open_checkpoint(config: Config) -> Asked:
    """The network of `model.init`.

    Raises ConfFault for a last layer that was never trained (unless infer.allow_random_head), and DataError for a file that
    cannot be read or used.
    """
    init = config.model.init
    file = _opened(init) if isinstance(init, str) else None
    fields = _own_fields(file, str(init))
    model, classes, report = (
        _of_own(file, str(init)) if file and fields else _of_published(config, file)
    )
    if not report.head_trained and not config.infer.allow_random_head:
        message = "leaves the last layer with random weights: its answers would be noise"
        hint = "fine-tune first and take that run's checkpoint; infer.allow_random_head: true answers all the same"
        raise ConfFault([Fault(path="model.init_head", message=message, hint=hint)])
    data = replace(
        config.data,
        **{key: value for key, value in dict(fields.get("data", {})).items() if key in INFERENCE},
    )
    data = replace(data, fps=config.infer.fps or data.fps)
    learnt = {key: value for key, value in dict(fields.get("flow", {})).items() if key in KIND}
    signature = signatures.read()[fields["model"]["name"] if fields else config.model.name]
    feed = normalise.of_checkpoint(fields) if fields else normalise.of_conf(config.data)
    settings = config.compute
    if settings.compile == "auto":  # to compile takes longer than to watch most videos
        settings = replace(settings, compile=False)
    compute = Compute.from_conf(settings)
    return Asked(
        model=compute.prepare(model.eval()),
        classes=classes,
        multi_label=bool(fields.get("multi_label", False)),
        data=data,
        flow=replace(config.prepare, **{f"flow_{key}": value for key, value in learnt.items()}),
        flow_known=bool(learnt),
        inputs=ModelInput(feed, signature.images),
        compute=compute,
    )


def _opened(init: str) -> CheckpointFile | None:
    """The checkpoint that lies at a path, None for a name or an address. Raises DataError."""
    source = published.source(init, "")
    if isinstance(source, Fault) or source.kind != "path":
        return None  # `load_init` knows it, or complains about it
    if not Path(init).exists():
        near = (
            did_you_mean(Path(init).name, [each.name for each in Path(init).parent.glob("*")])
            if Path(init).parent.is_dir()
            else ""
        )
        raise DataError(
            f"there is no checkpoint {init}",
            hint=near or "`vidjobs submit infer CONF --from RUN@best` finds that of a run",
        )
    return read_as_written(init)


def _own_fields(file: CheckpointFile | None, init: str) -> Mapping[str, Any]:
    """What one of our own checkpoints says beside its tensors, {} for any other file. Raises DataError."""
    if file is None or file.fields.get("format") != FORMAT or "model" not in file.fields:
        return {}
    if "data" not in file.fields:
        hint = "it is from vidjobs 0.1; one more epoch of training writes a new one"
        raise DataError(f"the checkpoint {init} does not say how clips are cut for it", hint=hint)
    return file.fields


def _of_own(file: CheckpointFile, init: str) -> tuple[nn.Module, tuple[str, ...], LoadReport]:
    options = dict(file.fields["model"])
    model = create(options.pop("name"), **options)
    return model, tuple(file.fields["classes"]), load_init(model, init, head="keep", file=file)


def _of_published(
    config: Config, file: CheckpointFile | None
) -> tuple[nn.Module, tuple[str, ...], LoadReport]:
    if not config.model.name:
        hint = "the conf that it fits, as in `vidjobs models`"
        raise ConfFault(
            [
                Fault(
                    path="model.name",
                    message="is missing, and the checkpoint does not say which network it is",
                    hint=hint,
                )
            ]
        )
    if not config.data.classes:
        hint = "to ask a run of yours: --from RUN@best; else a file of class names in index order (text, JSON list, {index: name})"
        message = f"is missing, and the published weights in model.init, {config.model.init}, do not name their classes"
        raise ConfFault([Fault(path="data.classes", message=message, hint=hint)])
    require_init(config, signatures.read()[config.model.name].parts)
    classes = read_labels(Path(config.data.classes))
    faults = check_model(config, len(classes))
    if faults:
        raise ConfFault(faults)
    model = create_for(config, classes)
    return (
        model,
        classes,
        load_init(
            model,
            config.model.init,
            head=config.model.init_head,
            file=file,
            say=partial(print, flush=True),
        ),
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names in index order: lines as a dataset's, a JSON list, {index: name} or {name: index}. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = (
            _from_json(json.loads(text)) if path.suffix == ".json" else class_names(text, str(path))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = (
            did_you_mean(path.name, [each.name for each in path.parent.glob("*")])
            if path.parent.is_dir()
            else ""
        )
        raise DataError(f"cannot read the class names in {path}: {error}", hint=hint) from error
    if not names:
        raise DataError(f"{path} names no class")
    return names


def _from_json(content: Any) -> tuple[str, ...]:
    if isinstance(content, list):
        return tuple(map(str, content))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a list or a mapping")
    by_index = (
        {int(key): str(name) for key, name in content.items()}
        if _whole(content)
        else {int(i): str(n) for n, i in content.items()}
    )
    first = min(by_index, default=0)
    if first not in (0, 1) or set(by_index) != set(range(first, first + len(by_index))):
        raise ValueError("its indices are not 0, 1, 2, ... without a gap")
    return tuple(by_index[index] for index in sorted(by_index))


def _whole(content: Mapping[str, Any]) -> bool:
    return all(str(key).isdecimal() for key in content)
