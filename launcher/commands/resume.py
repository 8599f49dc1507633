"""`vidjobs resume RUN`: go on from the run's last checkpoint."""

from __future__ import annotations

from launcher import output
from launcher.all_backends import for_record
from launcher.records import find


def run(run: str) -> int:
    record = find(run)
    for_record(record).resume(record)
    output.note(f"{record.run} goes on; `vidjobs logs {record.run} -f` follows it")
    return 0
