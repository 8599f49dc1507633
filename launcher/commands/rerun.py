"""`vidjobs rerun RUN`: a new run of the same conf, code and image, also when the Job and the working tree are gone."""

from __future__ import annotations

from collections.abc import Sequence

from launcher import nodes, output
from launcher.all_backends import ALL_BACKENDS, profile_of
from launcher.backend_base import Backend
from launcher.commands.submit import deliver, judged, refuse_or_warn
from launcher.errors import VidjobsError
from launcher.records import RunRecord, find
from launcher.rerun import plan_again, to_avoid
from launcher.run_view import remember
from launcher.trainer_check import check


def _remembered(record: RunRecord, backend: Backend) -> RunRecord:
    """The record with what its pods tell, while they are there."""
    try:
        return remember(record, backend.status(record))
    except VidjobsError:
        return record  # a courtesy: submitting will tell what is wrong with the cluster


def run(
    run: str | None,
    *,
    name: str | None = None,
    sets: Sequence[str] = (),
    watch: bool = False,
    dry_run: str | None = None,
    as_json: bool = False,
) -> int:
    record = find(run)
    profile = profile_of(record)
    place = ALL_BACKENDS[record.backend](profile)
    record = _remembered(record, place)
    made, notes = plan_again(record, profile=profile, backend=place, sets=sets, name=name)
    if avoided := to_avoid(record, sets):
        output.note(
            f"avoids {nodes.told(avoided)} of {record.run}; `--set job.avoid_nodes=[]` takes any node"
        )
    for note in notes:
        output.warn(f"not surely the same: {note}")
    if sets:  # what ran before needs no asking; the trainer of today may be another
        verdict = check(made.experiment, made.spec.verb, made.trials)
        refuse_or_warn(made, judged(made, profile, place), verdict)
    return deliver(made, profile, place, watch=watch, dry_run=dry_run, as_json=as_json)
