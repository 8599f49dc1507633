"""Loss and score curves and bars, laid out as scenes of `drawing`. No numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launcher.drawing import Box, Dot, Label, Point, Scene, Shape, Stroke
from launcher.losses import LossRecord, best_val, epoch_losses, step_axis

_LEFT, _RIGHT, _BOTTOM = 58, 22, 44  # px around the plotting area
# of videos with several labels, and of videos with one; the first of each is what checkpoints are
# compared by
SCORES = (
    ("f1_macro", "f1_micro", "f1_samples", "accuracy"),
    ("top1", "top5", "clip_top1", "mean_class_accuracy", "map"),
)
_LARGEST, _LEAST = 1e100, 1e-100  # of what can be told apart in a drawing
_CHARACTER = 0.56  # mean width of a character, in font sizes


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve, in data units. Points that are not finite leave a gap."""

    name: str
    points: tuple[Point, ...]
    ink: str
    kind: str = "line"  # "line" | "faint" | "dashed"
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point with a word beside it."""

    point: Point
    text: str
    ink: str = "best"
    below: bool = False


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The plotting area: data units to px."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float

    def place(self, point: Point) -> Point:
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (
            self.bottom - self.top
        )


def loss_chart(records: Sequence[LossRecord], *, title: str) -> Scene | None:
    """Train losses (each faint, epoch means strong) and val losses with the best one marked; None when there is neither."""
    placed = step_axis(records)
    if not placed:
        return None
    steps = tuple((x, record.loss or 0.0) for x, record in placed if record.phase == "train")
    epochs = epoch_losses(records)
    means = tuple((epoch.position, epoch.train) for epoch in epochs if epoch.train is not None)
    vals = tuple((epoch.position, epoch.val) for epoch in epochs if epoch.val is not None)
    series = [
        Series(
            name="train, each line" if means else "train",
            points=steps,
            ink="train",
            kind="faint" if means else "line",
        ),
        Series(name="train, epoch mean", points=means, ink="train", dots=len(means) <= 40),
        Series(name="val", points=vals, ink="val", dots=len(vals) <= 40),
    ]
    best = best_val(epochs)
    marks = (
        [
            Mark(
                point=(best.position, best.val),
                text=f"best val {best.val:.4f}, epoch {best.epoch}",
                below=True,
            )
        ]
        if best and best.val
        else []
    )
    return line_chart(series, title=title, x_label=_x_label(records), y_label="loss", marks=marks)


def score_chart(records: Sequence[LossRecord], *, title: str) -> Scene | None:
    """The scores of tested checkpoints over their epoch or step, the best f1_macro or top1 marked; None when no record has one."""
    tested = [record for record in records if record.phase in ("test", "eval")]
    names = next(
        (names for names in SCORES if any(names[0] in record.values for record in tested)),
        SCORES[0],
    )
    tested = [record for record in tested if names[0] in record.values]
    by_step = bool(tested) and all(
        record.step is not None and record.epoch is None for record in tested
    )
    known = all(record.epoch is not None for record in tested)
    rows: dict[float, LossRecord] = {}
    for place, record in enumerate(tested):
        rows[float((record.step if by_step else record.epoch if known else place) or 0)] = record
    series = [_score_series(name, index, rows) for index, name in enumerate(names)]
    leading = _finite(series[0].points)
    if not leading:
        return None
    best = max(leading, key=lambda point: point[1])
    unit = "step" if by_step else "epoch" if known else "line"
    mark = Mark(point=best, text=f"best {names[0]} {best[1]:.4f}, {unit} {best[0]:g}")
    return line_chart(series, title=title, x_label=unit, y_label="score", marks=[mark])


def compare_chart(runs: Sequence[tuple[str, Sequence[LossRecord]]], *, title: str) -> Scene | None:
    """Several runs in one frame: val losses strong, train epoch means dashed, one colour a run; None when fewer than two have losses."""
    series: list[Series] = []
    for index, (name, records) in enumerate(runs):
        ink = f"series{index % 8}"
        epochs = epoch_losses(records)
        means = tuple((epoch.position, epoch.train) for epoch in epochs if epoch.train is not None)
        vals = tuple((epoch.position, epoch.val) for epoch in epochs if epoch.val is not None)
        series.append(Series(name=f"{name} val", points=vals, ink=ink, dots=len(vals) <= 40))
        series.append(Series(name=f"{name} train", points=means, ink=ink, kind="dashed"))
    if (
        sum(
            bool(val.points or train.points)
            for val, train in zip(series[::2], series[1::2], strict=True)
        )
        < 2
    ):
        return None
    everything = [record for _, records in runs for record in records]
    return line_chart(series, title=title, x_label=_x_label(everything), y_label="loss", height=460)


def records_chart(records: Sequence[LossRecord], *, title: str) -> Scene | None:
    """What a log is about: its losses, or the scores of tested checkpoints when it has no train or val line."""
    return loss_chart(records, title=title) or score_chart(records, title=title)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    width: int = 800,
    height: int = 420,
) -> Scene:
    """Curves over two linear axes with round ticks, and a legend under the title."""
    drawn = [one for one in series if _finite(one.points)]
    legend, top = _legend(drawn, width)
    points = [point for one in drawn for point in _finite(one.points)]
    # steps and epochs are whole
    x_ticks = [
        tick for tick in ticks(*_span([x for x, _ in points], pad=0.0), 8) if tick == int(tick)
    ]
    y_ticks = ticks(*_span([y for _, y in points], pad=0.05), 6)
    across = _span([x for x, _ in points], pad=0.0)
    up = (
        (min(y_ticks[0], min(y for _, y in points)), max(y_ticks[-1], max(y for _, y in points)))
        if points
        else (0.0, 1.0)
    )
    frame = _Frame(
        x=across, y=up, left=_LEFT, right=width - _RIGHT, top=top + 26, bottom=height - _BOTTOM
    )
    shapes: list[Shape] = [
        Label(x=_LEFT, y=26, text=_shorten(title, width - _LEFT - _RIGHT, 15), size=15, bold=True),
        *legend,
    ]
    shapes += _axes(frame, x_ticks, y_ticks, x_label=x_label, y_label=y_label)
    for one in drawn:
        shapes += _curve(one, frame)
    for mark in marks:
        shapes += _mark(mark, frame) if _drawable(mark.point) else []
    return Scene(width=width, height=height, title=title, shapes=tuple(shapes))


def bar_chart(
    rows: Sequence[tuple[str, float, str]], *, title: str, width: int = 800, limit: float = 1.0
) -> Scene:
    """One horizontal bar a row of (name, value, note); `limit` is the full length."""
    pitch, top, left = 20, 48, 210
    room = width - left - 130
    shapes: list[Shape] = [
        Label(x=16, y=26, text=_shorten(title, width - 32, 15), size=15, bold=True)
    ]
    for index, (name, value, note) in enumerate(rows):
        y = top + index * pitch
        share = min(max(value / limit, 0.0), 1.0) if math.isfinite(value) else 0.0
        shapes += [
            Label(x=left - 8, y=y + 11, text=_shorten(name, left - 20, 12), anchor="end"),
            Box(x=left, y=y, width=room, height=14, ink="grid", opacity=0.6),
            Box(x=left, y=y, width=room * share, height=14, ink="val", opacity=0.85),
            Label(x=left + room + 8, y=y + 11, text=note, ink="muted"),
        ]
    return Scene(
        width=width, height=top + len(rows) * pitch + 16, title=title, shapes=tuple(shapes)
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) that cover low..high:  ticks(0, 0.64, 6) -> 0, 0.2, 0.4, 0.6, 0.8."""
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * 1.0001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [
        round(index * step, 12) if abs(step) > 1e-9 else index * step
        for index in range(first, last + 1)
    ]


