"""`vidjobs conf CONF`: the flat conf as the trainer gets it, and where each value comes from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from launcher import output
from launcher.all_backends import for_profile
from launcher.conf.explain import Setting, settings
from launcher.conf.nodes import plain
from launcher.conf.resolve import Experiment
from launcher.errors import ConfError
from launcher.plan import read
from launcher.profiles import choose
from launcher.trainer_check import (
    Verdict,
    all_faults,
    filled,
    tell,
    verb_of,
    verdict,
    with_defaults,
)
from launcher.trainer_process import Checking


def run(
    conf: Path,
    *,
    sets: Sequence[str] = (),
    cluster: str | None = None,
    explain: bool = False,
    as_json: bool = False,
) -> int:
    with contextlib.ExitStack() as processes:
        # in vain for a conf without a model, and most have one
        asked = processes.enter_context(Checking())
        profile = choose(cluster)
        experiment = read(conf, profile=profile, backend=for_profile(profile), sets=sets)
        if (verb := verb_of(experiment)) != "train":
            asked = processes.enter_context(Checking(verb))
        tell(asked, experiment)
        said = verdict(asked, experiment)
    faults = all_faults(experiment.faults, said)
    if faults:
        raise ConfError(faults)
    if said.note:
        output.warn(f"{said.note}; its defaults are not shown")
    found = settings(with_defaults(experiment, said))
    if as_json:
        output.json_result(_document(experiment, said, found if explain else None))
    elif explain:
        output.table(
            ["key", "value", "set by"], [[each.path, each.text, each.said] for each in found]
        )
    else:
        output.result(
            yaml.safe_dump(filled(experiment, said), sort_keys=False, allow_unicode=True).rstrip(
                "\n"
            )
        )
    return 0


def _document(experiment: Experiment, said: Verdict, found: list[Setting] | None) -> dict[str, Any]:
    """The stable schema of `--json`."""
    whole = plain(experiment.tree)
    document = {
        "name": experiment.name,
        "job": whole["job"],
        "sweep": whole.get("sweep"),
        "conf": filled(experiment, said),
    }
    if found is not None:
        document["settings"] = [
            {key: value for key, value in dataclasses.asdict(each).items() if key != "said"}
            for each in found
        ]
    return document
