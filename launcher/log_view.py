"""How log lines are shown: as text, JSON, parsed records or a plot. It reads nothing and knows no backend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher import output
from launcher.backend_base import LogLine
from launcher.errors import UserError
from launcher.losses import LossReader, LossRecord, Value, latest
from launcher.wanted import Wanted
from launcher.whole_file import write_whole


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Which lines, and how they are shown."""

    grep: tuple[re.Pattern[str], ...] = ()
    follow: bool = False
    since_s: int | None = None
    tail: int | None = None
    all_pods: bool = False
    index: int | None = None  # only pods of this trial
    timestamps: bool = False
    parse: bool = False
    classic: bool = False  # with parse: the bare two forms that old notebooks read
    as_json: bool = False
    plot: Path | None = None
    silent: bool = False  # only the plot is wanted


@dataclass
class LogView:
    """Shows lines one by one as they come, and at the end what needs all of them: the plot, and parsed records without repeats."""

    options: LogOptions
    title: str
    reader: LossReader = field(default_factory=LossReader)
    records: list[LossRecord] = field(default_factory=list)
    shown: int = 0
    _pod: str | None = None
    _times: dict[int, str] = field(default_factory=dict)  # of the records, by line

    def feed(self, line: LogLine) -> None:
        """The next line, or a mark where lines were lost."""
        self._note_pod(line)
        self.reader.lines += line.skipped
        if line.kind == "skipped":
            output.flush()
            return
        if line.kind == "gap":
            self._gap(line)
            return
        if line.lines > 1:
            self.reader.lines += line.lines
            self.shown += line.lines
            output.result(line.text)
            return
        record = self._read(line)
        if self.options.grep and not any(
            pattern.search(line.text) for pattern in self.options.grep
        ):
            return
        if record is not None:
            self._record(record, line)
        if line.kind == "truncated":
            output.note("the next line is not whole")
        if not self.options.parse and not self.options.silent:
            self._text(line)

    @property
    def wanted(self) -> Wanted | None:
        """Which lines must come; None: all, one by one. Losses need the headings between them, too."""
        bare = not (self.options.as_json or self.options.timestamps or self.options.all_pods)
        return None if self._records_wanted else Wanted(self.options.grep, joined=bare)

    @property
    def _records_wanted(self) -> bool:
        return self.options.parse or self.options.plot is not None

    def finish(self) -> None:
        """What is left to show when no line comes any more."""
        records = latest(self.records)
        if self.options.parse and not self.options.follow:
            for record in records:
                self._show(record)
            again = len(self.records) - len(records)
            if again:
                output.note(f"{again} records of steps that a resumed run did again are left out")
        self._note_cut()
        if not self.shown and self.reader.lines and not self.options.silent:
            output.note(f"no line matched; {_lines(self.reader.lines)}")
        if self.options.plot is not None:
            self._plot(self.options.plot, records)

    def _note_pod(self, line: LogLine) -> None:
        if line.pod and line.pod != self._pod:
            if self._pod is not None and not self.options.all_pods:
                output.note(f"now from pod {line.pod}")
            self._pod = line.pod

    def _read(self, line: LogLine) -> LossRecord | None:
        # of a truncated line a part is lost: what it says cannot be known
        if line.kind == "truncated" or not self._records_wanted:
            self.reader.lines += 1
            return None
        return self.reader.feed(line.text, pod=line.pod, complete=line.terminated)

    def _gap(self, line: LogLine) -> None:
        output.warn(f"lines may be missing here: {line.text}")
        if self.options.as_json and not self.options.parse:
            output.json_line(line_document(line))

    def _record(self, record: LossRecord, line: LogLine) -> None:
        if self.options.parse or self.options.plot is not None:
            self.records.append(record)
            self._times |= {record.line: line.time} if self.options.timestamps else {}
        if self.options.parse and self.options.follow:
            self._show(record)

    def _show(self, record: LossRecord) -> None:
        time = self._times.get(record.line, "")
        if self.options.classic:
            text = _classic(record)
            if text is None:
                return
            output.result(text)
        elif self.options.as_json:
            output.json_line(record.as_json() | ({"time": time} if time else {}))
        else:
            output.result(self._prefix(record.pod, time) + _aligned(record))
        self.shown += 1

    def _text(self, line: LogLine) -> None:
        self.shown += 1
        if self.options.as_json:
            output.json_line(line_document(line))
            return
        container = "" if line.container == "trainer" else f"{line.container}: "
        output.result(f"{self._prefix(line.pod, line.time)}{container}{line.text}", more=line.more)

    def _prefix(self, pod: str, time: str) -> str:
        who = f"[{pod}] " if pod and self.options.all_pods else ""
        when = f"{time} " if time and self.options.timestamps else ""
        return who + when

    def _note_cut(self) -> None:
        if not (self.options.parse or self.options.plot):
            return
        if self.reader.cut_line is not None:
            output.note(
                f"line {self.reader.cut_line} has no newline and may be cut in the middle: left out"
            )
        for record in self.records[-1:]:
            if record.cut:
                output.note(
                    f"line {record.line} has no newline: its last word may be cut and is left out"
                )

    def _plot(self, path: Path, records: Sequence[LossRecord]) -> None:
        from launcher.charts import records_chart  # only where one is wanted
        from launcher.drawing import to_png, to_svg

        scene = records_chart(records, title=self.title)
        if scene is None:
            raise UserError(
                f"{path} was not written: no line with a loss or f1; {_lines(self.reader.lines)}"
            )
        write_whole(
            path, to_png(scene) if path.suffix.lower() == ".png" else to_svg(scene).encode()
        )
        count = {
            phase: sum(record.phase == phase for record in records)
            for phase in ("train", "val", "test")
        }
        output.note(
            f"wrote {path}: "
            + ", ".join(f"{number} {phase}" for phase, number in count.items() if number)
            + " records"
        )


def line_document(line: LogLine) -> dict[str, str]:
    """The stable schema of `vidjobs logs --json`."""
    return {"time": line.time, "pod": line.pod, "text": line.text, "kind": line.kind}


def _lines(count: int) -> str:
    return "1 line was read" if count == 1 else f"{count} lines were read"


def _classic(record: LossRecord) -> str | None:
    """`train Loss: 0.0710` and `val  Loss: 0.0499 `, spaces as the old notebooks split them; None for every other record."""
    if record.loss is None or record.phase not in ("train", "val"):
        return None
    number = _number(record.loss)
    return f"train Loss: {number}" if record.phase == "train" else f"val  Loss: {number} "


def _aligned(record: LossRecord) -> str:
    """One record for people: `train  0.0710  epoch=3   step=120     lr=0.0015`."""
    loss = "-" if record.loss is None else _number(record.loss)
    epoch, step = (
        f"{key}={record.values[key]}" if key in record.values else "" for key in ("epoch", "step")
    )
    rest = " ".join(
        f"{key}={_short(value)}"
        for key, value in record.values.items()
        if key not in ("epoch", "step")
    )
    return f"{record.phase:<5}  {loss:>9}  {epoch:<9}  {step:<12}  {rest}".rstrip()


def _number(value: float) -> str:
    """Four decimals, as the trainers print; more digits where four would show nothing of a small number."""
    return f"{value:.3e}" if value and abs(value) < 0.001 else f"{value:.4f}"


def _short(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
