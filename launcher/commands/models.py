"""`vidjobs models [NAME]`: the networks a conf can name, their options, and the weights published for one of them."""

from __future__ import annotations

import json
from typing import Any

from launcher import output
from launcher.errors import UserError
from launcher.trainer_process import ask


def run(name: str = "", *, as_json: bool = False) -> int:
    """Print what the trainer of this machine says."""
    done = ask("models", *([name] if name else []), *(["--json"] if as_json else []))
    if done.returncode:
        raise _refusal(done.stderr)
    if as_json:
        models: list[dict[str, Any]] = json.loads(done.stdout)
        output.json_result(models)
        return 0
    for line in done.stdout.splitlines():
        title, _, rest = line.partition("  ")
        heading = bool(title) and not line.startswith(" ")
        output.result(f"{output.paint(title, 'bold')}  {rest}".rstrip() if heading else line)
    return 0


def _refusal(said: str) -> UserError:
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    if last.startswith("error: "):
        return UserError(last.removeprefix("error: "))
    return UserError(
        f"the trainer could not list its models: {last}",
        hint="pip install 'vidjobs[trainer]', or work in a checkout",
    )
