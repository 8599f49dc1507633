"""The pictures of `eval` and `fuse`: scores of each class, confusion, loss curves, a resizer's frames beside its inputs, fusion weights.

PNG bytes; matplotlib without a screen.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
BLUE, GREEN = "#3b6ea5", "#4a8a4a"
SHEET_COLUMNS = 8
GAP = 4  # px between the pictures of a sheet
MOST_BARS = 110  # classes in one picture of bars; of more, the best and the worst half
MOST_NAMES = 120  # classes that a confusion matrix names at its side
PAIRS = 25  # confusions that are told beside the matrix


def class_scores(
    names: Sequence[str],
    scores: NDArray[np.float64],
    support: NDArray[np.int64],
    *,
    what: str = "F1",
) -> bytes:
    """Bars of a score by class, best on top, with the number of clips (or videos) that show the class."""
    order = np.argsort(scores, kind="stable")
    shown = (
        order
        if len(order) <= MOST_BARS
        else np.concatenate([order[: MOST_BARS // 2], order[-(MOST_BARS // 2) :]])
    )
    figure = _figure(7.5, 1.2 + 0.26 * len(shown))
    axes = figure.subplots()
    places = np.arange(len(shown))
    axes.barh(places, scores[shown], color=BLUE)
    axes.set_yticks(
        places,
        [f"{_short(names[index])} ({support[index]})" for index in shown],
        fontsize=8,
        parse_math=False,
    )
    axes.set(
        xlim=(0, 1),
        ylim=(-0.7, len(shown) - 0.3),
        xlabel=f"{what} (how many there are of the class in brackets)",
    )
    left_out = (
        f"\n{len(order) - len(shown)} between the best and the worst not shown"
        if len(shown) < len(order)
        else ""
    )
    axes.set_title(
        f"{what} by class, mean {scores[support > 0].mean() if what != 'F1' else scores.mean():.3f}{left_out}",
        fontsize=11,
    )
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def confusion(names: Sequence[str], counts_CC: NDArray[np.int64]) -> bytes:
    """Share of each class (row) that was answered with each class (column), and the most frequent confusions in words.

    With more than MOST_NAMES classes the axes count them instead of naming them.
    """
    classes = len(names)
    side = min(max(4.0, 0.115 * classes), 14.0)  # inches
    figure = _figure(side + 5.5, side + 1.2)
    axes, words = figure.subplots(1, 2, width_ratios=[side, 4.5])
    totals = counts_CC.sum(axis=1, keepdims=True)
    shares = np.divide(counts_CC, totals, out=np.zeros(counts_CC.shape), where=totals > 0)
    # the root, so that rare confusions are seen
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if classes <= MOST_NAMES:
        size = min(8.0, max(4.5, 0.6 * 72 * side / classes))
        axes.set_xticks(
            np.arange(classes),
            [_short(name) for name in names],
            rotation=90,
            fontsize=size,
            parse_math=False,
        )
        axes.set_yticks(
            np.arange(classes), [_short(name) for name in names], fontsize=size, parse_math=False
        )
    unit = "" if classes <= MOST_NAMES else ", by its place in classes.json"
    axes.set(xlabel=f"answered{unit}", ylabel=f"true class{unit}")
    axes.set_title(
        f"{np.trace(counts_CC)} of {counts_CC.sum()} right\nshade: root of the share of a true class",
        fontsize=10,
    )
    words.axis("off")
    words.set_title("most frequent confusions", fontsize=10, loc="left")
    words.text(
        0,
        0.99,
        "\n".join(_confusions(names, counts_CC)),
        fontsize=8,
        va="top",
        linespacing=1.5,
        transform=words.transAxes,
        parse_math=False,
    )
    return _png(figure)


def weight_curve(
    name: str,
    weights: Sequence[float],
    scores: Mapping[str, Sequence[float]],
    chosen: float,
    *,
    where: str,
) -> bytes:
    """Scores of two streams together over the weight of the first, `name`; `where`: the videos on which they were scored."""
    figure = _figure(7.5, 4)
    axes = figure.subplots()
    for (metric, values), colour in zip(scores.items(), (BLUE, GREEN, "#b5651d"), strict=False):
        axes.plot(weights, values, color=colour, marker="o", markersize=3, label=metric)
    axes.axvline(chosen, color="#888888", linestyle="--", linewidth=1, label=f"used: {chosen:.3g}")
    axes.set(xlabel=f"weight of {_short(name)}", ylabel="score", xlim=(-0.02, 1.02))
    axes.set_title(f"Late fusion, scored on {where}", fontsize=11, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def loss_curves(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Training loss of each step with its mean over each epoch, and the validation losses, from the records of metrics.jsonl."""
    figure = _figure(7.5, 4)
    axes = figure.subplots()
    train, val = _points(records, "train"), _points(records, "val")
    if train:
        steps, losses, epochs = (np.array(column) for column in zip(*train, strict=True))
        axes.plot(steps, losses, color=GREEN, alpha=0.35, linewidth=0.8, label="train, by step")
        means = [
            (steps[epochs == epoch].max(), losses[epochs == epoch].mean())
            for epoch in np.unique(epochs)
        ]
        axes.plot(
            *zip(*means, strict=True),
            color=GREEN,
            marker="o",
            markersize=3,
            label="train, mean of the epoch",
        )
    if val:
        steps, losses, _ = (np.array(column) for column in zip(*val, strict=True))
        axes.plot(steps, losses, color=BLUE, marker="o", markersize=3, label="val")
        low = int(losses.argmin())
        axes.annotate(
            f"{losses[low]:.4f}",
            (steps[low], losses[low]),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=8,
        )
    axes.set(xlabel="optimizer step", ylabel="loss", title="Loss")
    axes.grid(alpha=0.3)
    if train or val:
        axes.legend(fontsize=8)
    return _png(figure)


