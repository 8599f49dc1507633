"""Runs as one HTML page that needs nothing else: no script, style or picture from outside, and every name escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.backend_base import Phase
from launcher.charts import SCORES, bar_chart, compare_chart, loss_chart, score_chart
from launcher.confusion_map import confusion_map
from launcher.drawing import Scene, css_colours, to_svg
from launcher.errors import UserError
from launcher.losses import LossRecord, best_val, epoch_losses
from launcher.report_answers import common_folder
from launcher.report_data import ClassRow, RunData, is_number
from launcher.sweep import shown_value
from launcher.sweep_map import choose_axes, heat_map
from launcher.sweep_view import SweepView

_TEMPLATE = "report.html.j2"
_SCORES = tuple(name for names in SCORES for name in names)
_SCORE_COLUMNS = ("epoch", "step", "loss", *_SCORES)
_LEADING = tuple(names[0] for names in SCORES)
_SORT = (
    "for(const head of document.querySelectorAll('table.sortable th')){head.tabIndex=0;head.onclick=()=>{"
    "const table=head.closest('table'),at=[...head.parentNode.children].indexOf(head),up=head.dataset.up!=='1';"
    "for(const other of head.parentNode.children){delete other.dataset.up}head.dataset.up=up?'1':'0';"
    "const key=row=>{const cell=row.children[at],text=(cell.dataset.v??cell.textContent).trim();"
    "return text===''||isNaN(text)?text.toLowerCase():Number(text)};"
    "const rows=[...table.tBodies[0].rows].sort((a,b)=>{const x=key(a),y=key(b);return(x<y?-1:x>y?1:0)*(up?1:-1)});"
    "table.tBodies[0].append(...rows)};head.onkeydown=e=>{if(e.key==='Enter')head.click()}}"
)


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One row of the table of final metrics."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run as the template reads it; SVG texts come from `drawing`, which escapes names itself."""

    data: RunData
    state: str  # "succeeded", "failed", ...: also a CSS class of the template
    summary: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    charts: tuple[str, ...]
    columns: tuple[str, ...]  # of scores and tests: those that one of their rows has
    scores: tuple[ScoreRow, ...]
    tests: tuple[ScoreRow, ...]
    trial_columns: tuple[str, ...]
    trials: tuple[ScoreRow, ...]
    provenance: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]
    confusion: tuple[tuple[ClassRow, tuple[tuple[int, float], ...]], ...]
    matrix: tuple[str, ...]
    inputs: str  # the folder that all inputs of an `infer` lie in


def render(runs: Sequence[RunData], *, made: str) -> str:
    """The page; `made` is the time shown at its foot."""
    import jinja2  # here: only this verb and `render` need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [_view(data) for data in runs]
    return environment.get_template(_TEMPLATE).render(
        views=views,
        together=_svg(_together(views)) if len(views) > 1 else (),
        compared=_compared(views),
        colours=css_colours(),
        script=_SORT,
        script_hash=base64.b64encode(hashlib.sha256(_SORT.encode()).digest()).decode(),
        made=made,
    )


def _together(views: Sequence[RunView]) -> list[Scene | None]:
    """What compares the runs: their losses in one frame, and the score by which checkpoints of their kind are compared."""
    scenes = [
        compare_chart(
            [(view.data.record.run, view.data.records) for view in views], title="Loss of all runs"
        )
    ]
    for name in (leading.replace("_", " ") for leading in _LEADING):
        scored = [
            (view.data.record.run, dict(view.summary)[name])
            for view in views
            if name in dict(view.summary)
        ]
        title = f"{name[0].upper()}{name[1:]} of all runs"
        scenes.append(
            bar_chart([(run, float(score), score) for run, score in scored], title=title)
            if len(scored) > 1
            else None
        )
    return scenes


def _compared(views: Sequence[RunView]) -> list[str]:
    """The numbers of the table of runs: those that one of them has."""
    known = {name for view in views for name, _ in view.summary}
    return [
        name
        for name in ("epochs", "best val loss", *(score.replace("_", " ") for score in _SCORES))
        if name in known
    ]


def _view(data: RunData) -> RunView:
    best = best_val(epoch_losses(data.records))
    scores, tests = (
        _score_rows(data),
        [ScoreRow(name=str(row.get("checkpoint", "")), cells=_cells(row)) for row in data.tests],
    )
    filled = [
        place
        for place in range(len(_SCORE_COLUMNS))
        if any(row.cells[place] for row in (*scores, *tests))
    ]
    return RunView(
        data=data,
        state=_state(data),
        summary=tuple(_summary(data, best.val if best else None)),
        facts=tuple(_facts(data)),
        charts=_svg(
            [loss_chart(data.records, title="Loss"), _score_chart(data), _heat_map(data.sweep)]
        ),
        columns=tuple(_SCORE_COLUMNS[place].replace("_", " ") for place in filled),
        scores=tuple(_with(row, filled) for row in scores),
        tests=tuple(_with(row, filled) for row in tests),
        trial_columns=_trial_columns(data.sweep) if data.sweep else (),
        trials=tuple(_trial_rows(data.sweep)) if data.sweep else (),
        provenance=tuple(_provenance(data)),
        packages=tuple(_packages(data)),
        confusion=tuple((row, _shares(row)) for row in data.classes),
        matrix=_svg([_matrix(data)]),
        inputs=common_folder(data.answers),
    )


