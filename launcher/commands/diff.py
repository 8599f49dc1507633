"""`vidjobs diff A B`: what differs between two runs, and their results side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher import output
from launcher.all_backends import for_record
from launcher.backend_base import Phase, RunStatus
from launcher.code_pin import toplevel
from launcher.diffing import Comparison, Difference, Side, compare
from launcher.errors import VidjobsError
from launcher.records import RunRecord, find
from launcher.report_data import gather


def _side(record: RunRecord) -> Side:
    """The run with what its folder tells; a folder that cannot be read is named, and the rest compared."""
    status = RunStatus(run=record.run, phase=Phase.GONE)  # how it stands is not compared
    try:
        with for_record(record).files(record) as files:
            data = gather(record, status, files, pictures=False)
    except VidjobsError as error:
        return Side(
            record=record,
            data=None,
            why=f"its folder cannot be read, so environment and results are left out ({error.message})",
        )
    trials = data.sweep.small if data.sweep else None
    if not (data.provenance or data.records or data.manifest or data.scores or trials):
        return Side(
            record=record,
            data=None,
            why="its folder is empty or gone, so environment and results are left out",
        )
    return Side(record=record, data=data)


def _text(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _section(title: str, found: Sequence[Difference], names: tuple[str, str], *, same: str) -> None:
    output.result(output.paint(f"{title}: {same}" if not found else title, "bold"))
    if found:
        rows = [(f"  {each.key}", _text(each.a), _text(each.b)) for each in found]
        output.table(("  ", *names), rows)
    output.result("")


def _show(found: Comparison, names: tuple[str, str]) -> None:
    _section("conf", found.conf, names, same="the same")
    _section("code", found.code, names, same="the same")
    if found.patch:
        output.result(found.patch)
    _section("image", found.image, names, same="the same")
    _section("environment", found.environment, names, same="no difference known")
    _section("results", found.results, names, same="none")
    for text in found.missing:
        output.warn(text)


def run(a: str, b: str, *, as_json: bool = False) -> int:
    first, second = find(a), find(b)
    found = compare(_side(first), _side(second), toplevel(Path.cwd()))
    if as_json:
        output.json_result({"a": first.run, "b": second.run, **asdict(found)})
    else:
        _show(found, (first.run, second.run))
    return 0
