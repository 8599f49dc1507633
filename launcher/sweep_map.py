"""A heat map of two keys that vary and one metric, as a scene of `drawing`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.drawing import Box, Label, Scene, Shape, Stroke
from launcher.errors import UserError, did_you_mean
from launcher.sweep import shown_value
from launcher.sweep_view import SweepView, TrialView, in_order, lower_is_better

MOST = 40  # values of an axis
_NARROWEST, _LOW = 46.0, 30.0  # px of a cell across and down
_MARGIN, _TOP, _RIGHT, _BOTTOM = 24.0, 84.0, 110.0, 64.0
_FAINT = 0.06  # opacity of the worst cell
_DARK = 0.68  # from here on the number is written in the paper's colour
_CHARACTER, _BOLD = 0.56, 0.62  # mean width of a character, in font sizes
_LONGEST = 22  # characters of a value beside the map


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Values of both axes, of each pair the trial that is shown (None where none of its trials has the metric), and where cells are."""

    across: list[Any]
    down: list[Any]
    shown: Mapping[tuple[str, str], TrialView | None]
    left: float  # px
    wide: float

    @property
    def right(self) -> float:
        return self.left + self.wide * len(self.across)

    @property
    def bottom(self) -> float:
        return _TOP + _LOW * len(self.down)

    def corner(self, column: int, row: int) -> tuple[float, float]:
        """The upper left one."""
        return self.left + self.wide * column, _TOP + _LOW * row


def heat_map(view: SweepView, metric: str, axes: tuple[str, str]) -> Scene:
    """Cells with the metric's value, the best one framed; of several trials in a cell the best is shown."""
    cells = _cells(view, metric, axes)
    ranked = view.ranked(metric)
    if not ranked:
        raise UserError(
            f"no trial has a value of {metric} yet",
            hint=f"known: {', '.join(view.metrics) or 'nothing yet'}",
        )
    shown = [
        value
        for trial in cells.shown.values()
        if trial and (value := trial.score(metric)) is not None
    ]
    ordered = sorted(shown, reverse=lower_is_better(metric))
    span = ordered[0], ordered[-1]
    title, subtitle = f"{metric} of {view.record.run}", _subtitle(view, metric, axes, ranked[0])
    shapes: list[Shape] = [
        Label(x=_MARGIN, y=30, text=title, size=15, bold=True),
        Label(x=_MARGIN, y=50, text=subtitle, size=12, ink="muted"),
        Label(x=cells.left - 12, y=_TOP - 10, text=axes[1], size=12, anchor="end", bold=True),
        Label(
            x=(cells.left + cells.right) / 2,
            y=cells.bottom + 42,
            text=axes[0],
            size=12,
            anchor="middle",
            bold=True,
        ),
        *_words(cells),
        *(shape for place in _places(cells) for shape in _cell(cells, place, metric, span)),
        *_frame(cells, ranked[0], axes),
        *_legend(cells, span),
    ]
    width = max(
        cells.right + _RIGHT,
        2 * _MARGIN + 15 * _BOLD * len(title),
        2 * _MARGIN + 12 * _CHARACTER * len(subtitle),
    )
    return Scene(
        width=round(width), height=round(cells.bottom + _BOTTOM), title=title, shapes=tuple(shapes)
    )


def choose_axes(view: SweepView, said: str | None) -> tuple[str, str]:
    """(across, down): as said, else the two keys that vary. UserError when that is not clear."""
    if said is not None:
        names = tuple(name.strip() for name in said.split(","))
        if len(names) != 2 or names[0] == names[1]:
            raise UserError(
                f'--axes is "{said}"', hint="two keys: --axes model.apply_at,model.read_at"
            )
        for name in names:
            if name not in view.keys:
                raise UserError(
                    f'"{name}" does not vary in {view.record.run}',
                    hint=did_you_mean(name, view.keys) or f"known: {', '.join(view.keys)}",
                )
        return names[0], names[1]
    varying = [
        key
        for key in view.keys
        if len({json.dumps(trial.changes.get(key)) for trial in view.trials}) > 1
    ]
    if len(varying) != 2:
        raise UserError(
            f"a heat map has two axes, and {len(varying)} keys vary: {', '.join(varying)}",
            hint=f"--axes {','.join((varying or list(view.keys))[:2])}"
            if len(view.keys) > 1
            else "`sweep results` gives them as CSV",
        )
    return varying[1], varying[0]