def _heat_map(sweep: SweepView | None) -> Scene | None:
    """Of a sweep in which two keys vary."""
    if sweep is None or not sweep.metrics:
        return None
    try:
        return heat_map(sweep, sweep.metrics[0], choose_axes(sweep, None))
    except UserError:
        return None  # one key or three, or too many values: the table has them


def _matrix(data: RunData) -> Scene | None:
    """Of a `test`; an `eval` has drawn its own picture."""
    if not data.confusion or any(picture.name == "confusion" for picture in data.pictures):
        return None
    of = f" of {data.best_test}" if data.best_test else ""
    return confusion_map(data.names, data.confusion, title=f"Confusion{of}")


def _trial_columns(sweep: SweepView) -> tuple[str, ...]:
    return (*sweep.keys, "status", "epoch", *sweep.metrics, "why")


def _trial_rows(sweep: SweepView) -> Iterator[ScoreRow]:
    """Best first; those without a score at the end."""
    for trial in sweep.best_first(sweep.metrics[0]) if sweep.metrics else sweep.trials:
        changed = [
            shown_value(trial.changes[key]) if key in trial.changes else "" for key in sweep.keys
        ]
        numbers = [trial.score(metric) for metric in sweep.metrics]
        cells = (
            *changed,
            trial.phase,
            str(trial.epoch or ""),
            *("" if each is None else f"{each:.4f}" for each in numbers),
            trial.cause,
        )
        yield ScoreRow(name=str(trial.number), cells=cells)


def _state(data: RunData) -> str:
    """The phase; of a run that the cluster has forgotten, what its own DONE.json says."""
    finished = data.status.phase is Phase.GONE and data.done.get("exit_code") == 0
    return (Phase.SUCCEEDED if finished else data.status.phase).value


def _summary(data: RunData, best_loss: float | None) -> list[tuple[str, str]]:
    """The few numbers at the top: (what, value)."""
    trained = [record for record in data.records if record.phase == "train"]
    epochs = max((record.epoch or 0 for record in trained), default=0)
    scored = [
        data.scores,
        *sorted(data.tests, key=_leading, reverse=True),
        *_manifest_metrics(data),
        *_last_values(data),
    ]
    found = [
        ("epochs", str(epochs) if epochs else ""),
        ("best val loss", "" if best_loss is None else f"{best_loss:.4f}"),
    ]
    for key in _SCORES:
        value = next((row[key] for row in scored if is_number(row.get(key))), None)
        found.append((key.replace("_", " "), "" if value is None else _text(value)))
    return [(name, value) for name, value in found if value]


def _facts(data: RunData) -> list[tuple[str, str]]:
    record = data.record
    place = f"{record.cluster} / {record.namespace}" if record.namespace else record.cluster
    facts = [
        ("verb", record.verb),
        ("submitted", record.created),
        ("finished", str(data.done.get("finished", ""))),
        ("commit", str(record.commit or data.provenance.get("commit") or "")),
        ("image", record.image),
        ("where", place),
        *(
            (key.replace("_", " "), str(data.scores[key]))
            for key in ("checkpoint", "split", "threshold", "clips", "videos", "weights_from")
            if key in data.scores
        ),
        ("not scored", _count_of(data.scores.get("missing"))),
        ("cause", "" if data.status.phase is Phase.GONE else data.status.cause),
    ]
    return [(name, value) for name, value in facts if value]


def _score_rows(data: RunData) -> list[ScoreRow]:
    """Final metrics: the evaluation, the best and last checkpoint, the best and last validation."""
    rows: list[ScoreRow] = []
    if data.scores:
        checkpoint = str(data.scores.get("checkpoint", "")).rsplit("/", 1)[-1]
        streams = _streams(data)
        what = " + ".join(name for name, _ in streams) or (
            f"evaluation of {checkpoint}" if checkpoint else "evaluation"
        )
        rows += [ScoreRow(name=name, cells=_cells(scores)) for name, scores in streams]
        rows.append(ScoreRow(name=what, cells=_cells(data.scores)))
    for name, metrics in zip(("best", "last"), _manifest_metrics(data), strict=False):
        if metrics:
            rows.append(
                ScoreRow(
                    name=f"{name} checkpoint, {data.manifest.get(name, '')}", cells=_cells(metrics)
                )
            )
    vals = [record for record in data.records if record.phase == "val" and record.loss is not None]
    finite = [record for record in vals if math.isfinite(record.loss or 0.0)]
    if finite:
        lowest = min(finite, key=lambda record: record.loss or 0.0)
        rows.append(
            ScoreRow(name="lowest val loss", cells=_cells({"loss": lowest.loss, **lowest.values}))
        )
    if vals:
        rows.append(
            ScoreRow(
                name="last validation", cells=_cells({"loss": vals[-1].loss, **vals[-1].values})
            )
        )
    return rows


