"""`fuse`: late fusion of what two or more evaluations said of the same videos, as of RGB and optical flow.

The fused score of a class is the weighted sum of the streams' softmax scores. Weights are given, or searched on evaluations of other
videos (the validation split): weights that were chosen on the videos they are reported on would say nothing about new ones.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import class_files, figures, provenance, ranking
from trainer import config as conf
from trainer.answers import METRICS, SCORES, Answers
from trainer.config import Config
from trainer.errors import DataError
from trainer.lock import hold
from trainer.records import Recorder
from trainer.run_folder import RunFolder

Weights = dict[str, float]  # stream -> share; all together 1
COLUMNS = (
    "method",
    "frame top-1",
    "top-3",
    "video top-1",
    "top-5",
    "mean (v-top1+v-top5)/2",
    "mAP",
)


@dataclass(frozen=True, eq=False)
class Stream:
    """One evaluation."""

    place: Path
    answers: Answers
    report: Mapping[str, Any]  # its metrics.json


def find_predictions(named: str, runs: Path) -> Path:
    """The predictions of a run beside this one, by its name or a start that no other has, or of a path to a run or to its predictions.

    Raises DataError that names what there is.
    """
    for place in (runs / named, Path(named)):
        for folder in (place / "predictions", place):
            if (folder / SCORES).is_file():
                return folder
    beside = sorted(path.parent.parent.name for path in runs.glob(f"*/predictions/{SCORES}"))
    alike = [name for name in beside if named and name.startswith(named)]
    if len(alike) == 1:
        return runs / alike[0] / "predictions"
    if alike:
        raise DataError(
            f'"{named}" is the start of several evaluations: {", ".join(alike[:10])}',
            hint="name one of them",
        )
    told = (
        f"evaluations in {runs}: {', '.join(beside[:10])}"
        if beside
        else f"{runs} has none; run `eval` first"
    )
    raise DataError(f'no evaluation is called "{named}": there is no {SCORES} of it', hint=told)


def open_streams(named: Mapping[str, str], runs: Path) -> dict[str, Stream]:
    """All evaluations, their rows in the order of the first one's videos. Raises DataError when they are not about the same videos."""
    found = {name: _open(find_predictions(each, runs)) for name, each in named.items()}
    first, *others = found
    for name in others:
        found[name] = replace(
            found[name],
            answers=_aligned(found[first].answers, found[name].answers, pair=(first, name)),
        )
    return found


def fused(streams: Mapping[str, Stream], weights: Weights) -> Answers:
    """The weighted sum of the streams' scores."""
    total = sum(
        weights[name] * stream.answers.scores.astype(np.float64) for name, stream in streams.items()
    )
    first = next(iter(streams.values())).answers
    return replace(first, scores=np.asarray(total, dtype=np.float32))


def grid(streams: Sequence[str], steps: int) -> list[Weights]:
    """Every way to share 1 between the streams in parts of 1 / steps."""
    bars = itertools.combinations(range(steps + len(streams) - 1), len(streams) - 1)
    parts = [np.diff([-1, *places, steps + len(streams) - 1]) - 1 for places in bars]
    return [dict(zip(streams, (shares / steps).tolist(), strict=True)) for shares in parts]


def search(streams: Mapping[str, Stream], steps: int) -> list[tuple[Weights, dict[str, float]]]:
    """(weights, top1 and top5) of the whole grid, the best first: the highest top1, then top5, then the most even shares."""
    tried = []
    for weights in grid(list(streams), steps):
        answers = fused(streams, weights)
        places = ranking.ranks(answers.scores, answers.labels)
        tried.append((weights, {"top1": ranking.top(places, 1), "top5": ranking.top(places, 5)}))
    return sorted(
        tried,
        key=lambda row: (
            -row[1]["top1"],
            -row[1]["top5"],
            sum(share**2 for share in row[0].values()),
        ),
    )


def run(config: Config, folder: RunFolder) -> None:
    """Fuse the streams. Raises DataError, CannotWrite, and TryAgain while another process writes to the folder."""
    folder.require_writable()
    with hold(folder):
        folder.write_text(folder.conf, conf.dump(config))
        provenance.write(folder, config)
        recorder = Recorder(folder)
        streams = open_streams(config.fuse.streams, folder.runs)
        weights, how = _weights(config, folder, streams, recorder)
        answers = fused(streams, weights)
        report = _write(config, folder, answers, streams=streams, weights=weights, how=how)
        recorder.say(
            f"weights: {', '.join(f'{name} {share:.4g}' for name, share in weights.items())} ({how})"
        )
        recorder.say(markdown(rows := table(streams, report)))
        folder.write_text(folder.predictions / "fusion.md", markdown(rows) + "\n")
        folder.write_text(folder.predictions / "fusion.csv", _csv(rows))
        recorder.close()
        done = {
            "verb": "fuse",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "exit_code": 0,
            "weights": weights,
        }
        folder.write_text(folder.done, json.dumps(done, indent=1) + "\n")