def thin(points: Sequence[Point], columns: int) -> list[Point]:
    """At most four points a column (first, lowest, highest, last), so that 64,000 steps draw as fast as 800 and no spike is lost."""
    if len(points) <= 4 * columns:
        return list(points)
    low, high = points[0][0], points[-1][0]
    width = (high - low) / columns or 1.0
    groups: dict[int, list[Point]] = {}
    for point in points:
        groups.setdefault(int((point[0] - low) / width), []).append(point)
    kept: list[Point] = []
    for group in groups.values():
        chosen = {
            group[0],
            min(group, key=lambda point: point[1]),
            max(group, key=lambda point: point[1]),
            group[-1],
        }
        kept += sorted(chosen)
    return kept


def _score_series(name: str, index: int, rows: dict[float, LossRecord]) -> Series:
    points = tuple(
        (x, float(value))
        for x, record in sorted(rows.items())
        if isinstance(value := record.values.get(name), int | float)
    )
    return Series(name=name, points=points, ink=f"series{index}", dots=len(points) <= 40)


def _x_label(records: Iterable[LossRecord]) -> str:
    placed = [record for _, record in step_axis(records)]
    if all(record.step is not None for record in placed):
        return "step"
    return (
        "train line of the log"
        if any(record.phase == "train" for record in placed)
        else "val line of the log"
    )


def _finite(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if _drawable(point)]


def _drawable(point: Point) -> bool:
    """Finite, and so far from the largest float that differences stay finite too."""
    return abs(point[0]) < _LARGEST and abs(point[1]) < _LARGEST


