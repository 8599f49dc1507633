"""How frames are kept between a file and the network: their size, rate and channels. Standard library only, so that `check` knows it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from trainer.config import DataConf
from trainer.data.normalise import COLOURS, channels

LEAST, MOST = 8, 8192  # px, of a side
EXACT = re.compile(r"(\d{1,5})x(\d{1,5})")
SHORT = re.compile(r"short:(\d{1,5})")
RESIZE_HINT = '"128x171" (height x width), "short:240", "original", or "" for data.size squares'


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One way to keep frames; part of what makes two caches different."""

    resize: str  # "128x171" (height x width), "short:240" or "original"
    fps: float = 0.0  # frames a second after resampling; 0 = every frame of the file
    stream: Literal["rgb", "flow"] = "rgb"
    channels: int = COLOURS
    antialias: bool = False  # smoothed where it was made smaller

    @classmethod
    def of(cls, data: DataConf) -> Kept:
        """What a conf says. Raises ValueError for a `resize` that says nothing."""
        resize = data.resize or f"{data.size}x{data.size}"
        _parse(resize)
        antialias = data.antialias and resize != "original"
        return cls(
            resize=resize,
            fps=data.fps,
            stream=data.stream,
            channels=channels(data),
            antialias=antialias,
        )

    def facts(self) -> dict[str, str | float | bool]:
        """What tells two caches apart; as it was before there was `antialias` where that is not asked for, so that old caches hold."""
        return {key: value for key, value in asdict(self).items() if key != "antialias" or value}

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in px of a kept frame of a `height` x `width` px source.

        "short:240" of 340 x 256 (width x height) -> (240, 319): the long side is rounded, as ffmpeg's scale=-1:240 does.
        """
        kind, sides = _parse(self.resize)
        if kind == "exact":
            return sides[0], sides[1]
        if kind == "original":
            return height, width
        scale = sides[0] / min(height, width)
        return (
            (sides[0], round(width * scale))
            if height <= width
            else (round(height * scale), sides[0])
        )

    def __str__(self) -> str:
        """For messages: "28x28 px, 15 fps"."""
        kind, sides = _parse(self.resize)
        size = (
            f"{self.resize} px"
            if kind == "exact"
            else f"{sides[0]} px on the short side"
            if sides
            else "the original size"
        )
        parts = [size]
        parts += [f"{self.fps:g} fps"] if self.fps else []
        parts += ["smoothed"] if self.antialias else []
        parts += [f"flow of {self.channels} channels"] if self.stream == "flow" else []
        return ", ".join(parts)


def resize_fault(resize: str) -> str:
    """What is wrong with `data.resize`; "" when nothing is."""
    try:
        _parse(resize or "original")
    except ValueError as error:
        return str(error)
    return ""


def _parse(resize: str) -> tuple[Literal["exact", "short", "original"], tuple[int, ...]]:
    if resize == "original":
        return "original", ()
    exact, short = EXACT.fullmatch(resize), SHORT.fullmatch(resize)
    match = exact or short
    if match is None:
        raise ValueError(f'is "{resize}", which is no size of frames')
    sides = tuple(int(side) for side in match.groups())
    if not all(LEAST <= side <= MOST for side in sides):
        raise ValueError(f'is "{resize}", with a side not between {LEAST} and {MOST} px')
    return ("exact" if exact else "short"), sides
