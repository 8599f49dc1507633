"""Folders of frames, one JPEG or PNG each, `<anything><number>.<suffix>`: whole, or single frames. Through OpenCV.

Order is by number, never by name. Missing and damaged frames repeat the last good one, and are named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer.data.decode import WHOLE, Frames, Span, Video, unreadable
from trainer.data.kept import Kept
from trainer.data.opencv import opencv
from trainer.data.resizing import resize
from trainer.data.sampling import Indices, even_times, resample
from trainer.errors import DataError

NAME = re.compile(r"(|.*\D)(\d{1,18})\.(?:jpe?g|png)", re.IGNORECASE | re.DOTALL)
# TinyVIRAT's: numbers without leading zeros, from 0 on
FROM_ZERO = re.compile(r"frame_(0|[1-9]\d*)\.jpe?g", re.IGNORECASE)
END_OF_JPEG = b"\xff\xd9"
NOTHING: Frames = np.empty(0, np.uint8)


def read_frames(
    folder: Path, kept: Kept, span: Span = WHOLE, *, fps: float = 0.0, counted: bool = False
) -> Video:
    """The frames of a span of a folder, ordered by number, resized, and resampled from `fps` (the dataset's rate) to `kept.fps`.

    A missing or damaged frame is the last good one before it (at the start: the first good one), and `fault` names its number.
    """
    try:
        paths, note = frame_paths(folder)
    except OSError as error:
        return unreadable("jpg", error.strerror or str(error))
    if not paths:
        return unreadable("jpg", "the folder holds no <name><number>.jpg or .png")
    if kept.fps and not fps:
        return unreadable(
            "jpg",
            f"a folder of frames has no time stamps by which it could be resampled to {kept.fps:g} fps",
        )
    base = first_number(paths)
    numbers = [number for number in paths if span.first <= number - base < span.stop]
    count = max(numbers) - base - span.first + 1 if numbers else 0
    good, sides = _read_good(
        {number - base - span.first: paths[number] for number in numbers}, kept, counted=counted
    )
    if not good:
        return unreadable("jpg", "none of its frames can be read")
    bad = [number + base + span.first for number in range(count) if number not in good]
    taken = resample(even_times(count, fps), kept.fps) if kept.fps else np.arange(count)
    shown = (
        [] if counted else [good[number] for number in _last_good(np.asarray(sorted(good)), taken)]
    )
    return Video(
        frames=np.stack(shown)
        if shown
        else np.empty((0, *kept.sides(*sides), kept.channels), np.uint8),
        found=count,
        height=sides[0],
        width=sides[1],
        fps=fps if kept.fps else 0.0,
        source_fps=fps,
        taken=taken,
        promised=max(paths) - base + 1,
        variable_rate=False,
        seekable=not bad,
        decoder="jpg",
        fault=f"frames {_ranges(bad)} are missing or damaged" if bad else "",
        note=note,
    )


def read_at(folder: Path, numbers: Indices, *, first: int, repair: bool) -> list[Frames]:
    """The frames (H, W, 3) with these numbers, counted from 0, of a clip that begins at frame `first`; as `read_frames` gives them.

    Without `repair` all of them must be there. Raises DataError that names the file.
    """
    hint = "the folder changed or cannot be reached any more; look at it, and run `prepare` again"
    try:
        names, _ = _frame_names(folder)
    except OSError as error:
        raise DataError(
            f"cannot read the frames in {folder}: {error.strerror or error}", hint=hint
        ) from error
    if not names:
        raise DataError(f"the folder {folder} holds no frame any more", hint=hint)
    base = first_number(names)
    frames = []
    for number in (numbers + base).tolist():
        nearest = _nearest(sorted(names), first + base, number) if repair else [number]
        image = next(
            (
                image
                for near in nearest
                if (image := read_image(folder / names.get(near, ""))) is not None
            ),
            None,
        )
        if image is None:
            raise DataError(f"frame {number} in {folder} is missing or damaged", hint=hint)
        frames.append(image)
    return frames


def _nearest(there: list[int], first: int, number: int) -> list[int]:
    """The numbers from `first` on in the order in which they stand in for one: backwards from it, then forwards."""
    here = [near for near in there if near >= first]
    return [near for near in reversed(here) if near <= number] + [
        near for near in here if near > number
    ]


def frame_paths(folder: Path) -> tuple[dict[int, Path], str]:
    """Frame number -> file, ascending by number (frame_10 after frame_9), and what was left out.

    Files that end in no number, such as `n_frames`, are no frames. Of several groups of names the largest is taken. Raises OSError.
    """
    names, note = _frame_names(folder)
    return {number: folder / name for number, name in sorted(names.items())}, note


def _frame_names(folder: Path) -> tuple[dict[int, str], str]:
    """`frame_paths` without the order and the folder, which take longer than decoding a clip does."""
    groups: dict[str, dict[int, str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208  half the time of iterdir
        if match := NAME.fullmatch(name):
            groups.setdefault(match[1], {})[int(match[2])] = name
    if not groups:
        return {}, ""
    ranked = sorted(groups, key=lambda prefix: (-len(groups[prefix]), prefix))
    others = ", ".join(f"{prefix}<number> ({len(groups[prefix])})" for prefix in ranked[1:4])
    note = f"the frames are {ranked[0]}<number>; left out: {others}" if others else ""
    return groups[ranked[0]], note


def first_number(names: Mapping[int, str | Path]) -> int:
    """0 or 1, the number of a folder's first frame: the lowest one tells, and TinyVIRAT's way of naming is from 0 on."""
    lowest = min(names)
    return 0 if lowest == 0 or FROM_ZERO.fullmatch(Path(names[lowest]).name) else 1


def read_image(path: Path) -> Frames | None:
    """One frame (H, W, 3) RGB, or None when it is damaged. libjpeg fills up a truncated file with grey: its end mark must be there."""
    cv2 = opencv()
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if path.suffix.lower() != ".png" and not data.rstrip(b"\0").endswith(END_OF_JPEG):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return (
        None
        if image is None
        else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    )


def _read_good(
    paths: dict[int, Path], kept: Kept, *, counted: bool
) -> tuple[dict[int, Frames], tuple[int, int]]:
    """(place -> kept frame (H, W, C) of those that can be read, px of the first one's source). `counted`: no pixel is held."""
    good: dict[int, Frames] = {}
    sides = wanted = (0, 0)
    for place, path in paths.items():
        image = read_image(path)
        if image is None:
            continue
        if not good:
            sides = (image.shape[0], image.shape[1])
            wanted = kept.sides(*sides)
        good[place] = (
            NOTHING
            if counted
            else resize(image[None, :, :, : kept.channels], wanted, antialias=kept.antialias)[0]
        )
    return good, sides


def _last_good(good: Indices, wanted: Indices) -> list[int]:
    """For each wanted number the last one of `good` up to it, or the first one. good=[1, 3], wanted=0..4 -> 1 1 1 3 3"""
    places = np.searchsorted(good, wanted, side="right") - 1
    return [int(number) for number in good[np.maximum(places, 0)]]


def _ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
