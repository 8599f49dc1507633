"""`models`: every network with its options and their defaults, read from the source without torch."""

from __future__ import annotations

import json
from typing import Any

from trainer import signatures
from trainer.signatures import Signature


def run(*, as_json: bool) -> int:
    """Print the models, for people or as a JSON list of {name, kind, summary, options: {name: default}, parts}."""
    models = list(signatures.read().values())
    if as_json:
        print(json.dumps([as_row(model) for model in models]))
    else:
        print("\n".join(_lines(model) for model in models))
    return 0


def as_row(model: Signature) -> dict[str, Any]:
    """One model for programs. A required option has the default null."""
    options = {name: option.default for name, option in model.options.items()}
    return {"name": model.name, "kind": model.kind, "summary": model.summary, "options": options, "parts": list(model.parts)}


def _lines(model: Signature) -> str:
    options = [name if option.required else f"{name}={option.default}" for name, option in model.options.items()]
    return f"{model.name}  ({model.kind})  {model.summary}\n    {', '.join(options)}"
