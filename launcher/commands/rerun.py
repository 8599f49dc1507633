"""`vidjobs rerun RUN`: a new run of the same conf, code and image, also when the Job and the working tree are gone."""

from __future__ import annotations

from collections.abc import Sequence

from launcher import output, recorded
from launcher.all_backends import ALL_BACKENDS
from launcher.backend_base import Backend
from launcher.commands.submit import deliver, refuse_or_warn
from launcher.errors import VidjobsError
from launcher.profiles import load
from launcher.records import RunRecord, find, note_image
from launcher.rerun import plan_again


def _with_image(record: RunRecord, backend: Backend) -> RunRecord:
    """The record with what its pod ran, when nobody has looked at the run yet and its pod is still there."""
    if not record.image or "@sha256:" in recorded.image(record):
        return record
    try:
        pods = backend.status(record).pods
    except VidjobsError:
        return record  # a courtesy: submitting will tell what is wrong with the cluster
    return note_image(record, next((pod.image for pod in pods if pod.image), ""))


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
    profile = load(record.cluster).at(context=record.context, namespace=record.namespace)
    place = ALL_BACKENDS[record.backend](profile)
    made, notes = plan_again(_with_image(record, place), profile=profile, backend=place, sets=sets, name=name)
    for note in notes:
        output.warn(f"not surely the same: {note}")
    if sets:
        refuse_or_warn(made, profile)  # what ran before needs no asking; the trainer of today may be another
    return deliver(made, profile, place, watch=watch, dry_run=dry_run, as_json=as_json)