def _streams(data: RunData) -> list[tuple[str, Mapping[str, Any]]]:
    """What `fuse` put together: (name, its own scores)."""
    streams = data.scores.get("streams")
    return (
        [(name, scores) for name, scores in streams.items() if isinstance(scores, Mapping)]
        if isinstance(streams, Mapping)
        else []
    )


def _manifest_metrics(data: RunData) -> list[dict[str, Any]]:
    """Metrics of the best and the last checkpoint."""
    files = data.manifest.get("files")
    entries = (
        [files.get(str(data.manifest.get(name))) for name in ("best", "last")]
        if isinstance(files, dict)
        else []
    )
    found: list[dict[str, Any]] = []
    for entry in entries:
        metrics = entry.get("metrics") if isinstance(entry, dict) else None
        found.append(
            {**entry, **metrics} if isinstance(entry, dict) and isinstance(metrics, dict) else {}
        )
    return found


def _score_chart(data: RunData) -> Scene | None:
    """Scores over epochs: of the tested checkpoints, else of the validations."""
    told = [
        {key: value for key, value in row.items() if is_number(value) or isinstance(value, str)}
        for row in data.tests
    ]
    validated = [record.values for record in data.records if record.phase == "val"]
    for rows, title in (
        (told, "Scores of the tested checkpoints"),
        (validated, "Scores of the validations"),
    ):
        if len(rows) > 1:
            return score_chart(
                [LossRecord(phase="test", loss=None, values=values) for values in rows], title=title
            )
    return None


def _last_values(data: RunData) -> list[Mapping[str, Any]]:
    return [record.values for record in reversed(data.records) if record.phase in ("val", "test")]


def _leading(row: Mapping[str, Any]) -> float:
    return next((float(row[name]) for name in _LEADING if is_number(row.get(name))), -1.0)


def _with(row: ScoreRow, places: Sequence[int]) -> ScoreRow:
    return ScoreRow(name=row.name, cells=tuple(row.cells[place] for place in places))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        _text(row[column]) if is_number(row.get(column)) else "" for column in _SCORE_COLUMNS
    )


def _count_of(names: object) -> str:
    """ "3 videos", "" for none."""
    return f"{len(names)} videos" if isinstance(names, list) and names else ""


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _shares(row: ClassRow) -> tuple[tuple[int, float], ...]:
    """tp, fp and fn, each with its share of the three."""
    counts = [max(count, 0) for count in (row.tp, row.fp, row.fn)]
    return tuple((count, count / (sum(counts) or 1)) for count in counts)


def _provenance(data: RunData) -> list[tuple[str, str]]:
    """{"seed": {"train": 1}} -> [("seed.train", "1")]; packages and attempts are shown apart."""
    rows: list[tuple[str, str]] = []
    for key, value in data.provenance.items():
        if key in ("packages", "attempts"):
            continue
        inner = (
            [(f"{key}.{name}", part) for name, part in value.items()]
            if isinstance(value, Mapping)
            else [(key, value)]
        )
        rows += [
            (name, " ".join(map(str, part)) if isinstance(part, list) else str(part))
            for name, part in inner
            if part not in (None, "", [])
        ]
    attempts = data.provenance.get("attempts")
    told = (
        [attempt for attempt in attempts if isinstance(attempt, Mapping)]
        if isinstance(attempts, list)
        else []
    )
    for number, attempt in enumerate(told if len(told) > 1 else [], 1):
        rows.append(
            (
                f"attempt {number}",
                ", ".join(
                    str(attempt[key])
                    for key in ("started", "node", "pod", "gpu")
                    if attempt.get(key)
                ),
            )
        )
    return rows


def _packages(data: RunData) -> list[tuple[str, str]]:
    packages = data.provenance.get("packages")
    return (
        [(str(name), str(version)) for name, version in packages.items()]
        if isinstance(packages, Mapping)
        else []
    )


def _svg(scenes: Sequence[Scene | None]) -> tuple[str, ...]:
    return tuple(to_svg(scene, themed=True) for scene in scenes if scene is not None)