def _span(values: Sequence[float], *, pad: float) -> tuple[float, float]:
    """The range to show; from zero when the values come near it, never empty."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if pad and 0 <= low < 0.4 * high and high > _LEAST:
        return 0.0, high
    largest = max(abs(low), abs(high))
    if largest < _LEAST:
        return 0.0, 1.0
    room = (high - low) * pad if high - low > largest * 1e-9 else largest * 0.5
    return low - room, high + room


def _axes(
    frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], *, x_label: str, y_label: str
) -> list[Shape]:
    shapes: list[Shape] = [
        Label(x=frame.left - 8, y=frame.top - 12, text=y_label, ink="muted", anchor="end", size=12)
    ]
    for value in y_ticks:
        _, y = frame.place((frame.x[0], value))
        shapes.append(Stroke(points=((frame.left, y), (frame.right, y)), ink="grid"))
        shapes.append(
            Label(
                x=frame.left - 8,
                y=y + 4,
                text=_tick_text(value, y_ticks),
                ink="muted",
                anchor="end",
            )
        )
    for value in x_ticks:
        if frame.x[0] <= value <= frame.x[1]:
            x, _ = frame.place((value, frame.y[0]))
            shapes.append(Stroke(points=((x, frame.bottom), (x, frame.bottom + 4)), ink="axis"))
            shapes.append(
                Label(
                    x=x,
                    y=frame.bottom + 18,
                    text=_tick_text(value, x_ticks),
                    ink="muted",
                    anchor="middle",
                )
            )
    shapes.append(
        Stroke(points=((frame.left, frame.bottom), (frame.right, frame.bottom)), ink="axis")
    )
    middle = (frame.left + frame.right) / 2
    shapes.append(Label(x=middle, y=frame.bottom + 36, text=x_label, ink="muted", anchor="middle"))
    return shapes


def _tick_text(value: float, among: Sequence[float]) -> str:
    step = abs(among[1] - among[0]) if len(among) > 1 else abs(value) or 1.0
    if step >= 1000:
        return f"{value / 1000:g}k"
    if step < 1e-4:
        return f"{value:.1e}" if value else "0"
    return f"{value:.{max(0, -math.floor(math.log10(step * 1.0001)))}f}"


def _legend(series: Sequence[Series], width: int) -> tuple[list[Shape], float]:
    """The legend's shapes and the y below them."""
    shapes: list[Shape] = []
    x, y = float(_LEFT), 48.0
    for one in series:
        name = _shorten(one.name, 320, 12)
        needed = 26 + len(name) * 12 * _CHARACTER + 22
        if x > _LEFT and x + needed > width - _RIGHT:
            x, y = float(_LEFT), y + 18
        line = ((x, y - 4), (x + 18, y - 4))
        shapes.append(
            Stroke(
                points=line,
                ink=one.ink,
                width=2.2,
                opacity=_opacity(one),
                dashed=one.kind == "dashed",
            )
        )
        shapes.append(Label(x=x + 25, y=y, text=name, size=12))
        x += needed
    return shapes, y


def _opacity(one: Series) -> float:
    return 0.35 if one.kind == "faint" else 1.0


def _curve(one: Series, frame: _Frame) -> list[Shape]:
    width = 1.0 if one.kind == "faint" else 1.6 if one.kind == "dashed" else 2.2
    shapes: list[Shape] = []
    for piece in _pieces(one.points):
        placed = [frame.place(point) for point in thin(piece, int(frame.right - frame.left))]
        if len(placed) > 1:
            shapes.append(
                Stroke(
                    points=tuple(placed),
                    ink=one.ink,
                    width=width,
                    opacity=_opacity(one),
                    dashed=one.kind == "dashed",
                )
            )
        if one.dots or len(placed) == 1:
            shapes += [Dot(x=x, y=y, radius=2.6, ink=one.ink) for x, y in placed]
    return shapes


def _pieces(points: Sequence[Point]) -> list[list[Point]]:
    """Runs of finite points."""
    pieces: list[list[Point]] = [[]]
    for point in points:
        if _drawable(point):
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _mark(mark: Mark, frame: _Frame) -> list[Shape]:
    x, y = frame.place(mark.point)
    length = len(mark.text) * 12 * _CHARACTER
    after = x + 10 + length <= frame.right
    under = (mark.below and y + 30 < frame.bottom) or y - 26 < frame.top
    base = y + 22 if under else y - 12
    start = x + 4 if after else x - 4 - length
    halo = Box(x=start - 3, y=base - 12, width=length + 6, height=16, ink="paper", opacity=0.7)
    # the end of the text that stays in place whatever font a browser takes
    near = x + 4 if after else x - 4
    label = Label(
        x=near, y=base, text=mark.text, ink=mark.ink, anchor="start" if after else "end", bold=True
    )
    return [halo, Dot(x=x, y=y, radius=4.4, ink=mark.ink), label]


def _shorten(text: str, room: float, size: float) -> str:
    """`text`, or its two ends around an ellipsis when it is wider than `room` px."""
    fit = max(int(room / (size * _CHARACTER)), 5)
    if len(text) <= fit:
        return text
    return f"{text[: fit // 2]}…{text[-(fit - fit // 2 - 1) :]}"
