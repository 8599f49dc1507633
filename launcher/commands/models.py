"""`vidjobs models`: the networks a conf can name, and their options, as the trainer of this machine has them."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from launcher import output
from launcher.errors import UserError
from launcher.trainer_check import ask


def _read() -> list[dict[str, Any]]:
    done = ask("models", "--json")
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        why = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise UserError(
            f"the trainer could not list its models: {why[0]}", hint="pip install 'vidjobs[trainer]', or work in a checkout"
        ) from None
    return found


def run(*, as_json: bool = False) -> int:
    models = _read()
    if as_json:
        output.json_result(models)
        return 0
    for model in models:
        output.result(f"{output.paint(model['name'], 'bold')}  ({model['kind']})  {model['summary']}")
        options = ", ".join(f"{name}={json.dumps(default)}" for name, default in model["options"].items())
        output.result(textwrap.fill(options, width=100, initial_indent="    ", subsequent_indent="    "))
    return 0
