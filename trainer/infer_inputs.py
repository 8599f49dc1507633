"""What `infer` looks at: files, folders, globs, a webcam, raw frames on stdin; each a stream of frames with their times.

Frames come one by one, so a film of any length or a webcam needs no more memory than a clip.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from trainer.config import InferConf
from trainer.data import decode, sampling
from trainer.data.dataset_files import VIDEO_SUFFIXES
from trainer.data.decode import Shown
from trainer.errors import ConfFault, DataError, Fault


@dataclass(frozen=True)
class Input:
    """One thing to look at."""

    name: str  # as the user would call it: the path, "webcam 0", "stdin"
    kind: Literal["file", "webcam", "stdin"]

    @property
    def live(self) -> bool:
        """Frames come as they happen: each window is answered at once."""
        return self.kind != "file"

    @property
    def stem(self) -> str:
        """Beginning of the names of files about it."""
        return Path(self.name).stem if self.kind == "file" else self.name.replace(" ", "-")


def expand(patterns: Sequence[str]) -> list[Input]:
    """The inputs that `infer.input` names, files of a folder or glob by name. Raises ConfFault for those that name nothing."""
    found: list[Input] = []
    faults = []
    for place, pattern in enumerate(patterns):
        inputs = _expand_one(pattern)
        if not inputs:
            what = "is a folder without a video in it" if Path(pattern).is_dir() else "is not there"
            where = (
                ""
                if Path(pattern).is_absolute() or Path(pattern).is_dir()
                else f"looked for in {Path.cwd()}; "
            )
            hint = f"{where}a video, a folder of videos ({', '.join(VIDEO_SUFFIXES)}), a glob, a webcam's number, or -"
            faults.append(
                Fault(path=f"infer.input[{place}]", message=f"{pattern!r} {what}", hint=hint)
            )
        found += inputs
    if faults:
        raise ConfFault(faults)
    return list(dict.fromkeys(found))


def _expand_one(pattern: str) -> list[Input]:
    path = Path(pattern)
    if pattern == "-":
        return [Input("stdin", "stdin")]
    if path.is_file():
        return [Input(pattern, "file")]
    if path.is_dir():
        return [Input(str(each), "file") for each in sorted(path.rglob("*")) if _is_video(each)]
    if pattern.isdecimal():
        return [Input(f"webcam {int(pattern)}", "webcam")]
    return [Input(str(each), "file") for each in _matches(pattern)]


def _is_video(path: Path) -> bool:
    """As a dataset's folders are read: no hidden files, such as a Mac leaves beside each video."""
    return (
        path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _matches(pattern: str) -> list[Path]:
    """The files that a glob names; ** goes into folders."""
    anchor = Path(path.anchor) if (path := Path(pattern)).is_absolute() else Path()
    parts = path.relative_to(path.anchor) if path.is_absolute() else path
    return sorted(each for each in anchor.glob(str(parts)) if each.is_file()) if parts.parts else []


def open_frames(
    source: Input, conf: InferConf, *, fps: float, stdin: BinaryIO | None = None
) -> Iterator[Shown]:
    """The stream of an input. `fps` > 0: resampled to so many frames a second by time stamps, else every frame as it comes.

    Raises DataError when nothing can be read; damage further on ends the stream with the frames before it, and a DataError.
    """
    if source.kind == "file":
        frames = _file(source.name)
    elif source.kind == "webcam":
        frames = _webcam(int(source.name.removeprefix("webcam ")))
    else:
        width, height = map(int, conf.stdin_size.split("x"))
        frames = _raw(stdin or sys.stdin.buffer, width=width, height=height, fps=conf.stdin_fps)
    return resampled(frames, fps) if fps > 0 else frames


def resampled(frames: Iterator[Shown], fps: float) -> Iterator[Shown]:
    """The frames that `prepare` chooses of the whole file (sampling.resample), each as soon as it is known, from 0 s on."""
    held: Shown | None = None
    count, fault = 0, None
    # seconds from frame to frame: the last one is shown for as long as the median one
    steps = array("d")
    try:
        for frame in frames:
            if held is not None:
                while sampling.moment(count, fps) < frame.seconds:
                    yield held._replace(seconds=count / fps)
                    count += 1
                steps.append(frame.seconds - held.seconds)
            held = frame
    except DataError as error:
        fault = error
    if held is not None:
        usual = float(np.median(steps)) if steps else 0.0
        for number in range(count, sampling.resampled_length(held.seconds, usual, fps)):
            yield held._replace(seconds=number / fps)
    if fault:
        raise fault


def _file(path: str) -> Iterator[Shown]:
    count = 0
    try:
        for shown in decode.stream(Path(path)):
            yield shown
            count += 1
    except decode.Damaged as error:
        after = f" after frame {count - 1}" if count else ""
        raise DataError(f"cannot be read{after}: {error}") from error
    if not count:
        raise DataError("holds no frame")
    # cut off where no decoder stumbles, as an AVI; or trimmed by an edit list
    if count < (promised := decode.promised(Path(path))):
        print(
            f"note: {path} gave {count} of the {promised} frames that its header promises",
            flush=True,
        )


def _webcam(number: int) -> Iterator[Shown]:
    import time

    import cv2

    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise DataError(
                "cannot be opened",
                hint="`ls /dev/video*` shows which there are; in a container it must be passed in",
            )
        began = time.monotonic()
        while True:
            there, image = camera.read()
            if not there:
                return
            yield Shown(
                np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8),
                time.monotonic() - began,
            )
    finally:
        camera.release()


def _raw(source: BinaryIO, *, width: int, height: int, fps: float) -> Iterator[Shown]:
    """RGB24 frames, one after the other, as `ffmpeg -f rawvideo -pix_fmt rgb24 -` writes them."""
    size, count = width * height * 3, 0
    while True:
        data = source.read(size)
        if not data:
            break
        if len(data) < size:
            why = f"stdin ended {len(data)} bytes into frame {count}, which has {size} bytes at {width}x{height}"
            raise DataError(
                why, hint="infer.stdin_size must be the size of the frames, and they must be rgb24"
            )
        yield Shown(np.frombuffer(data, np.uint8).reshape(height, width, 3), count / fps)
        count += 1
    if not count:
        raise DataError(
            "it held no frame",
            hint="a submitted job has no stdin: pipe into `python -m trainer infer --conf F --run DIR`",
        )
