"""`vidjobs sweep status` and `sweep results`: every trial of a sweep, while it runs and after."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher import output
from launcher.backend_base import Phase
from launcher.errors import INTERRUPTED, ClusterError, JobFailed, UserError, did_you_mean
from launcher.records import RunRecord
from launcher.run_view import remember
from launcher.sweep import shown, shown_value
from launcher.sweep_view import SweepView, TrialView, find, look, lower_is_better
from launcher.whole_file import write_whole

_EVERY_S = 3.0
_SHARE = 4.0  # a look that takes long is taken less often: this many times its own length apart
_LINES_AROUND = 13  # of the terminal, above and below the trials
_MOST_COLUMNS = 5  # of keys; more are one column


def status(run: str | None, *, watch: bool = False, as_json: bool = False) -> int:
    """Show all trials; with `watch` again whenever something has changed, until the sweep ends."""
    record = find(run)
    if watch:
        # as `logs -f`: showing is all that was asked
        return INTERRUPTED if follow(record, as_json=as_json) == INTERRUPTED else 0
    view = look(record)
    if as_json:
        _tell_unread(view)
        output.json_result(view.as_json())
    else:
        _show(view, view.trials)
    return 0


def follow(record: RunRecord, *, as_json: bool = False) -> int:
    """Show the trials as they change until the sweep ends. 0 when all succeeded, 4 when not, 130 when the person stopped watching.

    A terminal is redrawn in place; elsewhere a line for each trial that changes, and the table at the end.
    """
    try:
        view = _last(record, as_json=as_json)
    except KeyboardInterrupt:
        output.note(f"stopped watching; {record.run} goes on")
        output.note(
            f"`vidjobs sweep status {record.run}` shows it again, `vidjobs cancel {record.run}` stops it"
        )
        return INTERRUPTED
    if not (as_json or sys.stdout.isatty()):
        _show(view, view.trials)
    status = view.status
    remember(record, status)
    if status.phase is Phase.SUCCEEDED:
        output.note(
            f"{record.run} succeeded; `vidjobs sweep results {record.run}` writes its scores"
        )
        return 0
    output.error(
        f"{record.run} {status.phase.told}" + (f": {status.cause}" if status.cause else ""),
        status.fix,
    )
    return JobFailed.exit_code


def _last(record: RunRecord, *, as_json: bool) -> SweepView:
    """Show what changes; the view of the sweep that has ended. A cluster that does not answer is told of once, and asked again."""
    view: SweepView | None = None
    last: Any = None
    lines = _Lines()
    trouble, took = "", 0.0
    while view is None or not view.status.phase.ended:
        if view is not None or trouble:
            time.sleep(max(_EVERY_S, _SHARE * took))
        began = time.monotonic()
        try:
            view, trouble = look(record, view), ""
        except ClusterError as error:
            if not error.transient:
                raise
            if error.message != trouble:
                output.note(f"{error.message}; trying again")
            trouble = error.message
        took = time.monotonic() - began
        if view is not None and (now := view.as_json()) != last:
            _show_again(view, lines, as_json=as_json)
            last = now
    return view


def _show_again(view: SweepView, lines: _Lines, *, as_json: bool) -> None:
    if as_json:
        output.json_line(view.as_json())
    elif sys.stdout.isatty():
        output.redraw()
        _show(view, _that_fit(view))
    else:
        lines.tell(view)


class _Lines:
    """A line for each trial whose phase has changed; the end of one waits for its score."""

    def __init__(self) -> None:
        self._told: dict[int, str] = {}

    def tell(self, view: SweepView) -> None:
        for trial in view.trials:
            early = (
                bool(view.unread) and trial.phase == Phase.SUCCEEDED and not view.status.phase.ended
            )
            if trial.phase != self._told.get(trial.number, "waiting") and not early:
                why = f": {trial.cause}" if trial.cause else ""
                output.result(
                    f"trial {trial.number} {trial.phase} ({shown(trial.changes)}){_said_score(view, trial)}{why}"
                )
                self._told[trial.number] = trial.phase


def _said_score(view: SweepView, trial: TrialView) -> str:
    metric = _score_shown(view)
    value = trial.score(metric) if metric and trial.phase == Phase.SUCCEEDED else None
    return "" if value is None else f", {metric} {_figure(value)}"


def _that_fit(view: SweepView) -> Sequence[TrialView]:
    """All trials, or as many as the terminal has lines for: those at work first, then those that failed, then the best."""
    room = max(5, shutil.get_terminal_size().lines - _LINES_AROUND)
    if len(view.trials) <= room:
        return view.trials
    ranked = view.best_first(_score_shown(view)) if view.metrics else view.trials
    first = ("running", "starting", "retrying", "pending", "failed", "succeeded")
    return sorted(
        ranked, key=lambda trial: first.index(trial.phase) if trial.phase in first else len(first)
    )[:room]


def results(
    run: str | None,
    *,
    out: Path | None = None,
    by: str | None = None,
    heatmap: Path | None = None,
    axes: str | None = None,
) -> int:
    """A CSV of all trials, a picture of two keys, or both."""
    if heatmap is not None and heatmap.suffix.lower() not in (".png", ".svg"):
        raise UserError(
            f'--heatmap draws .png and .svg files, not "{heatmap}"',
            hint=f"--heatmap {heatmap.with_suffix('.png')}",
        )
    if axes is not None and heatmap is None:
        raise UserError("--axes are those of a heat map", hint="--heatmap FILE.png draws one")
    view = look(find(run))
    _tell_unread(view)
    metric = _metric(view, by)
    ranked = view.ranked(metric) if metric else []
    order = view.best_first(metric) if by else list(view.trials)
    if heatmap is not None:
        _draw(view, metric, heatmap, axes)
    if out is not None:
        write_whole(out, _csv(view, order).encode())
        output.result(str(out))
    elif heatmap is None:
        output.result(_csv(view, order).rstrip("\n"))
    if ranked:
        best = ranked[0]
        output.note(
            f"best {metric}: {best.score(metric):.4g} in trial {best.number} ({shown(best.changes)})"
        )
        if best.checkpoint:
            output.note(
                f"`vidjobs fetch checkpoints {view.record.run} --trial {best.number} --best` brings it"
            )
            output.note(
                f"`vidjobs submit eval CONF --from {view.record.run}/{best.number}@best` evaluates it"
            )
    return 0


def _metric(view: SweepView, by: str | None) -> str:
    """What trials are compared by; "" when none has a score."""
    known = view.metrics
    if by is not None and by not in known:
        hint = did_you_mean(by, known) or (
            f"known: {', '.join(known)}" if known else "no trial has a score yet"
        )
        raise UserError(f'no trial has a metric called "{by}"', hint=hint)
    return by or next(iter(known), "")


def _draw(view: SweepView, metric: str, path: Path, axes: str | None) -> None:
    from launcher.drawing import to_png, to_svg
    from launcher.sweep_map import choose_axes, heat_map

    if not metric:
        raise UserError(
            f"no trial of {view.record.run} has a score yet",
            hint=f"vidjobs sweep status {view.record.run}",
        )
    scene = heat_map(view, metric, choose_axes(view, axes))
    write_whole(path, to_svg(scene).encode() if path.suffix.lower() == ".svg" else to_png(scene))
    output.result(str(path))


def _csv(view: SweepView, order: list[TrialView]) -> str:
    """A line for each trial: what it changed, how far it came, and the scores of its best checkpoint."""
    scores = [metric for metric in view.metrics if metric != "train_loss"]
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        [
            "trial",
            "phase",
            *view.keys,
            "epoch",
            "step",
            "train_loss",
            "checkpoint",
            *scores,
            "cause",
        ]
    )
    for trial in order:
        changed = [
            shown_value(trial.changes[key]) if key in trial.changes else "" for key in view.keys
        ]
        numbers = [trial.score(metric) for metric in scores]
        far = [trial.epoch, trial.step, trial.loss, trial.checkpoint]
        writer.writerow([trial.number, trial.phase, *changed, *far, *numbers, trial.cause])
    return sink.getvalue()


def _show(view: SweepView, trials: Sequence[TrialView]) -> None:
    """What the sweep does, and a table of these trials."""
    counts = Counter(trial.phase for trial in view.trials)
    lines = {
        "run": view.record.run,
        "phase": str(view.status.phase),
        "trials": ", ".join(f"{count} {phase}" for phase, count in counts.most_common()),
        "why": view.status.cause,
        "next": view.status.fix,
        "folder": str(view.record.paths.root),
    }
    for label, value in lines.items():
        if value:
            output.result(f"{label:<9} {value}")
    output.result("")
    _table(view, trials)


def _tell_unread(view: SweepView) -> None:
    if view.unread:
        output.note(f"progress and scores cannot be read now: {view.unread}")


def _score_shown(view: SweepView) -> str:
    """The score that tables show; "" while there is none."""
    return next((name for name in view.metrics if name != "train_loss"), "")


def _table(view: SweepView, trials: Sequence[TrialView]) -> None:
    metric = _score_shown(view)
    apart = len(view.keys) <= _MOST_COLUMNS
    headers = [
        "TRIAL",
        *(view.keys if apart else ("CHANGES",)),
        "PHASE",
        "EPOCH",
        "STEP",
        "LOSS",
        *([f"BEST {metric}"] if metric else []),
        "WHY",
    ]
    rows = []
    for trial in trials:
        changed = (
            [shown_value(trial.changes[key]) if key in trial.changes else "" for key in view.keys]
            if apart
            else [shown(trial.changes)]
        )
        score = [_figure(trial.score(metric))] if metric else []
        numbers = ["" if value is None else str(value) for value in (trial.epoch, trial.step)]
        rows.append(
            [
                str(trial.number),
                *changed,
                trial.phase,
                *numbers,
                _figure(trial.loss),
                *score,
                trial.cause,
            ]
        )
    output.table(headers, rows, cut=True)
    _tell_unread(view)
    if len(trials) < len(view.trials):
        output.note(
            f"{len(view.trials) - len(trials)} more trials; `vidjobs sweep status {view.record.run}` shows all"
        )
    if metric and (ranked := view.ranked(metric)):
        direction = "lowest" if lower_is_better(metric) else "highest"
        output.note(
            f"{direction} {metric}: {_figure(ranked[0].score(metric))} in trial {ranked[0].number} ({shown(ranked[0].changes)})"
        )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
