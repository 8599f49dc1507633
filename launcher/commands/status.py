"""`vidjobs status [RUN]`: what runs do, how far they are, and why they do not run."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from launcher import nodes, output, run_view
from launcher.backend_base import PodStatus
from launcher.errors import ClusterError
from launcher.profiles import ClusterProfile, choose, config_dir
from launcher.records import RunRecord, find, load_all
from launcher.run_view import RunView, age

_EVERY_S = 2.0
_SHOWN = 25  # ended runs in the table, attempts of a run
_LINES_AROUND = 3  # of the terminal: the header, the note, and the cursor's
_HEADERS = ("RUN", "VERB", "PHASE", "AGE", "EPOCH", "STEP", "LOSS", "ETA", "WHY")


def _configured() -> ClusterProfile | None:
    """The cluster that is configured, whose runs may have been submitted from elsewhere; None leaves the records alone."""
    named = os.environ.get("VIDJOBS_CLUSTER") or (config_dir() / "config.yaml").is_file()
    return choose(None) if named else None


def _ended(view: RunView) -> bool:
    return view.status is None or view.status.phase.ended


def _row(view: RunView) -> list[str]:
    loss = (
        f"{view.loss.phase} {view.loss.loss:.4g}"
        if view.loss and view.loss.loss is not None
        else ""
    )
    numbers = ["" if value is None else str(value) for value in (view.epoch, view.step)]
    why = view.status.cause if view.status else "its cluster does not answer"
    return [view.run, view.verb, view.phase, age(view.created), *numbers, loss, view.eta, why]


def _show_table(views: Sequence[RunView], *, most: int = _SHOWN) -> None:
    """Those that have not ended, and `most` of the others."""
    active = [view for view in views if not _ended(view)]
    past = [view for view in views if _ended(view)]
    if not views:
        output.note("no runs yet: `vidjobs submit train CONF` starts one")
        return
    output.table(_HEADERS, [_row(view) for view in (*active, *past[:most])], cut=True)
    if len(past) > most:
        output.note(f"{len(past) - most} older runs are not shown; --json lists all")


def _show_live_table(views: Sequence[RunView]) -> None:
    """As many as the terminal has lines for: what scrolls away cannot be drawn again."""
    room = (
        shutil.get_terminal_size().lines - _LINES_AROUND - sum(not _ended(view) for view in views)
    )
    _show_table(views, most=max(0, min(_SHOWN, room)) if sys.stdout.isatty() else _SHOWN)


def _show_one(view: RunView) -> None:
    """Label and value, one a line; attempts as a table."""
    status, record = view.status, view.record
    loss = (
        f"{view.loss.phase} Loss: {view.loss.loss:.4g}"
        if view.loss and view.loss.loss is not None
        else ""
    )
    far = [
        f"{name} {value}"
        for name, value in (("epoch", view.epoch), ("step", view.step))
        if value is not None
    ]
    lines = {
        "run": view.run,
        "phase": view.phase,
        "why": status.cause if status else "",
        "next": status.fix if status else "",
        "rerun": f"avoids {nodes.told(view.blamed)}" if view.blamed else "",
        "progress": ", ".join(
            word for word in (*far, loss, f"{view.eta} left" if view.eta else "") if word
        ),
        "age": age(view.created),
        "cluster": " ".join(
            word for word in (view.cluster, record.namespace if record else "") if word
        ),
        "folder": str(record.paths.root) if record else "",
    }
    for label, value in lines.items():
        if value:
            output.result(f"{label:<9} {value}")
    for verdict in view.verdicts:
        text = output.paint(verdict.text, "yellow") if not verdict.ok else verdict.text
        output.result(f"{'use':<9} {text}" + (f"; {verdict.fix}" if verdict.fix else ""))
    _show_attempts(status.pods if status else ())
    if status and status.indexes and record and _is_sweep(record):
        output.note(f"`vidjobs sweep status {view.run}` shows its trials")


def _is_sweep(record: RunRecord) -> bool:
    from launcher.recorded import is_sweep  # what it imports costs as much as all else here

    return is_sweep(record)


def _show_attempts(pods: Sequence[PodStatus]) -> None:
    """A table of the newest: a sweep has as many as trials, and more."""
    if not pods:
        return
    output.result("")
    shown = pods[-_SHOWN:]
    rows = [
        [
            pod.name,
            pod.phase,
            pod.node,
            _blank(pod.exit_code),
            pod.reason,
            pod.started,
            pod.finished,
        ]
        for pod in shown
    ]
    output.table(("ATTEMPT", "PHASE", "NODE", "EXIT", "REASON", "STARTED", "FINISHED"), rows)
    if len(pods) > len(shown):
        output.note(f"{len(pods) - len(shown)} older attempts are not shown; --json lists all")


def _blank(value: int | None) -> str:
    return "" if value is None else str(value)


def _watch(
    look: Callable[[], list[RunView]], show: Callable[[list[RunView]], None], *, as_json: bool
) -> None:
    """Show again what has changed, until nothing runs any more; a terminal is redrawn in place."""
    before: list[dict[str, Any]] = []
    while True:
        try:
            views = look()
        except ClusterError as error:
            if not error.transient:
                raise
            output.note(f"{error.message}; trying again")
            time.sleep(_EVERY_S)
            continue
        now = [view.as_json() for view in views]
        if as_json:
            for each in now:
                if each not in before:
                    output.json_line(each)
        elif sys.stdout.isatty():
            output.redraw()
            show(views)
        elif now != before:
            show(views)
        if all(_ended(view) for view in views):
            return
        before = now
        time.sleep(_EVERY_S)


def _views_of(record: RunRecord) -> Callable[[], list[RunView]]:
    return lambda: [run_view.one(record)]


def _all_views(ended: int | None) -> list[RunView]:
    return run_view.everything(load_all(), _configured(), ended=ended)


def run(run: str | None, *, watch: bool = False, as_json: bool = False) -> int:
    look = (
        _views_of(find(run))
        if run is not None
        else partial(_all_views, None if as_json else _SHOWN)
    )
    table = _show_live_table if watch else _show_table
    show: Callable[[list[RunView]], None] = (
        table if run is None else lambda views: _show_one(views[0])
    )
    if watch:
        _watch(look, show, as_json=as_json)
        return 0
    views = look()
    if as_json:
        documents = [view.as_json() for view in views]
        output.json_result(documents if run is None else documents[0])
    else:
        show(views)
    return 0
