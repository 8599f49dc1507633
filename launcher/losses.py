"""Log lines to loss records: the canonical form, the grammars of older trainers, and the f1 lines of test runs.

Pure. `parse_line` knows one line, `LossReader` adds what only its neighbours tell (`Epoch 3/50`), and
`latest` and `epoch_losses` make of many records what a chart or a report shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Value = int | float | str

_NUMBER = r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|nan|inf)"
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_ANY_NUMBER = re.compile(_NUMBER, re.IGNORECASE)
_END = r"(?=[\s,;)|]|$)"
_PREFIX = r"^\s*(?:\[[^\]\s]+\]\s+)?(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[-+][0-9:]+)\s+)?"
_PLAIN = re.compile(
    rf"{_PREFIX}(train|validation|val|test|eval)\s+"
    rf"(?:Loc Loss:\s*({_NUMBER})\s+Cls Loss:\s*({_NUMBER})\s+Tot )?Loss:\s*({_NUMBER}){_END}",
    re.IGNORECASE,
)
_PAIR = re.compile(r"([A-Za-z_][\w.@/-]*)=(\S+)")
_METERS = re.compile(rf"{_PREFIX}Epoch:\s*\[([0-9]+)\]\[([0-9]+)/([0-9]+)\]", re.IGNORECASE)
_METER = re.compile(rf"(?<![\w@])([a-z][\w@]*)\s+({_NUMBER})\s*\(({_NUMBER})\)", re.IGNORECASE)
_RATE = re.compile(rf"\blr:\s*({_NUMBER}){_END}", re.IGNORECASE)
_BRACKETS = re.compile(
    rf"^\s*\[(train|validation|val|test)\]\s+Epoch:\s*([0-9]+)/([0-9]+)\s+Loss:\s*({_NUMBER}){_END}(?:\s+Acc:\s*({_NUMBER}){_END})?",
    re.IGNORECASE,
)
_VMZ = re.compile(
    rf"\b(training|test) loss:\s*({_NUMBER}){_END}(?:,\s*accuracy:\s*({_NUMBER}){_END})?",
    re.IGNORECASE,
)
_VALIDATION = re.compile(
    rf"{_PREFIX}Validation @ ([0-9]+):(.*?)\bLoss\s+({_NUMBER}){_END}", re.IGNORECASE
)
_TOP = re.compile(rf"\bTop([0-9]+)\s+({_NUMBER}){_END}", re.IGNORECASE)
_SCORE = re.compile(
    rf"(?<!\w)(f1_macro|f1_micro|f1_samples|accuracy)\s*(?::\s*)?({_NUMBER}){_END}", re.IGNORECASE
)
_FIRST_SCORE = re.compile("f1_macro", re.IGNORECASE)
_CHECKPOINT_NAMED = re.compile(r"(epoch|step)[-_=]?([0-9]{1,12})(?![0-9])", re.IGNORECASE)
_CHECKPOINT_DIGITS = re.compile(r"([0-9]{6})\.(?:pt|pth|ckpt|mdl|pkl)(?:\.tar)?$", re.IGNORECASE)
_EPOCH_HEADING = re.compile(rf"{_PREFIX}Epoch\s+([0-9]{{1,9}})\s*/\s*[0-9]+\s*$")
_STEP_HEADING = re.compile(rf"{_PREFIX}Step\s+[0-9]+\s*/\s*[0-9]+\s*$")
_VMZ_HEADING = re.compile(r"Finished iteration [0-9]+/[0-9]+ of epoch ([0-9]{1,9})\b")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RESERVED = ("phase", "loss", "line", "pod")
_TRAINING = ("train", "val")
_PHASES = {"validation": "val", "training": "train"}


@dataclass(frozen=True, kw_only=True)
class LossRecord:
    """What one log line says. `loss` is None on a line that has only scores."""

    phase: str  # "train" | "val" | "test" | "eval"
    loss: float | None
    # epoch, step, lr, f1_macro, ... where the line has them
    values: Mapping[str, Value] = field(default_factory=dict)
    line: int = 0  # 1-based; 0 when it was not counted
    pod: str = ""
    cut: bool = False  # the line had no newline yet: its last word was left out

    @property
    def epoch(self) -> int | None:
        return _whole(self.values.get("epoch"))

    @property
    def step(self) -> int | None:
        """Optimizer steps since the start of the run."""
        return _whole(self.values.get("step"))

    def as_json(self) -> dict[str, Any]:
        """One flat object; JSON has no NaN, so such numbers are the strings "nan", "inf" and "-inf"."""
        first = {key: self.values[key] for key in ("epoch", "step") if key in self.values}
        place = {key: value for key, value in (("line", self.line), ("pod", self.pod)) if value}
        rest = {key: value for key, value in self.values.items() if key not in first}
        flat = {"phase": self.phase, "loss": self.loss, **first, **place, **rest}
        return {key: _json_number(value) for key, value in flat.items()}


def parse_line(text: str, *, complete: bool = True) -> LossRecord | None:
    """The record on one line, or None. Never raises.

    `complete=False` is for a line that ended without a newline: "train Loss: 0.0" may have been cut from
    0.0710, so its last word is not trusted, and the record, if one is left, is marked `cut`.
    """
    if not complete:
        record = parse_line(text[: len(text) - len(_last_word(text))])
        return replace(record, cut=True) if record and _last_word(text) else record
    folded = text.lower()
    if "loss" not in folded and "f1_macro" not in folded:
        return None
    plain = _COLOUR.sub("", text) if "\x1b" in text else text
    for piece in reversed(plain.split("\r")):  # a progress bar redraws its line with \r
        for grammar in _GRAMMARS:
            record = grammar(piece)
            if record is not None:
                return record
    return None


class LossReader:
    """Reads lines in order and gives bare lines the epoch that the last heading named."""

    def __init__(self) -> None:
        self.lines = 0  # read so far
        # a last line without newline whose number could not be trusted
        self.cut_line: int | None = None
        self._epoch: int | None = None
        self._pod = ""

    def feed(self, text: str, *, pod: str = "", complete: bool = True) -> LossRecord | None:
        """The record of the next line, with its line number and pod."""
        self.lines += 1
        if pod != self._pod:
            self._epoch, self._pod = None, pod  # another process, with headings of its own
        record = parse_line(text, complete=complete)
        if record is None:
            self._heading(text, complete=complete)
            return None
        values = dict(record.values)
        if self._epoch is not None and record.phase in _TRAINING and record.step is None:
            values.setdefault("epoch", self._epoch)
        return LossRecord(
            phase=record.phase,
            loss=record.loss,
            values=values,
            line=self.lines,
            pod=pod,
            cut=record.cut,
        )

    def _heading(self, text: str, *, complete: bool) -> None:
        if not complete:
            if text.strip():
                self.cut_line = self.lines
            return
        named = _EPOCH_HEADING.match(text) or _VMZ_HEADING.search(text)
        if named:
            self._epoch = int(named[1])
        elif _STEP_HEADING.match(text):
            # the I3D trainer prints one such heading an epoch, without a number for it
            self._epoch = 1 if self._epoch is None else self._epoch + 1


def parse_stream(
    lines: Iterable[str], *, pod: str = "", terminated: bool = True
) -> Iterator[LossRecord]:
    """The records among `lines` (without newlines); `terminated` says whether the last one had its newline."""
    reader = LossReader()
    waiting: str | None = None
    for text in lines:
        if waiting is not None and (record := reader.feed(waiting, pod=pod)):
            yield record
        waiting = text
    if waiting is not None and (record := reader.feed(waiting, pod=pod, complete=terminated)):
        yield record


def latest(records: Iterable[LossRecord]) -> list[LossRecord]:
    """Without what a resumed run wrote again: the last record per (phase, step) stays.

    When the steps of a phase go back, the run went on from a checkpoint, and train and val records beyond
    that point describe steps that were undone:  1 2 3 4 | 3 4 5  ->  1 2 3 4 5. Each trial of a sweep has steps of its own.
    """
    kept: list[LossRecord] = []
    newest: dict[object, int] = {}
    tested: dict[object, int] = {}  # what a test record is about -> its place in `kept`
    for record in records:
        step, whose = record.step, (record.phase, record.values.get("trial"))
        if record.phase not in _TRAINING:
            about = _about(record)
            if about is not None and about in tested:
                kept[tested[about]] = record
                continue
            tested[about] = len(kept)
        elif step is not None:
            if step <= newest.get(whose, -1):
                kept = [old for old in kept if not _undone(old, record, step)]
                tested = {
                    _about(old): place
                    for place, old in enumerate(kept)
                    if old.phase not in _TRAINING
                }
            newest[whose] = step
        kept.append(record)
    return kept


@dataclass(frozen=True, kw_only=True)
class EpochLoss:
    """One epoch: the mean of its train losses and the val loss that closed it."""

    epoch: int  # as the log numbers it, else counted from 1
    position: float  # its end on the axis of `step_axis`
    train: float | None
    val: float | None


def step_axis(records: Iterable[LossRecord]) -> list[tuple[float, LossRecord]]:
    """Train and val records with their place on the x axis: the step, or the count of train lines where steps are not known."""
    ours = [record for record in records if record.phase in _TRAINING and record.loss is not None]
    known = bool(ours) and all(record.step is not None for record in ours)
    placed: list[tuple[float, LossRecord]] = []
    count = 0
    has_train = any(record.phase == "train" for record in ours)
    for record in ours:
        count += record.phase == "train" or not has_train
        placed.append((float(record.step or 0) if known else float(count), record))
    return placed


def epoch_losses(records: Iterable[LossRecord]) -> list[EpochLoss]:
    """Epoch by epoch. An epoch ends at a val line, or where the log's epoch number changes; an unfinished last one is left out."""
    epochs: list[EpochLoss] = []
    buffer: list[tuple[float, LossRecord]] = []
    for position, record in step_axis(records):
        if buffer and record.epoch is not None and buffer[-1][1].epoch not in (None, record.epoch):
            epochs.append(_close(buffer, None, len(epochs)))
            buffer = []
        if record.phase == "train":
            buffer.append((position, record))
            continue
        if not buffer and epochs and record.epoch is not None and epochs[-1].epoch == record.epoch:
            # one more line of the same validation, whose average is the one that counts
            previous = epochs.pop()
            epochs.append(replace(previous, position=position, val=_average(record)))
        else:
            epochs.append(_close(buffer, (position, record), len(epochs)))
        buffer = []
    return epochs


