"""`vidjobs report`: one self-contained HTML page about one run, or comparing several."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from launcher import all_backends, output
from launcher.records import RunRecord, find
from launcher.report import render
from launcher.report_data import RunData, gather
from launcher.whole_file import write_whole


def _gather(record: RunRecord) -> RunData:
    backend = all_backends.for_record(record)
    status = backend.status(record)
    with backend.files(record) as files:
        return gather(record, status, files)


def _target(out: Path, records: list[RunRecord]) -> Path:
    """`out` itself when it is named like a page, else a name inside that folder."""
    if out.suffix.lower() in (".html", ".htm"):
        return out
    rest = f"-and-{len(records) - 1}-more" if len(records) > 1 else ""
    return out / f"report-{records[0].run}{rest}.html"


def run(runs: list[str], *, out: Path) -> int:
    """Write the page about `runs` (none: the newest from here) and print its path."""
    chosen = [find(name) for name in runs] or [find(None)]
    records = list({record.run: record for record in chosen}.values())
    found = [_gather(record) for record in records]
    for data in found:
        if not (
            data.records
            or data.scores
            or data.tests
            or data.provenance
            or data.sweep
            or data.answers
        ):
            output.warn(f"{data.record.run} has written nothing yet: the page shows its conf only")
    path = _target(out, records)
    page = render(found, made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    write_whole(path, page.encode("utf-8", errors="replace"))
    output.result(str(path))
    return 0
