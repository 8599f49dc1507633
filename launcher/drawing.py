"""Flat drawings: a scene of strokes, boxes, dots and labels, written as SVG text or as a PNG.

Colours are named ("train", "grid"); a themed SVG leaves their values to the page's style sheet.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

Point = tuple[float, float]

INKS = {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#e1e6eb",
    "axis": "#8c959f",
    "train": "#1a7f37",
    "val": "#0969da",
    "best": "#cf222e",
    "series0": "#0969da",
    "series1": "#bc4c00",
    "series2": "#1a7f37",
    "series3": "#8250df",
    "series4": "#bf3989",
    "series5": "#9a6700",
    "series6": "#1b7c83",
    "series7": "#57606a",
}
DARK_INKS = {
    "paper": "#0d1117",
    "ink": "#e6edf3",
    "muted": "#9198a1",
    "grid": "#272e37",
    "axis": "#656c76",
    "train": "#3fb950",
    "val": "#58a6ff",
    "best": "#ff7b72",
    "series0": "#58a6ff",
    "series1": "#f0883e",
    "series2": "#3fb950",
    "series3": "#bc8cff",
    "series4": "#f778ba",
    "series5": "#d29922",
    "series6": "#39c5cf",
    "series7": "#b1bac4",
}
_FONT = "ui-sans-serif, system-ui, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A line through points, in px."""

    points: tuple[Point, ...]
    ink: str
    width: float = 1.0
    opacity: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Box:
    """A filled rectangle; x, y is its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    ink: str
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A filled circle, with a rim of paper so that it stands out from lines below it."""

    x: float
    y: float
    radius: float
    ink: str


@dataclass(frozen=True, kw_only=True)
class Label:
    """One line of text; y is its base line."""

    x: float
    y: float
    text: str
    size: float = 12.0
    ink: str = "ink"
    anchor: str = "start"  # "start" | "middle" | "end"
    bold: bool = False


Shape = Stroke | Box | Dot | Label


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What to draw, back to front. Sizes are px at scale 1."""

    width: int
    height: int
    title: str
    shapes: tuple[Shape, ...]


def to_svg(scene: Scene, *, themed: bool = False) -> str:
    """SVG text that stands alone; with `themed`, colours are `var(--NAME)` of the page that holds it, and there is no background."""
    paint = _themed if themed else INKS.__getitem__
    body = "\n".join(_svg_shape(shape, paint) for shape in scene.shapes)
    paper = "" if themed else f'<rect width="100%" height="100%" fill="{INKS["paper"]}"/>\n'
    title = escape(_printable(scene.title))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {scene.width} {scene.height}" width="{scene.width}" '
        f'height="{scene.height}" role="img" font-family="{_FONT}">\n<title>{title}</title>\n{paper}{body}\n</svg>\n'
    )


def to_png(scene: Scene, *, scale: int = 2) -> bytes:
    """PNG of `scale` times the scene's size, drawn at twice that and shrunk, so that edges are smooth."""
    from PIL import Image, ImageDraw  # here: drawing is rare, and Pillow slow to import

    fine = 2 * scale
    image = Image.new("RGB", (scene.width * fine, scene.height * fine), INKS["paper"])
    canvas = ImageDraw.Draw(image)
    for shape in scene.shapes:
        _png_shape(canvas, shape, fine)
    small = image.resize((scene.width * scale, scene.height * scale), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def css_colours() -> str:
    """The style sheet of themed drawings: light values, and dark ones where the reader prefers dark."""
    light = "".join(f"--{name}:{value};" for name, value in INKS.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK_INKS.items())
    return f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"


def _themed(ink: str) -> str:
    return f"var(--{ink})"


def _svg_shape(shape: Shape, paint: Callable[[str], str]) -> str:
    colour = paint(shape.ink)
    if isinstance(shape, Stroke):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        dash = ' stroke-dasharray="5 4"' if shape.dashed else ""
        return (
            f'<polyline points="{points}" style="stroke:{colour}" fill="none" stroke-width="{shape.width:g}" '
            f'stroke-opacity="{shape.opacity:g}" stroke-linejoin="round" stroke-linecap="round"{dash}/>'
        )
    if isinstance(shape, Box):
        size = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
        return f'<rect {size} style="fill:{colour}" fill-opacity="{shape.opacity:g}"/>'
    if isinstance(shape, Dot):
        rim = f"fill:{colour};stroke:{paint('paper')}"
        return f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:g}" style="{rim}" stroke-width="1"/>'
    weight = ' font-weight="600"' if shape.bold else ""
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}" text-anchor="{shape.anchor}"'
    return f'<text {place} style="fill:{colour}"{weight}>{escape(_printable(shape.text))}</text>'