def table(streams: Mapping[str, Stream], report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The two-stream system's table in per cent, the fusion last; `report`: metrics.json of the fusion. Empty where nothing is known."""
    rows = [
        (name, {**stream.report, **report["streams"][name]}) for name, stream in streams.items()
    ]
    return [_row(name, scores) for name, scores in [*rows, (" + ".join(streams), dict(report))]]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table that reads in a terminal, too."""
    widths = [max(len(row[place]) for row in [COLUMNS, *rows]) for place in range(len(COLUMNS))]
    lines = [COLUMNS, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _open(place: Path) -> Stream:
    try:
        report = json.loads((place / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {place / METRICS}: {error}", hint="run `eval` again"
        ) from error
    return Stream(place, Answers.read(place), report if isinstance(report, dict) else {})


def _aligned(first: Answers, other: Answers, *, pair: tuple[str, str]) -> Answers:
    """`other` with its videos and classes in the order of `first`. Raises DataError where they differ."""
    for what, left, right in (
        ("classes", first.classes, other.classes),
        ("videos", first.videos, other.videos),
    ):
        alone = [sorted(set(one) - set(two)) for one, two in ((left, right), (right, left))]
        if any(alone):
            told = "; ".join(
                f'{len(names)} only in "{name}", as {names[0]}'
                for name, names in zip(pair, alone, strict=True)
                if names
            )
            raise DataError(
                f"the streams are not about the same {what}: {told}",
                hint="evaluate all streams on the same videos and classes",
            )
    rows, columns = _places(other.videos, first.videos), _places(other.classes, first.classes)
    labels = np.argsort(columns)[other.labels][rows]
    wrong = np.flatnonzero(labels != first.labels)
    if len(wrong):
        at = int(wrong[0])
        message = f'{len(wrong)} videos have another label in "{pair[1]}" than in "{pair[0]}", as {first.videos[at]}'
        raise DataError(message, hint="evaluate all streams with the same annotations")
    return replace(first, scores=other.scores[rows][:, columns])


def _places(names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64]:
    known = {name: place for place, name in enumerate(names)}
    return np.array([known[name] for name in wanted], dtype=np.int64)


def _weights(
    config: Config, folder: RunFolder, streams: Mapping[str, Stream], recorder: Recorder
) -> tuple[Weights, str]:
    """The weights, and where they come from."""
    fuse = config.fuse
    if fuse.weights:
        total = sum(fuse.weights.values())
        return {name: fuse.weights[name] / total for name in streams}, "given"
    if not fuse.search_on:
        recorder.say(
            "note: equal weights, since neither fuse.weights nor fuse.search_on says others"
        )
        return dict.fromkeys(streams, 1 / len(streams)), "equal"
    on = open_streams({name: fuse.search_on[name] for name in streams}, folder.runs)
    _require_other_videos(streams, on)
    tried = search(on, fuse.search_steps)
    best = tried[0][0]
    videos = len(next(iter(on.values())).answers.videos)
    if len(streams) == 2:
        name = next(iter(streams))
        curve = sorted(tried, key=lambda row: row[0][name])
        scores = {key: [row[1][key] for row in curve] for key in ("top1", "top5")}
        picture = figures.weight_curve(
            name,
            [row[0][name] for row in curve],
            scores,
            best[name],
            where=f"{videos} videos of fuse.search_on",
        )
        folder.write_bytes(folder.figures / "weights.png", picture)
    return (
        best,
        f"best of {len(tried)} on {videos} videos of fuse.search_on, top-1 {tried[0][1]['top1']:.4f} there",
    )


def _require_other_videos(streams: Mapping[str, Stream], on: Mapping[str, Stream]) -> None:
    scored, searched = next(iter(streams.values())).answers, next(iter(on.values())).answers
    shared = sorted(set(scored.videos) & set(searched.videos))
    if shared:
        message = f"fuse.search_on has {len(shared)} of the videos that are fused, as {shared[0]}: the result would be too good"
        raise DataError(
            message, hint="search on evaluations of the validation split (eval.split: val)"
        )


def _write(
    config: Config,
    folder: RunFolder,
    answers: Answers,
    *,
    streams: Mapping[str, Stream],
    weights: Weights,
    how: str,
) -> dict[str, Any]:
    """predictions/ as of an evaluation; returns what metrics.json has."""
    answers.write(folder, config.eval.labels)
    decided = ranking.order(answers.scores, 1)[:, 0]
    counts = ranking.confusion(decided, answers.labels, len(answers.classes))
    class_files.write(folder, answers.classes, counts, None)
    folder.write_bytes(folder.figures / "confusion.png", figures.confusion(answers.classes, counts))
    each = {
        name: ranking.one_label(stream.answers.scores, stream.answers.targets)
        for name, stream in streams.items()
    }
    report: dict[str, Any] = {
        "videos": len(answers.videos), "missing": list(answers.missing), "weights": weights, "weights_from": how,
        **ranking.one_label(answers.scores, answers.targets), **answers.hits(config.eval.labels),
        "streams": {name: {"from": str(streams[name].place), **scores} for name, scores in each.items()},
    }  # fmt: skip
    folder.write_text(folder.predictions / METRICS, json.dumps(report, indent=1) + "\n")
    return report


def _row(name: str, scores: Mapping[str, Any]) -> tuple[str, ...]:
    mean = (scores["top1"] + scores["top5"]) / 2
    cells = [
        scores.get("clip_top1"),
        scores.get("clip_top3"),
        scores["top1"],
        scores["top5"],
        mean,
        scores["map"],
    ]
    return name, *("" if cell is None else f"{100 * cell:.2f}" for cell in cells)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()