def _cells(view: SweepView, metric: str, axes: tuple[str, str]) -> _Cells:
    across, down = (in_order([trial.changes.get(axis) for trial in view.trials]) for axis in axes)
    for axis, values in zip(axes, (across, down), strict=True):
        if len(values) > MOST:
            raise UserError(
                f"{axis} has {len(values)} values; a heat map shows {MOST}",
                hint="--axes names other keys",
            )
    shown: dict[tuple[str, str], TrialView | None] = {
        _place(trial, axes): None for trial in view.trials
    }
    for trial in reversed(view.ranked(metric)):  # the best last
        shown[_place(trial, axes)] = trial
    left = max(
        90.0,
        12 * _CHARACTER * max(len(_word(value)) for value in down) + 36,
        12 * _BOLD * len(axes[1]) + 36,
    )
    wide = max(_NARROWEST, 12 * _CHARACTER * max(len(_word(value)) for value in across) + 12)
    return _Cells(across=across, down=down, shown=shown, left=left, wide=wide)


def _place(trial: TrialView, axes: tuple[str, str]) -> tuple[str, str]:
    return json.dumps(trial.changes.get(axes[0])), json.dumps(trial.changes.get(axes[1]))


def _places(cells: _Cells) -> Iterator[tuple[int, int]]:
    """Column and row of every cell that has a trial."""
    for row, low in enumerate(cells.down):
        for column, high in enumerate(cells.across):
            if (json.dumps(high), json.dumps(low)) in cells.shown:
                yield column, row


def _words(cells: _Cells) -> Iterator[Label]:
    """The values beside the rows and below the columns."""
    for row, value in enumerate(cells.down):
        yield Label(
            x=cells.left - 12,
            y=cells.corner(0, row)[1] + _LOW / 2 + 4,
            text=_word(value),
            anchor="end",
            ink="muted",
        )
    for column, value in enumerate(cells.across):
        yield Label(
            x=cells.corner(column, 0)[0] + cells.wide / 2,
            y=cells.bottom + 20,
            text=_word(value),
            anchor="middle",
            ink="muted",
        )


def _cell(
    cells: _Cells, place: tuple[int, int], metric: str, span: tuple[float, float]
) -> tuple[Shape, Shape]:
    """A coloured box with its number; a dash where the trial has none."""
    x, y = cells.corner(*place)
    trial = cells.shown[json.dumps(cells.across[place[0]]), json.dumps(cells.down[place[1]])]
    value = trial.score(metric) if trial else None
    share = _share(value, span) if value is not None else 0.0
    ink, opacity = ("grid", 0.5) if value is None else ("series0", _FAINT + (1 - _FAINT) * share)
    word = "muted" if value is None else "paper" if share > _DARK else "ink"
    box = Box(x=x + 1, y=y + 1, width=cells.wide - 2, height=_LOW - 2, ink=ink, opacity=opacity)
    text = "-" if value is None else _figure(value)
    return box, Label(
        x=x + cells.wide / 2, y=y + _LOW / 2 + 4, text=text, size=11, anchor="middle", ink=word
    )


def _share(value: float, span: tuple[float, float]) -> float:
    """0 for the worst, 1 for the best."""
    return (value - span[0]) / (span[1] - span[0]) if span[1] != span[0] else 1.0


def _frame(cells: _Cells, best: TrialView, axes: tuple[str, str]) -> Iterator[Stroke]:
    x, y = cells.corner(
        cells.across.index(best.changes.get(axes[0])), cells.down.index(best.changes.get(axes[1]))
    )
    corners = ((x, y), (x + cells.wide, y), (x + cells.wide, y + _LOW), (x, y + _LOW), (x, y))
    yield Stroke(points=corners, ink="best", width=2)


def _legend(cells: _Cells, span: tuple[float, float]) -> Iterator[Shape]:
    """A bar from the worst (below) to the best (above)."""
    x, height, steps = cells.right + 24, min(150.0, cells.bottom - _TOP), 40
    for step in range(steps):
        opacity = _FAINT + (1 - _FAINT) * (1 - step / (steps - 1))
        yield Box(
            x=x,
            y=_TOP + height * step / steps,
            width=14,
            height=height / steps + 0.5,
            ink="series0",
            opacity=opacity,
        )
    if len(cells.down) > 1:
        yield Label(x=x + 22, y=_TOP + height, text=_figure(span[0]), size=11, ink="muted")
    yield Label(x=x + 22, y=_TOP + 9, text=_figure(span[1]), size=11, ink="muted")


def _subtitle(view: SweepView, metric: str, axes: tuple[str, str], best: TrialView) -> str:
    value = best.score(metric)
    others: Sequence[str] = [key for key in view.keys if key not in axes]
    crossed = f"; of the trials in a cell ({', '.join(others)} vary) the best" if others else ""
    scored = len(view.ranked(metric))
    return f"best {_figure(value or 0.0)} in trial {best.number}; {scored} of {len(view.trials)} trials have it{crossed}"


def _figure(value: float) -> str:
    """Three decimals, or three digits of what is large or tiny."""
    return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 100 else f"{value:.3g}"


def _word(value: Any) -> str:
    text = "(the conf's)" if value is None else shown_value(value)
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"