def _png_shape(canvas: Any, shape: Shape, fine: int) -> None:
    if isinstance(shape, Stroke):
        _png_stroke(canvas, shape, fine)
    elif isinstance(shape, Box):
        corner = (
            shape.x * fine,
            shape.y * fine,
            (shape.x + shape.width) * fine,
            (shape.y + shape.height) * fine,
        )
        canvas.rectangle(corner, fill=_blend(shape.ink, shape.opacity))
    elif isinstance(shape, Dot):
        for radius, ink in ((shape.radius + 1, "paper"), (shape.radius, shape.ink)):
            canvas.ellipse(_around(shape, radius, fine), fill=INKS[ink])
    else:
        _png_label(canvas, shape, fine)


def _png_stroke(canvas: Any, shape: Stroke, fine: int) -> None:
    points = [(x * fine, y * fine) for x, y in shape.points]
    colour = _blend(shape.ink, shape.opacity)
    width = max(1, round(shape.width * fine))
    pieces = _dashes(points, 5 * fine, 4 * fine) if shape.dashed else [points]
    for piece in pieces:
        canvas.line(piece, fill=colour, width=width, joint="curve")


def _png_label(canvas: Any, shape: Label, fine: int) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=shape.size * fine)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
    stroke = round(shape.size * fine / 60) if shape.bold else 0  # the built-in font has one weight
    place = (shape.x * fine, shape.y * fine)
    canvas.text(
        place,
        _printable(shape.text),
        fill=INKS[shape.ink],
        font=font,
        anchor=anchor,
        stroke_width=stroke,
    )


def _around(dot: Dot, radius: float, fine: int) -> tuple[float, float, float, float]:
    return (
        (dot.x - radius) * fine,
        (dot.y - radius) * fine,
        (dot.x + radius) * fine,
        (dot.y + radius) * fine,
    )


def _dashes(points: list[Point], drawn: float, gap: float) -> list[list[Point]]:
    """The pieces of a line that a dash pattern of `drawn` and `gap` px leaves."""
    pieces: list[list[Point]] = []
    left, on = drawn, True
    current = points[:1]
    for (x0, y0), (x1, y1) in pairwise(points):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        done = 0.0
        while length - done > left:
            done += left
            corner = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if on:
                pieces.append([*current, corner])
            current, on = [corner], not on
            left = drawn if on else gap
        left -= length - done
        current.append((x1, y1))
    return [*pieces, current] if on and len(current) > 1 else pieces


def _blend(ink: str, opacity: float) -> tuple[int, ...]:
    """The colour that `ink` at `opacity` gives on paper."""
    over, under = (
        tuple(int(INKS[name][i : i + 2], 16) for i in (1, 3, 5)) for name in (ink, "paper")
    )
    return tuple(round(a * opacity + b * (1 - opacity)) for a, b in zip(over, under, strict=True))


def _printable(text: str) -> str:
    """Without what XML forbids: control characters and lone surrogates, as a hostile name may hold."""
    return "".join(
        char
        if char >= " "
        and char != "\x7f"
        and not "\ud800" <= char <= "\udfff"
        and char not in "\ufffe\uffff"
        else "�"
        for char in text
    )
