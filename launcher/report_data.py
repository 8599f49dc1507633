"""What a report shows of one run, read from the run's folder: small files only, each up to a limit, whatever they hold."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from launcher.backend_base import Files, RemoteFile, RunStatus
from launcher.confusion_map import MOST, read_counts
from launcher.losses import LossRecord, Value, latest
from launcher.records import RunPaths, RunRecord
from launcher.report_answers import Answer, read_answers
from launcher.sweep_view import SweepView, in_folder, trials_of

TEXT_LIMIT = 64 * 2**20  # bytes of one text file; metrics.jsonl of 64,000 steps has 15 MB
PICTURE_LIMIT = 4 * 2**20  # bytes of one picture
PICTURES_LIMIT = 24 * 2**20  # bytes of all pictures of a run
_CONFUSION_LIMIT = 1 << 20  # bytes of confusion.npy
_PNG = b"\x89PNG\r\n\x1a\n"
_TABLES = {"f1_by_class.png", "class_accuracy.png"}  # the page has them as tables
# the page draws the curves itself, but for an eval, whose losses are of the run that trained
_LOSSES = "loss.png"


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of predictions/f1_by_class.csv, or of class_accuracy.csv where videos have one class each."""

    name: str
    train_count: int | None
    support: int
    tp: int
    fp: int
    fn: int
    tn: int
    precision: float
    recall: float
    f1: float
    accuracy: float | None = None
    confused_with: str = ""  # the class that it was most often taken for
    confused: int = 0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG, as a data URI."""

    name: str  # relative to figures/, without its suffix
    uri: str


@dataclass(kw_only=True)
class RunData:
    """Everything a page needs about one run; empty where the run has none."""

    record: RunRecord
    status: RunStatus
    records: list[LossRecord] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)  # predictions/metrics.json
    # predictions/test.json, one a checkpoint
    tests: list[dict[str, Any]] = field(default_factory=list)
    best_test: str = ""  # the checkpoint that the test prefers
    classes: list[ClassRow] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the classes, in the order of `confusion`
    # of videos with one class each: rows are what they are
    confusion: list[list[int]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # of `infer`
    manifest: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    conf: str = ""
    sweep: SweepView | None = None  # its trials
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, and why


def is_number(value: object) -> TypeGuard[int | float]:
    """False for true and false, which Python counts as ints."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def gather(record: RunRecord, status: RunStatus, files: Files, *, pictures: bool = True) -> RunData:
    """Read what there is. A file that cannot be understood becomes a note on the page, not an error."""
    data = RunData(record=record, status=status)
    reader = _Reader(files, data.notes)
    paths = RunPaths(root=PurePosixPath())
    data.records = _records(reader.text(str(paths.metrics)))
    data.scores = _mapping(reader.json(str(paths.predictions / "metrics.json")))
    tested = reader.json(str(paths.predictions / "test.json"))
    data.tests = _tests(tested)
    data.best_test = str(_mapping(tested).get("best", ""))
    for table in ("f1_by_class.csv", "class_accuracy.csv"):
        data.classes = data.classes or _classes(
            reader.text(str(paths.predictions / table)), table, data.notes
        )
    data.names = [str(name) for name in _list(reader.json(str(paths.predictions / "classes.json")))]
    if 0 < len(data.names) <= MOST:
        content = reader.content(str(paths.predictions / "confusion.npy"), _CONFUSION_LIMIT) or b""
        data.confusion = read_counts(content, len(data.names))
    data.answers = read_answers(reader.text(str(paths.predictions / "infer.jsonl")), data.notes)
    data.manifest = _mapping(reader.json(str(paths.manifest)))
    data.provenance = _mapping(
        reader.json(reader.first(f"trials/*/{paths.provenance}") or str(paths.provenance))
    )
    data.done = _mapping(reader.json(str(paths.done)))
    data.conf = reader.text(str(paths.conf)) or record.conf_text
    data.sweep = in_folder(record, status, files) if trials_of(record) else None
    trained = any(record.phase in ("train", "val") for record in data.records)
    if pictures:
        data.pictures = reader.pictures(
            paths.figures, without={*_TABLES, _LOSSES} if trained else _TABLES
        )
    return data