def best_val(epochs: Iterable[EpochLoss]) -> EpochLoss | None:
    """The epoch with the smallest finite val loss, the first of equals."""
    finite = [epoch for epoch in epochs if epoch.val is not None and math.isfinite(epoch.val)]
    return min(finite, key=lambda epoch: epoch.val or 0.0, default=None)


def _close(
    buffer: list[tuple[float, LossRecord]], val: tuple[float, LossRecord] | None, done: int
) -> EpochLoss:
    losses = [record.loss for _, record in buffer if record.loss is not None]
    position, last = val or buffer[-1]
    epoch = last.epoch if last.epoch is not None else done + 1
    mean = sum(losses) / len(losses) if losses else None  # not finite when one of them is not
    return EpochLoss(
        epoch=epoch, position=position, train=mean, val=_average(last) if val else None
    )


def _average(record: LossRecord) -> float | None:
    mean = record.values.get("loss_avg", record.loss)
    return None if mean is None or isinstance(mean, str) else float(mean)


def _about(record: LossRecord) -> object:
    """Which checkpoint a test record is about; None when it does not say."""
    which = tuple(record.values.get(key) for key in ("epoch", "step", "checkpoint"))
    return (
        None
        if which == (None, None, None)
        else (record.phase, record.loss is None, which, record.values.get("trial"))
    )


