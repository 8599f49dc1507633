"""The pictures of `eval`: F1 of each class, loss curves, a resizer's frames beside its inputs. PNG bytes; matplotlib without a screen."""

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


def class_scores(names: Sequence[str], scores: NDArray[np.float64], support: NDArray[np.int64]) -> bytes:
    """Bars of F1 by class, best on top, with the number of clips that show the class."""
    figure = _figure(7.5, 1.2 + 0.26 * len(names))
    axes = figure.subplots()
    order = np.argsort(scores, kind="stable")
    places = np.arange(len(order))
    axes.barh(places, scores[order], color=BLUE)
    axes.set_yticks(places, [f"{names[index]} ({support[index]})" for index in order], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-0.7, len(order) - 0.3), xlabel="F1 (clips of the class in brackets)")
    axes.set_title(f"F1 by class, mean {scores.mean():.3f}")
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def loss_curves(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Training loss of each step with its mean over each epoch, and the validation losses, from the records of metrics.jsonl."""
    figure = _figure(7.5, 4)
    axes = figure.subplots()
    train, val = _points(records, "train"), _points(records, "val")
    if train:
        steps, losses, epochs = (np.array(column) for column in zip(*train, strict=True))
        axes.plot(steps, losses, color=GREEN, alpha=0.35, linewidth=0.8, label="train, by step")
        means = [(steps[epochs == epoch].max(), losses[epochs == epoch].mean()) for epoch in np.unique(epochs)]
        axes.plot(*zip(*means, strict=True), color=GREEN, marker="o", markersize=3, label="train, mean of the epoch")
    if val:
        steps, losses, _ = (np.array(column) for column in zip(*val, strict=True))
        axes.plot(steps, losses, color=BLUE, marker="o", markersize=3, label="val")
        low = int(losses.argmin())
        axes.annotate(f"{losses[low]:.4f}", (steps[low], losses[low]), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
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


def _enlarged(frame: Frame, side: int) -> Frame:
    rows = np.arange(side) * frame.shape[0] // side
    columns = np.arange(side) * frame.shape[1] // side
    enlarged: Frame = frame[rows][:, columns]
    return enlarged


def _points(records: Sequence[Mapping[str, Any]], phase: str) -> list[tuple[int, float, int]]:
    """(step, loss, epoch) of a phase, the last record of each step, in order; losses that were not finite are left out."""
    latest = {int(record.get("step") or record["epoch"]): record for record in records if record["phase"] == phase}
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
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
