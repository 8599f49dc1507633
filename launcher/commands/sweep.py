"""`vidjobs sweep status` and `sweep results`: every trial of a sweep, while it runs and after."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from pathlib import Path

from launcher import output
from launcher.errors import UserError, did_you_mean
from launcher.sweep import shown, shown_value
from launcher.sweep_view import SweepView, TrialView, find, look, lower_is_better
from launcher.whole_file import write_whole

_EVERY_S = 3.0
_MOST_COLUMNS = 5  # of keys; more are one column


def status(run: str | None, *, watch: bool = False, as_json: bool = False) -> int:
    """Show all trials; with `watch` again whenever something has changed, until the sweep ends."""
    record, before = find(run), None
    while True:
        view = look(record)
        now = view.as_json()
        if now != before:
            _show(view, as_json=as_json, again=watch)
        if not watch or view.status.phase.ended:
            return 0
        before = now
        time.sleep(_EVERY_S)


def results(
    run: str | None, *, out: Path | None = None, by: str | None = None, heatmap: Path | None = None, axes: str | None = None
) -> int:
    """A CSV of all trials, a picture of two keys, or both."""
    if heatmap is not None and heatmap.suffix.lower() not in (".png", ".svg"):
        raise UserError(f'--heatmap draws .png and .svg files, not "{heatmap}"', hint=f"--heatmap {heatmap.with_suffix('.png')}")
    if axes is not None and heatmap is None:
        raise UserError("--axes are those of a heat map", hint="--heatmap FILE.png draws one")
    view = look(find(run))
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
        output.note(f"best {metric}: {best.score(metric):.4g} in trial {best.number} ({shown(best.changes)})")
        output.note(f"`vidjobs fetch checkpoints {view.record.run} --trial {best.number} --best` brings it")
    return 0


def _metric(view: SweepView, by: str | None) -> str:
    """What trials are compared by; "" when none has a score."""
    known = view.metrics
    if by is not None and by not in known:
        hint = did_you_mean(by, known) or (f"known: {', '.join(known)}" if known else "no trial has a score yet")
        raise UserError(f'no trial has a metric called "{by}"', hint=hint)
    return by or next(iter(known), "")


def _draw(view: SweepView, metric: str, path: Path, axes: str | None) -> None:
    from launcher.drawing import to_png, to_svg
    from launcher.sweep_map import choose_axes, heat_map

    if not metric:
        raise UserError(f"no trial of {view.record.run} has a score yet", hint=f"vidjobs sweep status {view.record.run}")
    scene = heat_map(view, metric, choose_axes(view, axes))
    write_whole(path, to_svg(scene).encode() if path.suffix.lower() == ".svg" else to_png(scene))
    output.result(str(path))


def _csv(view: SweepView, order: list[TrialView]) -> str:
    """A line for each trial: what it changed, how far it came, and the scores of its best checkpoint."""
    scores = [metric for metric in view.metrics if metric != "train_loss"]
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["trial", "phase", *view.keys, "epoch", "step", "train_loss", "checkpoint", *scores, "cause"])
    for trial in order:
        changed = [shown_value(trial.changes[key]) if key in trial.changes else "" for key in view.keys]
        numbers = [trial.score(metric) for metric in scores]
        far = [trial.epoch, trial.step, trial.loss, trial.checkpoint]
        writer.writerow([trial.number, trial.phase, *changed, *far, *numbers, trial.cause])
    return sink.getvalue()


def _show(view: SweepView, *, as_json: bool, again: bool) -> None:
    if as_json:
        output.json_line(view.as_json()) if again else output.json_result(view.as_json())
        return
    if again:
        output.redraw()
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
    _table(view)


def _table(view: SweepView) -> None:
    metric = next((name for name in view.metrics if name != "train_loss"), "")
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
    for trial in view.trials:
        changed = (
            [shown_value(trial.changes[key]) if key in trial.changes else "" for key in view.keys] if apart else [shown(trial.changes)]
        )
        score = [_figure(trial.score(metric))] if metric else []
        numbers = ["" if value is None else str(value) for value in (trial.epoch, trial.step)]
        rows.append([str(trial.number), *changed, trial.phase, *numbers, _figure(trial.loss), *score, trial.cause])
    output.table(headers, rows)
    if metric and (ranked := view.ranked(metric)):
        direction = "lowest" if lower_is_better(metric) else "highest"
        output.note(f"{direction} {metric}: {_figure(ranked[0].score(metric))} in trial {ranked[0].number} ({shown(ranked[0].changes)})")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