def _undone(old: LossRecord, again: LossRecord, step: int) -> bool:
    if (
        old.step is None
        or old.phase not in _TRAINING
        or old.values.get("trial") != again.values.get("trial")
    ):
        return False
    return old.step >= step if old.phase == again.phase else old.step > step


def _plain(text: str) -> LossRecord | None:
    """`train Loss: 0.0710 epoch=3 ...`, `val  Loss: 0.0499 ` and `train Loc Loss: a Cls Loss: b Tot Loss: c`."""
    found = _PLAIN.match(text)
    if not found:
        return None
    phase, loc, cls, loss = found.groups()
    parts = {} if loc is None else {"loc_loss": float(loc), "cls_loss": float(cls)}
    pairs = {
        key: _typed(value)
        for key, value in _PAIR.findall(text[found.end() :])
        if key not in _RESERVED
    }
    return _record(phase, loss, {**parts, **pairs})


def _meters(text: str) -> LossRecord | None:
    """`Epoch: [3][20/400] Time v (a) Data v (a)Loss v (a) Prec@1 v (a)`; the average goes to `<name>_avg`."""
    found = _METERS.match(text)
    meters = (
        {name.lower(): (value, mean) for name, value, mean in _METER.findall(text, found.end())}
        if found
        else {}
    )
    if not found or "loss" not in meters:
        return None
    values: dict[str, Value] = {
        "epoch": _typed(found[1]),
        "batch": _typed(found[2]),
        "batches": _typed(found[3]),
    }
    rate = _RATE.search(text)
    if rate:
        values["lr"] = float(rate[1])
    loss, mean = meters.pop("loss")
    values["loss_avg"] = float(mean)
    for name, (value, mean) in meters.items():
        key = name.replace("prec@", "top")
        values |= {key: float(value), f"{key}_avg": float(mean)}
    # The compression trainer separates by tabs and prints `lr:` in training only.
    return _record("train" if rate or "\t" not in text else "val", loss, values)


