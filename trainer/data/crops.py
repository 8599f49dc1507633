"""Which part of the frames a network is fed: one box for all frames of a clip, resized to the network's size, and mirrored.

The crop comes first and the resize after it, so a frame is interpolated once: "resize the short side to 128, crop 112" is a box of
112/128 of the short side, resized to 112 (resizing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.config import DataConf
from trainer.data.decode import Frames
from trainer.data.normalise import FLOW_ZERO
from trainer.data.opencv import opencv
from trainer.data.resizing import resize_into

CORNERS = ("center", "top_left", "top_right", "bottom_left", "bottom_right")
RECTANGLE = (0.6, 1.0)  # share of each side, of crop: rectangle (VGG-16 of the two-stream system)


@dataclass(frozen=True)
class Box:
    """Part of a frame, px; never empty, never outside."""

    top: int
    left: int
    height: int
    width: int


def whole(height: int, width: int) -> Box:
    """All of a frame."""
    return Box(0, 0, height, width)


def training_box(height: int, width: int, data: DataConf, chance: tuple[float, ...]) -> Box:
    """The box of a training clip of `height` x `width` px frames; `chance` are Draw.crop's uniform numbers in [0, 1)."""
    if data.crop == "none":
        return whole(height, width)
    return _TRAINING[data.crop](height, width, data, chance)


def test_box(height: int, width: int, data: DataConf) -> Box:
    """The box of a clip without training: `test_crop` of frames whose short side would be `test_short` px."""
    if data.test_crop == "none":
        return whole(height, width)
    side = _side(height, width, data, data.test_short)
    return _at(height, width, side, data.test_crop)


test_box.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def cut(frames: Frames, box: Box, out: Frames, *, antialias: bool) -> None:
    """Write the box of frames (T, H, W, C) into `out` (T, size, size, C)."""
    resize_into(
        frames[:, box.top : box.top + box.height, box.left : box.left + box.width],
        out,
        antialias=antialias,
    )


def mirror(clip: Frames, *, flow: bool) -> None:
    """Mirror a clip (T, H, W, C) in place, left to right. Of flow, motion to the right becomes motion to the left: u changes its sign."""
    rows = clip.reshape(-1, *clip.shape[2:])  # a view: clips are contiguous
    opencv().flip(rows, 1, dst=rows)  # thirty times as fast as numpy's negative stride
    if flow:
        clip[..., 0] = np.minimum(2 * FLOW_ZERO - clip[..., 0].astype(np.int16), 255)


def _center(height: int, width: int, data: DataConf, chance: tuple[float, ...]) -> Box:
    return _at(height, width, _side(height, width, data, _jittered(data, chance)), "center")


def _random(height: int, width: int, data: DataConf, chance: tuple[float, ...]) -> Box:
    return _anywhere(
        height, width, (_side(height, width, data, _jittered(data, chance)),) * 2, chance
    )


def _corners(height: int, width: int, data: DataConf, chance: tuple[float, ...]) -> Box:
    return _at(
        height, width, _scaled(height, width, data, chance), CORNERS[int(chance[3] * len(CORNERS))]
    )


def _multi_scale(height: int, width: int, data: DataConf, chance: tuple[float, ...]) -> Box:
    return _anywhere(height, width, (_scaled(height, width, data, chance),) * 2, chance)


def _rectangle(height: int, width: int, _: DataConf, chance: tuple[float, ...]) -> Box:
    low, high = RECTANGLE
    sides = (
        max(int(height * (low + (high - low) * chance[4])), 1),
        max(int(width * (low + (high - low) * chance[5])), 1),
    )
    return _anywhere(height, width, sides, chance)


_TRAINING: dict[str, Callable[[int, int, DataConf, tuple[float, ...]], Box]] = {
    "center": _center,
    "random": _random,
    "corners": _corners,
    "multi_scale": _multi_scale,
    "rectangle": _rectangle,
}


def _jittered(data: DataConf, chance: tuple[float, ...]) -> int:
    """px that the short side is resized to; 0 = it stays."""
    if not data.jitter:
        return 0
    least, most = data.jitter
    return least + int(chance[2] * (most - least + 1))


def _side(height: int, width: int, data: DataConf, short: int) -> int:
    """px of a square box that is `data.size` px once the short side is `short` px (0 = as it is); at most the short side."""
    least = min(height, width)
    return max(min(round(data.size * least / (short or least)), least), 1)


def _scaled(height: int, width: int, data: DataConf, chance: tuple[float, ...]) -> int:
    """px of a square box: one of `data.scales` of the short side."""
    return max(int(min(height, width) * data.scales[int(chance[2] * len(data.scales))]), 1)


def _anywhere(height: int, width: int, sides: tuple[int, int], chance: tuple[float, ...]) -> Box:
    top, left = int(chance[0] * (height - sides[0] + 1)), int(chance[1] * (width - sides[1] + 1))
    return Box(top, left, *sides)


def _at(height: int, width: int, side: int, position: str) -> Box:
    """A square box at a corner or in the centre. 128 x 171 px, side 112 -> rows 8 to 119, columns 30 to 141"""
    if position == "center":
        return Box(round((height - side) / 2), round((width - side) / 2), side, side)
    return Box(
        height - side if "bottom" in position else 0,
        width - side if "right" in position else 0,
        side,
        side,
    )
