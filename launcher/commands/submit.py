"""`vidjobs submit VERB CONF`: plan, ask the trainer and the site's rules, send, remember."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launcher import nodes, output, records
from launcher.all_backends import for_profile
from launcher.backend_base import Backend, Phase
from launcher.errors import AdmissionError, ClusterError, ConfError, Fault, UserError, VidjobsError
from launcher.lint import Finding, lint
from launcher.plan import Plan, plan, read
from launcher.profiles import ClusterProfile, choose
from launcher.records import RunRecord
from launcher.render import to_yaml
from launcher.site_rules import named_by, of_profile
from launcher.trainer_check import Verdict, all_faults, tell, verdict
from launcher.trainer_process import Checking

_FROM = ("model.init", "test.checkpoints")  # what --from sets


def judged(made: Plan, profile: ClusterProfile, place: Backend) -> list[Finding]:
    """What the cluster's site would say; nothing where its conf runs on this machine (`--backend local`)."""
    elsewhere = place.name == "local" and profile.backend != "local"
    return [] if elsewhere else lint(made.experiment, profile, made.manifests)


def refuse_or_warn(made: Plan, findings: Sequence[Finding], said: Verdict) -> None:
    """ConfError with everything that the site (`findings`) or the trainer (`said`) would refuse; the rest as warnings."""
    refused = [
        Fault(
            path=each.path,
            message=f"{each.message} [{each.rule}]",
            hint=each.fix,
            file=each.file,
            line=each.line,
        )
        for each in findings
        if each.severity == "error"
    ]
    if said.faults or refused:
        raise ConfError([*said.faults, *refused])
    for text in (
        *made.warnings,
        *([said.note] if said.note else []),
        *(each.told for each in findings),
    ):
        output.warn(text)


def _dry_run(made: Plan, backend: Backend, kind: str, *, as_json: bool) -> int:
    if kind == "server":
        backend.submit(made.manifests, dry_run=True)
        output.note(f"the server would accept {made.spec.run}; nothing was created")
    if as_json:
        output.json_result(made.manifests)
    else:
        output.result(to_yaml(made.manifests).rstrip("\n"))
    return 0


def _send(made: Plan, backend: Backend) -> RunRecord:
    """Record first, then submit: a run that may exist is never unknown here, and one that cannot exist leaves no record."""
    context, namespace = backend.where()
    record = dataclasses.replace(made.record, context=context, namespace=namespace)
    records.save(record)
    try:
        backend.submit(made.manifests)
    except AdmissionError:
        records.forget(record.run)
        raise
    except (VidjobsError, KeyboardInterrupt) as error:
        if (isinstance(error, ClusterError) and not error.begun) or _surely_absent(record, backend):
            records.forget(record.run)
        else:
            output.warn(
                f"{record.run} may have been created: `vidjobs status {record.run}` tells, `vidjobs delete {record.run}` removes it"
            )
        raise
    return record


@contextlib.contextmanager
def _own_rules_named(profile: ClusterProfile) -> Iterator[None]:
    """A refusal that one of the user's own rules tells of (`says`) is shown with that rule's fix."""
    try:
        yield
    except AdmissionError as error:
        rule = named_by(error.message, of_profile(profile))
        if rule is not None:
            raise AdmissionError(
                error.message, hint=f"{rule.fix} [{rule.id}]", status=error.status
            ) from error
        raise


def _surely_absent(record: RunRecord, backend: Backend) -> bool:
    try:
        return backend.status(record).phase is Phase.GONE
    except ClusterError:
        return False


def document(record: RunRecord) -> dict[str, Any]:
    """The stable schema of `--json`: the record without its long texts."""
    return {
        key: value
        for key, value in dataclasses.asdict(record).items()
        if key not in ("conf_text", "whole_conf", "manifests")
    }


def run(
    verb: str,
    conf: Path,
    *,
    sets: Sequence[str] = (),
    source: str | None = None,
    backend: str | None = None,
    cluster: str | None = None,
    name: str | None = None,
    shards: int | None = None,
    sweep: bool = False,
    watch: bool = False,
    dry_run: str | None = None,
    as_json: bool = False,
    trainer: Checking | None = None,
) -> int:
    """`trainer`: the check for this verb, when it has been started already."""
    with trainer or Checking(verb, trials=sweep) as asked:
        if watch and dry_run:
            raise UserError(
                "--watch follows a run, and --dry-run starts none", hint="leave one of them out"
            )
        profile = choose(cluster)
        place = for_profile(profile, backend)
        try:
            made = plan(
                verb,
                conf,
                profile=profile,
                backend=place,
                sets=sets,
                source=source,
                name=name,
                shards=shards,
                sweep=sweep,
                stable=dry_run == "client",
            )
        except ConfError as error:
            if sweep:
                raise  # what the conf lacks, its trials may have
            experiment = read(conf, profile=profile, backend=place, sets=sets, name=name)
            tell(asked, experiment)
            faults = all_faults(error.faults, verdict(asked, experiment))
            raise ConfError(
                [fault for fault in faults if not source or fault.path not in _FROM]
            ) from error
        tell(asked, made.experiment, made.trials)
        findings = judged(made, profile, place)
        if dry_run != "client":
            with contextlib.suppress(ClusterError):  # told below, after what is wrong with the conf
                place.where()  # the way to the cluster is made ready meanwhile
        refuse_or_warn(made, findings, verdict(asked, made.experiment, made.trials))
    if dry_run != "client":
        for text in nodes.volume_warnings(
            made.experiment.job, place.volumes() if made.spec.nodes > 1 else ()
        ):
            output.warn(text)
    return deliver(made, profile, place, watch=watch, dry_run=dry_run, as_json=as_json)


def deliver(
    made: Plan,
    profile: ClusterProfile,
    place: Backend,
    *,
    watch: bool,
    dry_run: str | None,
    as_json: bool,
) -> int:
    """Send a plan that was checked, remember it, and follow it if asked to."""
    with _own_rules_named(profile):
        if dry_run:
            return _dry_run(made, place, dry_run, as_json=as_json)
        record = _send(made, place)
    if as_json:
        output.json_result(document(record))
    else:
        output.result(record.run)
    if made.trials:
        output.note(
            f"{len(made.trials)} trials, {made.spec.parallelism} at a time; `vidjobs sweep status {record.run}` says how far they are"
        )
    else:
        output.note(
            f"`vidjobs logs {record.run} -f` follows it, `vidjobs status {record.run}` says how far it is"
        )
    if not watch:
        return 0
    if made.trials:
        from launcher.commands import sweep

        return sweep.follow(record, as_json=as_json)
    from launcher.commands.logs import follow  # only --watch reads logs

    return follow(record, place)
