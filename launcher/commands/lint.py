"""`vidjobs lint CONF`: conf errors and site rules, offline, all at once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from launcher import output
from launcher.all_backends import for_profile
from launcher.conf.resolve import Experiment
from launcher.errors import ConfError, Fault
from launcher.lint import Finding, lint
from launcher.plan import cluster_faults, read
from launcher.profiles import choose
from launcher.site_rules import of_profile
from launcher.sketch import sketch
from launcher.sweep import Trials, expand
from launcher.trainer_check import all_faults, tell, verb_of, verdict
from launcher.trainer_process import Checking


def run(
    conf: Path, *, sets: Sequence[str] = (), cluster: str | None = None, as_json: bool = False
) -> int:
    with contextlib.ExitStack() as processes:
        # in vain for a conf with trials or without a model, and most are neither
        asked = processes.enter_context(Checking())
        profile = choose(cluster)
        backend = for_profile(profile)
        experiment = read(conf, profile=profile, backend=backend, sets=sets)
        trials, wrong = _trials(experiment)
        verb = verb_of(experiment)
        if trials or verb != "train":
            asked = processes.enter_context(Checking(verb, trials=trials is not None))
        tell(asked, experiment, trials)
        of_site = lint(experiment, profile, sketch(experiment, profile, backend))
        said = verdict(asked, experiment, trials)
    faults = all_faults(
        [*experiment.faults, *wrong, *cluster_faults(experiment, profile, backend)], said
    )
    findings = [*map(_as_finding, faults), *of_site]
    if said.note:
        output.warn(said.note)
    if as_json:
        output.json_result([dataclasses.asdict(finding) for finding in findings])
    for finding in findings if not as_json else []:
        output.result(str(finding))
    if not findings:
        output.note(
            f'{conf}: nothing to say (for `{verb}`, rules: {profile.rules or "none"}, cluster "{profile.name}")'
        )
    return ConfError.exit_code if any(finding.severity == "error" for finding in findings) else 0


def _trials(experiment: Experiment) -> tuple[Trials | None, Sequence[Fault]]:
    """The trials of a conf that has some, which are checked in its place, and what is wrong with its `sweep:`."""
    if experiment.sweep is None or experiment.faults:
        return None, ()
    try:
        return expand(experiment), ()
    except ConfError as error:
        return None, error.faults


def show_rules(*, cluster: str | None = None, as_json: bool = False) -> int:
    """Every rule that holds on the cluster, with its reason, source and fix."""
    rules = of_profile(choose(cluster))
    if as_json:
        output.json_result(
            [
                {
                    key: getattr(rule, key)
                    for key in ("id", "severity", "message", "why", "fix", "source", "conf")
                }
                for rule in rules
            ]
        )
        return 0
    for rule in rules:
        output.result(f"{rule.severity:<7} {output.paint(rule.id, 'bold')}  {rule.conf}".rstrip())
        said = [
            ("what", rule.message.replace("{value}", "...").replace("{name}", "NAME")),
            ("why", rule.why),
            ("fix", rule.fix),
            ("from", rule.source),
        ]
        for label, text in said:
            if text and text != "...":
                output.result(f"        {label:<4} {text}")
    return 0


def _as_finding(fault: Fault) -> Finding:
    return Finding(
        rule="conf",
        severity="error",
        path=fault.path,
        message=fault.message,
        fix=fault.hint,
        source="",
        file=fault.file,
        line=fault.line,
    )
