"""The confusion of videos with one class each, as a scene of `drawing`: rows are what they are, columns what they were answered with."""

from __future__ import annotations

import ast
import struct
from collections.abc import Sequence

from launcher.drawing import Box, Label, Scene, Shape

MOST = 60  # classes; of more the page has the table alone
_NUMBERED = 26  # classes up to which the counts are written into the cells
_MAGIC = b"\x93NUMPY"
_CHARACTER = 0.56  # mean width of a character, in font sizes
_LONGEST = 30  # characters of a name
_TOP, _MARGIN = 78.0, 24.0


def read_counts(content: bytes, classes: int) -> list[list[int]]:
    """The rows of a (classes, classes) .npy of 64-bit integers, as `test` and `eval` write confusion.npy; [] for any other."""
    try:
        if not content.startswith(_MAGIC) or content[6] not in (1, 2):
            return []
        start = 10 if content[6] == 1 else 12
        end = start + int.from_bytes(content[8:start], "little")
        header = ast.literal_eval(content[start:end].decode("latin-1"))
        if (header["descr"], header["fortran_order"], header["shape"]) != (
            "<i8",
            False,
            (classes, classes),
        ):
            return []
        flat = struct.unpack_from(f"<{classes * classes}q", content, end)
    except (
        ValueError,
        SyntaxError,
        LookupError,
        TypeError,
        MemoryError,
        RecursionError,
        struct.error,
    ):
        return []
    return (
        [list(flat[row * classes : (row + 1) * classes]) for row in range(classes)]
        if min(flat, default=0) >= 0
        else []
    )


def confusion_map(names: Sequence[str], counts: Sequence[Sequence[int]], *, title: str) -> Scene:
    """Each row shaded by its shares (their root, so that rare ones are seen): right answers green, wrong ones red."""
    size = 26.0 if len(names) <= _NUMBERED else 15.0
    left = (
        _MARGIN
        + 12 * _CHARACTER * max(len(_word(number, name)) for number, name in enumerate(names))
        + 12
    )
    shapes: list[Shape] = [
        Label(x=_MARGIN, y=28, text=title, size=15, bold=True),
        Label(
            x=_MARGIN,
            y=48,
            text="rows: the class; columns: what its videos were answered with, by the same numbers",
            ink="muted",
        ),
    ]
    small = 11 if len(names) <= _NUMBERED else 9
    for row, name in enumerate(names):
        y = _TOP + size * row
        middle = left + size * (row + 0.5)
        number = Label(
            x=middle, y=_TOP - 6, text=str(row), size=small, anchor="middle", ink="muted"
        )
        word = Label(
            x=left - 8, y=y + size / 2 + 4, text=_word(row, name), size=small, anchor="end"
        )
        shapes += [word, number]
        total = sum(counts[row]) or 1
        for column, count in enumerate(counts[row]):
            x = left + size * column
            shapes.append(_box(count, count / total, right=row == column, x=x, y=y, size=size))
            if count and len(names) <= _NUMBERED:
                shapes.append(
                    Label(
                        x=x + size / 2,
                        y=y + size / 2 + 4,
                        text=str(count),
                        size=10,
                        anchor="middle",
                    )
                )
    width = max(left + size * len(names) + _MARGIN, 12 * _CHARACTER * 90 + 2 * _MARGIN)
    return Scene(
        width=round(width),
        height=round(_TOP + size * len(names) + _MARGIN),
        title=title,
        shapes=tuple(shapes),
    )


def _box(count: int, share: float, *, right: bool, x: float, y: float, size: float) -> Box:
    """The box of one count, whose left upper corner is (x, y)."""
    answered = "train" if right else "best"
    return Box(
        x=x + 0.5,
        y=y + 0.5,
        width=size - 1,
        height=size - 1,
        ink=answered if count else "grid",
        opacity=0.1 + 0.7 * float(share**0.5) if count else 0.45,
    )


def _word(number: int, name: str) -> str:
    return f"{name if len(name) <= _LONGEST else name[: _LONGEST - 1] + '…'} {number}"
