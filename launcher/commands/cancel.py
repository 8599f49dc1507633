"""`vidjobs cancel RUN`: stop a run and keep its state."""

from __future__ import annotations

from launcher import output
from launcher.all_backends import for_record
from launcher.records import find


def run(run: str) -> int:
    record = find(run)
    for_record(record).cancel(record)
    output.note(
        f"{record.run} is told to write its checkpoint and stop; `vidjobs resume {record.run}` goes on from there"
    )
    return 0
