"""Weights that can be had, and the ways to name them in `model.init`. No torch, so that `check` is quick.

A record of a model's PUBLISHED says what a file was trained as (signatures.RECORD); it is found by its name, or by the name of the
file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any, Literal
from urllib.parse import urlsplit

from trainer import signatures
from trainer.data.normalise import PRESETS
from trainer.errors import Fault, did_you_mean
from trainer.signatures import file_name

Record = Mapping[str, Any]
FORMS = "a checkpoint's path, https://..., imagenet, published:NAME or torchvision:WEIGHTS"
PAGES = {  # where many files are found by hand
    "okankop/Efficient-3DCNNs": "https://drive.google.com/open?id=1eggpkmy_zjb62Xra6kQviLa67vzP_FR8",
    "kenshohara/3D-ResNets-PyTorch, 2018": "https://drive.google.com/drive/folders/1zvl89AgFAApbH0At-gMuZSeQB_LpNP-M",
    "kenshohara/3D-ResNets-PyTorch, 2020": "https://drive.google.com/open?id=1xbYbZ7rpyjftI_KCk6YuL-XrfQDz7Yd4",
}
_WEIGHTS = re.compile(r"[A-Za-z]\w*_Weights\.[A-Za-z]\w*")


@dataclass(frozen=True)
class Source:
    """Where weights come from: a file's path, an address, or torchvision's name of weights. `record` says what is known of them."""

    kind: Literal["path", "url", "torchvision"]
    value: str
    record: Record = field(default_factory=dict)


def records(model: str) -> tuple[Record, ...]:
    """What can be had for a model, or for the part of a composite that is called as a model is."""
    signature = signatures.find(model)
    return signature.published if signature else ()


def source(init: str, model: str, path: str = "model.init") -> Source | Fault:
    """What one `model.init` means for this model or part; the fault (at key path `path`) when it means nothing."""
    if init == "imagenet" or init.startswith("published:"):
        return _published(init, model, path)
    if init.startswith("torchvision:"):
        name = init.removeprefix("torchvision:")
        if not _WEIGHTS.fullmatch(name):
            hint = "for example torchvision:Inception_V3_Weights.IMAGENET1K_V1"
            return Fault(
                path=path, message=f"{name!r} is not a name of torchvision's weights", hint=hint
            )
        return Source("torchvision", name, _known(model, torchvision=name))
    scheme = urlsplit(init).scheme if "://" in init else ""
    if scheme in ("http", "https"):
        if not file_name(init):
            return Fault(path=path, message=f"the address {init} names no file")
        return Source("url", init, _known(model, url=init) or _known(model, file=file_name(init)))
    if scheme:
        return Fault(path=path, message=f"cannot fetch {scheme}:// addresses", hint=FORMS)
    return Source("path", init, _known(model, file=PurePath(init).name))


def usage(record: Record) -> str:
    """What to write as `model.init` for a record."""
    if record["name"] == "imagenet" and record["torchvision"]:
        return "imagenet"
    if record["torchvision"] or record["url"]:
        return f"published:{record['name']}"
    return f"${{runs}}/models/{record['file']}"  # or wherever it was put


def whereabouts(record: Record) -> str:
    """Where a record's weights come from, for people."""
    if record["torchvision"]:
        return f"torchvision, {record['torchvision']}"
    if record["url"]:
        return str(record["url"])
    return f"{PAGES.get(record['page'], record['page'])} (by hand)"


def whose(path: str, record: Record) -> str:
    """What is known of a file that does not fit: the options it was made with, or the model that it is published for."""
    if record.get("options"):
        return f"{record['name']} was made with {', '.join(f'{key}: {value}' for key, value in record['options'].items())}"
    models = (
        [model for model in signatures.read() if _known(model, file=PurePath(path).name)]
        if not record
        else []
    )
    return f"{PurePath(path).name} is published for {' and '.join(models)}" if models else ""


def fields(record: Record) -> dict[str, Any]:
    """What a record says of its training, as one of our own checkpoints would."""
    preset = PRESETS.get(record["normalise"])
    known = {"data": {key: record[key] for key in ("frames", "size", "fps") if record[key]}}
    return {**known, "normalisation": preset.to_json()} if preset else known


def _published(init: str, model: str, path: str) -> Source | Fault:
    name = init.removeprefix("published:")
    names = [str(record["name"]) for record in records(model)]
    record = next((record for record in records(model) if record["name"] == name), None)
    if record is None:
        hint = did_you_mean(name, names) or (f"it has {', '.join(names)}" if names else FORMS)
        return Fault(
            path=path, message=f"no published weights of {model} are called {name!r}", hint=hint
        )
    if record["torchvision"]:
        return Source("torchvision", record["torchvision"], record)
    if record["url"]:
        return Source("url", record["url"], record)
    hint = f"fetch {record['file']} from {whereabouts(record)}, and give its path"
    return Fault(path=path, message=f"{name} has no fixed address to fetch it from", hint=hint)


def _known(model: str, **wanted: str) -> Record:
    """The record that says so; a record's file may be a pattern, where names end with a hash."""

    def fits(record: Record, key: str, value: str) -> bool:
        return bool(record[key]) and fnmatchcase(value, record[key])

    return next(
        (
            record
            for record in records(model)
            if all(fits(record, key, value) for key, value in wanted.items())
        ),
        {},
    )
