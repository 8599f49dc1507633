"""`models [NAME]`: every network with its options and their defaults, and the weights published for one. Read without torch."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from trainer import signatures
from trainer.errors import ConfFault, Fault
from trainer.models import published, rules
from trainer.signatures import Option, Signature


def run(name: str = "", *, as_json: bool = False) -> int:
    """Print the models, or the one called `name`, for people or as a JSON list of `as_row`. Raises ConfFault for an unknown name."""
    models = list(signatures.read().values())
    if name:
        unknown = rules.model_fault(name)
        if unknown:
            raise ConfFault([Fault(path="", message=unknown.message, hint=unknown.hint)])
        models = [model for model in models if model.name == name]
    if as_json:
        print(json.dumps([as_row(model) for model in models]))
    else:
        text = "\n".join(line for model in models for line in _lines(model, whole=bool(name)))
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # `| head` has seen enough; Python would complain again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def as_row(model: Signature) -> dict[str, Any]:
    """One model for programs. A required option has the default null; `choices` has the options that take one of a few values."""
    return {
        "name": model.name,
        "kind": model.kind,
        "summary": model.summary,
        "options": {name: option.default for name, option in model.options.items()},
        "choices": {
            name: list(option.choices) for name, option in model.options.items() if option.choices
        },
        "parts": list(model.parts),
        "clip": model.clip,
        "published": [{**record, "init": published.usage(record)} for record in model.published],
    }


def _lines(model: Signature, *, whole: bool) -> Iterator[str]:
    clip = f"  clips of {model.clip}" if model.clip else ""
    yield f"{model.name}  ({model.kind})  {model.summary}{clip}"
    options = ", ".join(_option(name, option) for name, option in model.options.items())
    yield textwrap.fill(options, width=100, initial_indent="    ", subsequent_indent="    ")
    if not whole:
        if model.published:
            yield f"    published weights: {', '.join(record['name'] for record in model.published)}"
        return
    if len(model.parts) > 1:
        yield f"    parts, for model.init and model.freeze: {', '.join(model.parts)}"
    for record in model.published:
        yield from ("", *_record(record))
    if not model.published:
        yield "    no published weights are known; model.init takes a checkpoint's path or https://..."


def _option(name: str, option: Option) -> str:
    if option.required:
        return name
    choices = f" ({'|'.join(map(str, option.choices))})" if option.choices else ""
    return f"{name}={option.default}{choices}"


def _record(record: Mapping[str, Any]) -> Iterator[str]:
    """A published file: what it is, what it was fed, how good it is, and what to write in the conf."""
    yield str(record["name"])
    units = {
        "frames": "frame" if record["frames"] == 1 else "frames",
        "size": "px",
        "fps": "frames a second",
    }
    fed = [f"{record[key]} {unit}" for key, unit in units.items() if record[key]]
    facts = {
        "file": record["file"],
        "from": published.whereabouts(record),
        "size": f"{record['mib']:g} MiB" if record["mib"] else "",
        "classes": record["classes"],
        "options": ", ".join(f"{key}: {value}" for key, value in record["options"].items()),
        "fed": ", ".join(
            [*fed, f"data.normalise: {record['normalise']}"] if record["normalise"] else fed
        ),
        "reached": record["accuracy"],
        "note": record["note"],
        "use": f"model.init: {published.usage(record)}",
    }
    for key, value in facts.items():
        if value:
            yield f"    {key:8} {value}"