class _Reader:
    """Reads whole files of one folder within the limits."""

    def __init__(self, files: Files, notes: list[str]) -> None:
        self._files = files
        self._notes = notes
        self._entries: dict[str, RemoteFile] = {entry.path: entry for entry in files.list()}

    def text(self, path: str) -> str:
        return (self.content(path, TEXT_LIMIT) or b"").decode("utf-8", errors="replace")

    def first(self, pattern: str) -> str:
        """The first file whose path matches; "" when none does."""
        return min(
            (path for path in self._entries if PurePosixPath(path).match(pattern)), default=""
        )

    def json(self, path: str) -> Any:
        """None when there is no such file, or when it is no JSON."""
        text = self.text(path)
        try:
            return _parse(text) if text else None
        except (ValueError, RecursionError):
            self._notes.append(f"{path} is not JSON and is left out")
            return None

    def pictures(self, folder: PurePosixPath, *, without: Set[str]) -> list[Picture]:
        """The PNGs of figures/ and its contact sheets (figures/*/*.png), not the single frames further down."""
        found: list[Picture] = []
        room = PICTURES_LIMIT
        for path in sorted(self._entries):
            inside = PurePosixPath(path)
            if (
                not inside.is_relative_to(folder)
                or inside.suffix.lower() != ".png"
                or inside.name in without
            ):
                continue
            if len(inside.relative_to(folder).parts) > 2:
                continue
            content = self.content(path, min(PICTURE_LIMIT, room))
            if content is None or not content.startswith(_PNG):
                continue
            room -= len(content)
            name = str(inside.relative_to(folder).with_suffix(""))
            found.append(
                Picture(
                    name=name, uri="data:image/png;base64," + base64.b64encode(content).decode()
                )
            )
        return found

    def content(self, path: str, limit: int) -> bytes | None:
        entry = self._entries.get(path)
        if entry is None:
            return None
        if entry.size > limit:
            self._notes.append(
                f"{path} has {entry.size:,} bytes, more than the {limit:,} that are left for it, and is left out"
            )
            return None
        content = bytearray()
        while len(content) < entry.size:
            before = len(content)
            for block in self._files.read(path, before, entry.size - before):
                content += block
                if len(content) >= entry.size:
                    break
            if len(content) == before:
                break  # it became shorter meanwhile
        return bytes(content[: entry.size])


def _parse(text: str) -> Any:
    """JSON, with whole numbers beyond what a float holds exactly as floats (or inf): later arithmetic then cannot overflow."""
    return json.loads(
        text, parse_int=lambda digits: int(digits) if len(digits) < 16 else float(digits)
    )


def _records(text: str) -> list[LossRecord]:
    """The records of metrics.jsonl; a loss of null stands for one that was not finite."""
    found: list[LossRecord] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = _parse(line)
        except (ValueError, RecursionError):
            continue  # the end that a killed process left
        if not isinstance(entry, dict) or not isinstance(entry.get("phase"), str):
            continue
        loss = entry.get("loss")
        values: dict[str, Value] = {
            str(key): value
            for key, value in entry.items()
            if key not in ("phase", "loss", "time") and (is_number(value) or isinstance(value, str))
        }
        number_or_gap = float(loss) if is_number(loss) else math.nan
        found.append(
            LossRecord(phase=entry["phase"], loss=number_or_gap, values=values, line=number)
        )
    return latest(found)


def _tests(value: Any) -> list[dict[str, Any]]:
    """The rows of test.json: a list, or a list inside a mapping."""
    rows = (
        next((inner for inner in value.values() if isinstance(inner, list)), [])
        if isinstance(value, dict)
        else value
    )
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _classes(text: str, name: str, notes: list[str]) -> list[ClassRow]:
    try:
        return [_class_row(row) for row in csv.DictReader(io.StringIO(text))]
    except (KeyError, ValueError, TypeError, OverflowError, csv.Error) as error:
        notes.append(f"predictions/{name} cannot be read ({error}) and is left out")
        return []


def _class_row(row: Mapping[str, str]) -> ClassRow:
    train = row.get("train_count") or ""
    return ClassRow(
        name=row["class"],
        train_count=int(float(train)) if train else None,
        support=int(float(row["support"])),
        tp=int(float(row["tp"])),
        fp=int(float(row["fp"])),
        fn=int(float(row["fn"])),
        tn=int(float(row["tn"])),
        precision=_share(row["precision"]),
        recall=_share(row["recall"]),
        f1=_share(row["f1"]),
        accuracy=_share(row["accuracy"]) if "accuracy" in row else None,
        confused_with=row.get("confused_with") or "",
        confused=int(float(row.get("confused") or 0)),
    )


def _share(text: str) -> float:
    """0 for what is not a number, as scikit-learn's zero_division=0 does."""
    value = float(text or 0)
    return value if math.isfinite(value) else 0.0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
