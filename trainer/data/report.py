"""What `prepare` found in a dataset, clip by clip where something is wrong: as JSON, and in a few lines for people."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import DataConf
from trainer.data.cache import Entry, Index
from trainer.data.kept import Kept
from trainer.data.outputs import StepReport
from trainer.data.sampling import span_of
from trainer.data.stats import Stats
from trainer.run_folder import readable_size

SHOWN = 5  # names of each kind in the summary; the JSON has all


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split. Lists hold {"id", and what is wrong}."""

    clips: int  # in the annotation
    cached: int  # clips that can be read
    frames: int  # in the cache
    bytes: int
    classes: dict[str, int]  # class -> clips that show it
    fps: dict[str, int]  # as the containers say -> clips; "unknown" for folders of frames
    sizes: dict[str, int]  # "HxW" -> clips
    decoders: dict[str, int]
    broken: list[dict[str, str]]  # nothing could be read; left out of the cache
    repaired: list[dict[str, str]]  # missing frames repeat the last good one
    short: list[dict[str, str]]  # fewer frames than a clip has
    variable_rate: list[dict[str, str]]
    noted: list[dict[str, str]]  # nothing is wrong: resampled, other files in the folder
    longer: list[dict[str, str]]  # the file holds more frames than annotated; the rest is not used
    other_rate: list[dict[str, str]]  # not the dataset's frames per second


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """Everything that `prepare` has to say; `prepare.json` is `to_json`."""

    dataset: str
    root: str
    cache: str
    kept: str  # how frames are kept, for people
    size: int  # px
    frames: int  # in a clip
    seconds: float
    notes: list[str]  # of the dataset: splits that leak, lists that are not the official ones
    splits: dict[str, SplitReport]
    done: list[str] = field(default_factory=list)  # sorting and annotating, line by line
    steps: dict[str, StepReport] = field(default_factory=dict)  # videos, frames, flow
    stats: Stats | None = None  # of the training frames

    @property
    def broken(self) -> list[str]:
        """Ids of clips of which nothing could be read."""
        return [item["id"] for split in self.splits.values() for item in split.broken]

    def to_json(self) -> dict[str, Any]:
        """Plain containers."""
        return dataclasses.asdict(self)

    def summary(self) -> list[str]:
        """Lines for people."""
        made = [line for name, step in self.steps.items() for line in _step_lines(name, step)]
        told = [line for name, split in self.splits.items() for line in _lines(name, split)]
        measured = (
            [
                "of the training frames, for the data section of a conf:",
                *self.stats.snippet().splitlines(),
            ]
            if self.stats
            else []
        )
        return [
            *made,
            *told,
            *(f"note: {note}" for note in self.notes),
            *measured,
            f"cache: {self.cache}",
        ]


def make_report(
    indices: Mapping[str, Index],
    cache: Path,
    data: DataConf,
    *,
    notes: Sequence[str],
    seconds: float,
) -> PrepareReport:
    """The report of the caches of all splits."""
    splits = {name: _split_report(index, data) for name, index in indices.items()}
    return PrepareReport(
        dataset=data.name,
        root=data.root,
        cache=str(cache),
        kept=str(Kept.of(data)),
        size=data.size,
        frames=data.frames,
        seconds=round(seconds, 1),
        notes=list(notes),
        splits=splits,
    )


def _split_report(index: Index, data: DataConf) -> SplitReport:
    readable = [entry for entry in index.entries if entry.frames]
    fate = "left out" if data.short == "drop" else "its last frame is repeated"
    use = (
        "which of them are kept goes by these" if data.fps else "they are used one after the other"
    )
    labels = Counter(label for entry in readable for label in entry.labels)
    return SplitReport(
        clips=len(index.entries),
        cached=len(readable),
        frames=index.total,
        bytes=index.bytes,
        classes={name: labels[number] for number, name in enumerate(index.classes)},
        fps=_counts(f"{entry.fps:g}" if entry.fps else "unknown" for entry in readable),
        sizes=_counts(f"{entry.height}x{entry.width}" for entry in readable),
        decoders=_counts(entry.decoder for entry in readable),
        broken=[_item(entry, entry.fault) for entry in index.entries if not entry.frames],
        repaired=[_item(entry, entry.repaired) for entry in readable if entry.repaired],
        short=[
            _item(entry, f"{entry.frames} of {data.frames} frames; {fate}")
            for entry in readable
            if entry.frames < span_of(data.frames, data.stride)
        ],
        variable_rate=[
            _item(entry, f"its frames come at uneven times; {use}")
            for entry in readable
            if entry.variable_rate
        ],
        noted=[_item(entry, entry.note) for entry in readable if entry.note],
        longer=[
            _item(entry, f"{entry.longer} frames, {entry.annotated} annotated")
            for entry in readable
            if entry.longer
        ],
        other_rate=[
            _item(entry, f"{entry.fps:g} fps, not {index.fps:g}")
            for entry in readable
            if entry.fps and index.fps and abs(entry.fps - index.fps) > 0.5
        ],
    )


def _item(entry: Entry, problem: str) -> dict[str, str]:
    return {"id": entry.id, "problem": problem}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _lines(name: str, split: SplitReport) -> list[str]:
    lines = [
        f"{name}: {split.cached} of {split.clips} clips, {split.frames} frames, {readable_size(split.bytes)}"
    ]
    kinds = {
        "cannot be read": split.broken,
        "repaired": split.repaired,
        "shorter than a clip": split.short,
        "with a variable frame rate": split.variable_rate,
        "longer than annotated": split.longer,
        "to be noted": split.noted,
        "at another frame rate": split.other_rate,
    }
    return lines + [_named(name, kind, items) for kind, items in kinds.items() if items]


def _step_lines(name: str, step: StepReport) -> list[str]:
    there = step.videos - step.made - len(step.broken)
    lines = [
        f"{name}: {step.made} made and {there} there before, of {step.videos} videos, {step.frames} frames: {step.folder}"
    ]
    kinds = {"cannot be made": step.broken, "made of damaged files": step.damaged}
    return lines + [_named(name, kind, items) for kind, items in kinds.items() if items]


def _named(name: str, kind: str, items: list[dict[str, str]]) -> str:
    more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return (
        f"{name}: {len(items)} {kind}: "
        + "; ".join(f"{item['id']} ({item['problem']})" for item in items[:SHOWN])
        + more
    )
