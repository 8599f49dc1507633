"""What `infer` answered, from predictions/infer.jsonl, as a report shows it: of each input its classes, and what each window said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_INPUTS = 300  # that a page shows
MOST_WINDOWS = 200  # of one input
_MOST_ROWS = 5000  # of all windows together


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of an input, in seconds, and its classes with their scores, the likeliest first."""

    since: float
    until: float
    top: tuple[tuple[str, float], ...]


@dataclass(kw_only=True)
class Answer:
    """One input. `top` is empty while it is not answered as a whole, as a webcam is not."""

    name: str
    top: tuple[tuple[str, float], ...] = ()
    seconds: float | None = None
    count: int = 0  # of windows
    windows: list[Window] = field(default_factory=list)  # the first of them
    error: str = ""


def read_answers(text: str, notes: list[str]) -> list[Answer]:
    """In the order of the file. What is left out is told in `notes`; lines that make no sense, as a killed run leaves one, are not."""
    found: dict[str, Answer] = {}
    rows = 0
    for row in _rows(text):
        answer = found.setdefault(str(row["input"]), Answer(name=str(row["input"])))
        top = _top(row.get("top"))
        if row["kind"] == "window":
            answer.count += 1
            if (
                len(answer.windows) < MOST_WINDOWS
                and rows < _MOST_ROWS
                and len(found) <= MOST_INPUTS
            ):
                rows += 1
                answer.windows.append(
                    Window(since=_number(row.get("from")), until=_number(row.get("to")), top=top)
                )
        elif row["kind"] == "video":
            answer.top, answer.seconds = top, _number(row.get("seconds"))
        elif row["kind"] == "error":
            answer.error = str(row.get("message", ""))
    answers = list(found.values())
    hidden = sum(answer.count - len(answer.windows) for answer in answers[:MOST_INPUTS])
    if hidden:
        notes.append(f"{hidden:,} windows are not shown: predictions/infer.jsonl has them")
    if len(answers) > MOST_INPUTS:
        notes.append(
            f"{len(answers) - MOST_INPUTS:,} inputs are not shown: predictions/infer.jsonl has them"
        )
    return answers[:MOST_INPUTS]


def common_folder(answers: Sequence[Answer]) -> str:
    """The folder that all inputs lie in, with its slash; "" when there is none, or one of them is a webcam or a stream."""
    folders = [answer.name.rpartition("/")[0].split("/") for answer in answers]
    shared = [words[0] for words in zip(*folders, strict=False)]
    for folder in folders:
        shared = shared[
            : next(
                (place for place, word in enumerate(shared) if folder[place] != word), len(shared)
            )
        ]
    return "/".join(shared) + "/" if any(shared) else ""


def _rows(text: str) -> Iterator[Mapping[str, Any]]:
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and "input" in row and isinstance(row.get("kind"), str):
            yield row


def _top(value: object) -> tuple[tuple[str, float], ...]:
    entries = value if isinstance(value, list) else []
    return tuple(
        (str(entry.get("label", "")), _number(entry.get("score")))
        for entry in entries
        if isinstance(entry, dict)
    )


def _number(value: object) -> float:
    """0 for what is none, or beyond what a page can show."""
    number = float(value) if isinstance(value, int | float) and abs(value) < 1e12 else 0.0
    return number if number == number else 0.0  # not for NaN