def _brackets(text: str) -> LossRecord | None:
    """`[train] Epoch: 1/100 Loss: 2.31 Acc: 0.41`."""
    found = _BRACKETS.match(text)
    if not found:
        return None
    phase, epoch, epochs, loss, accuracy = found.groups()
    scores: dict[str, Value] = {} if accuracy is None else {"accuracy": float(accuracy)}
    return _record(phase, loss, {"epoch": _typed(epoch), "epochs": _typed(epochs), **scores})


def _validation(text: str) -> LossRecord | None:
    """`Validation @ 5000: Top1 45.20 Top3 66.01 Loss 2.345`."""
    found = _VALIDATION.match(text)
    if not found:
        return None
    return _record(
        "val",
        found[3],
        {
            "step": _typed(found[1]),
            **{f"top{k}": float(value) for k, value in _TOP.findall(found[2])},
        },
    )


def _vmz(text: str) -> LossRecord | None:
    """`Training loss: 5.1, accuracy: 0.03`."""
    found = _VMZ.search(text)
    if not found:
        return None
    return _record(found[1], found[2], {} if found[3] is None else {"accuracy": float(found[3])})


def _scores(text: str) -> LossRecord | None:
    """`<checkpoint> , f1_macro : a, f1_micro b, [f1_samples c,] Accuracy d` and `<checkpoint>: f1_macro a, f1_micro: b, accuracy: c`."""
    first = _FIRST_SCORE.search(text)
    name = text[: first.start()].rstrip() if first else ""
    if not first or not name.endswith((",", ":")):
        return None
    scores: dict[str, Value] = {
        key.lower(): float(value) for key, value in _SCORE.findall(text, first.start())
    }
    if "f1_macro" not in scores:
        return None
    name = name.rstrip(" \t,:").lstrip()
    return LossRecord(
        phase="test", loss=None, values={"checkpoint": name, **_checkpoint_number(name), **scores}
    )


_GRAMMARS = (_plain, _scores, _brackets, _meters, _validation, _vmz)


def _checkpoint_number(name: str) -> dict[str, Value]:
    """{"epoch": 12} of `epoch-000012.pt`; older names end in six digits, which are steps when they are whole hundreds.

    The I3D trainer saved every 100 steps, all the others once an epoch, for at most 50 epochs.
    """
    file = name.replace("\\", "/").rsplit("/", 1)[-1]
    named = _CHECKPOINT_NAMED.search(file)
    if named:
        return {named[1].lower(): int(named[2])}
    digits = _CHECKPOINT_DIGITS.search(file)
    if not digits:
        return {}
    number = int(digits[1])
    return {"step" if number >= 100 and number % 100 == 0 else "epoch": number}


def _record(phase: str, loss: str, values: Mapping[str, Value]) -> LossRecord:
    name = phase.lower()
    return LossRecord(phase=_PHASES.get(name, name), loss=float(loss), values=values)


def _typed(text: str) -> Value:
    """An int, a float or, when it is neither, the text. Python refuses ints of thousands of digits: those become floats."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _ANY_NUMBER.fullmatch(text) else text


def _whole(value: Value | None) -> int | None:
    return value if isinstance(value, int) else None


def _json_number(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _last_word(text: str) -> str:
    """The word that `text` ends with; empty when it ends with white space."""
    return re.split(r"\s", text)[-1]
