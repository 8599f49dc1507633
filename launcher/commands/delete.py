"""`vidjobs delete RUN`: remove a run's objects and, with --files, its folder on the volume. Asks first where somebody can answer."""

from __future__ import annotations

import sys

from launcher import log_spool, output
from launcher.all_backends import for_record
from launcher.errors import UserError
from launcher.records import RunRecord, find, forget


def _agreed(record: RunRecord, *, files: bool) -> bool:
    """Ask on a terminal. Elsewhere results are removed only with --yes; objects alone can be had again by resubmitting."""
    what = (
        f"{record.run} and its results in {record.paths.root}"
        if files
        else f"{record.run} (its results in {record.paths.root} stay)"
    )
    if sys.stdin.isatty():
        output.note(f"delete {what}? [y/N]")
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    if files:
        raise UserError(
            f"this would delete {what}, and nobody is there to be asked", hint="say --yes"
        )
    return True


def run(run: str, *, files: bool = False, yes: bool = False) -> int:
    record = find(run)
    if not yes and not _agreed(record, files=files):
        output.note("nothing was deleted")
        return 1
    for_record(record).delete(record, files=files)
    if files:
        forget(record.run)
        log_spool.forget(record.run)
    output.note(
        f"deleted {record.run}"
        + ("" if files else f"; its results stay: `vidjobs fetch all {record.run}`")
    )
    return 0