def frame_png(frame: Frame) -> bytes:
    """One frame as PNG."""
    from PIL import Image  # only eval draws frames

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="PNG")
    return buffer.getvalue()


def contact_sheet(inputs_THWC: NDArray[np.uint8], outputs_THWC: NDArray[np.uint8]) -> bytes:
    """Up to eight moments, left to right: above what the resizer was given (enlarged without smoothing), below what it made of it."""
    columns = min(SHEET_COLUMNS, len(outputs_THWC))
    side = outputs_THWC.shape[1]
    sheet = np.full((2 * side + GAP, columns * (side + GAP) - GAP, 3), 255, np.uint8)
    for column in range(columns):
        moment = 0 if columns == 1 else round(column * (len(outputs_THWC) - 1) / (columns - 1))
        source = inputs_THWC[round(moment * (len(inputs_THWC) - 1) / max(len(outputs_THWC) - 1, 1))]
        left = column * (side + GAP)
        sheet[:side, left : left + side] = _enlarged(source, side)
        sheet[side + GAP :, left : left + side] = outputs_THWC[moment]
    return frame_png(sheet)


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _confusions(names: Sequence[str], counts_CC: NDArray[np.int64]) -> list[str]:
    """ "12 of 40 run → walk", most first."""
    wrong = counts_CC.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [
        (int(place) // len(names), int(place) % len(names)) for place in order if wrong.flat[place]
    ]
    return [
        f"{wrong[row, column]} of {counts_CC[row].sum()} {_short(names[row])} → {_short(names[column])}"
        for row, column in pairs
    ]


def _enlarged(frame: Frame, side: int) -> Frame:
    rows = np.arange(side) * frame.shape[0] // side
    columns = np.arange(side) * frame.shape[1] // side
    enlarged: Frame = frame[rows][:, columns]
    return enlarged


def _points(records: Sequence[Mapping[str, Any]], phase: str) -> list[tuple[int, float, int]]:
    """(step, loss, epoch) of a phase, the last record of each step, in order; losses that were not finite are left out."""
    latest = {
        int(record.get("step") or record["epoch"]): record
        for record in records
        if record["phase"] == phase
    }
    rows = [(step, record["loss"], int(record["epoch"])) for step, record in sorted(latest.items())]
    return [(step, float(loss), epoch) for step, loss, epoch in rows if loss is not None]


def _figure(width: float, height: float) -> Figure:
    """A figure outside of pyplot, so that nothing looks for a screen and nothing stays in memory. Inches."""
    from matplotlib.figure import Figure  # slow to import, and only eval draws

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # tight: constrained layout forgets what a square matrix has outside its axes when the figure is
    # taller or wider than it
    figure.savefig(
        buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1
    )
    return buffer.getvalue()
