"""The answers of `infer` drawn on the frames: a labelled video, and a live window where there is a display."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from trainer.data.decode import USUAL_RATE, Frames
from trainer.errors import CannotWrite, ConfFault, Fault

LONG_SIDE = 640  # px: frames wait for their window's answer, so they are kept small
MILLISECONDS = Fraction(1, 1000)
SINGLE = 1000  # ms that a film of one frame lasts
Answer = Sequence[tuple[str, float]]  # (class, score), best first


def shrink(image: Frames) -> Frames:
    """A frame (H, W, 3) of even sides, at most LONG_SIDE px long."""
    import cv2

    height, width = image.shape[:2]
    scale = min(LONG_SIDE / max(height, width), 1.0)
    sides = [max(round(side * scale) // 2 * 2, 2) for side in (width, height)]
    if sides == [width, height]:
        return image
    return np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_AREA), np.uint8)


def draw(image: Frames, answer: Answer) -> Frames:
    """A copy with one line a class in its upper left: white on a dark ground, a bar as long as its score."""
    import cv2

    shown = image.copy()
    height, width = shown.shape[:2]
    line = max(height // 14, 9)
    scale = line / 36
    rows = answer[: max(height // (2 * line), 1)]
    cover = shown[: line * len(rows) + 1]
    cover[:] = cover // 3
    for row, (name, score) in enumerate(rows):
        top = row * line
        cv2.rectangle(
            shown,
            (0, top + line - 2),
            (round(width * min(max(score, 0.0), 1.0)), top + line),
            (80, 200, 120),
            -1,
        )
        text = f"{score:.2f} {name}"
        cv2.putText(
            shown,
            text,
            (3, top + line - line // 3),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    return shown


class Film:
    """A labelled video in the making: written under a temporary name, named when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None
        self._last = -1  # ms, of the last frame
        self._shown_for = SINGLE  # ms, the frame before it

    def __enter__(self) -> Self:
        return self

    def add(self, image: Frames, seconds: float) -> None:
        """The next frame (H, W, 3), shown from `seconds` on. Raises CannotWrite."""
        import av

        try:
            if self._container is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._container = av.open(str(self._part), "w", format="mp4")
                self._stream = self._container.add_stream(
                    "libx264", rate=1000, options={"preset": "veryfast", "crf": "23", "bf": "0"}
                )
                self._stream.height, self._stream.width = image.shape[:2]
                self._stream.pix_fmt, self._stream.time_base = "yuv420p", MILLISECONDS
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            before, self._last = self._last, max(round(seconds * 1000), self._last + 1)
            self._shown_for = self._last - before if before >= 0 else SINGLE
            frame.pts, frame.time_base = self._last, MILLISECONDS
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise self._cannot_write(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Name it. Raises CannotWrite."""
        import av

        if self._container is None:
            return
        # a labelled video that ends where a retry was asked for would look whole
        if error is not None:
            with suppress(OSError):  # of a full volume once more
                self._container.close()
            self._part.unlink(missing_ok=True)
            return
        try:
            self._finish()
        except (av.FFmpegError, OSError) as refused:
            self._part.unlink(missing_ok=True)
            raise self._cannot_write(refused) from refused

    def _finish(self) -> None:
        rest = self._stream.encode()
        if rest:  # its last frame is shown for as long as the one before; no next one tells
            rest[-1].duration = round(self._shown_for * MILLISECONDS / rest[-1].time_base)
        self._container.mux(rest)
        self._container.close()
        self._part.replace(self._path)

    def _cannot_write(self, error: Exception) -> CannotWrite:
        return CannotWrite(
            f"cannot write {self._path}: {error}", hint="infer.overlay: false leaves the video out"
        )


def rate_of(times: Sequence[float]) -> float:
    """Frames a second to show frames of these times (seconds) at: some more than theirs, so that a webcam's never pile up."""
    length = times[-1] - times[0] if times else 0.0
    return 1.05 * (len(times) - 1) / length if length > 0 else USUAL_RATE


class Window:
    """A live window: frames are handed to ffplay, which is part of ffmpeg."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.player: subprocess.Popen[bytes] | None = None

    def show(self, image: Frames, rate: float) -> bool:
        """One frame (H, W, 3); False once the user has closed the window. The first frame's `rate` a second is all frames'."""
        if self.player is None:
            height, width = image.shape[:2]
            form = [
                "-f",
                "rawvideo",
                "-pixel_format",
                "rgb24",
                "-video_size",
                f"{width}x{height}",
                "-framerate",
                f"{rate:.3f}",
            ]
            command = [
                "ffplay",
                "-loglevel",
                "quiet",
                "-window_title",
                self._title,
                "-fflags",
                "nobuffer",
                *form,
                "-i",
                "-",
            ]
            self.player = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        assert self.player.stdin is not None
        try:
            self.player.stdin.write(np.ascontiguousarray(image).tobytes())
            self.player.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def close(self) -> None:
        """End it."""
        if self.player is not None:
            self.player.kill()
            self.player.wait()
            assert self.player.stdin is not None
            try:
                self.player.stdin.close()
            except BrokenPipeError:
                pass  # what it did not draw any more


def require_display() -> None:
    """Raise ConfFault where no window can be opened, with the reason."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        why = "there is no display here (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    elif not shutil.which("ffplay"):
        why = "ffplay is not installed (it comes with ffmpeg)"
    else:
        return
    raise ConfFault(
        [
            Fault(
                path="infer.window",
                message=f"cannot be opened: {why}",
                hint="infer.overlay: true writes a labelled video instead",
            )
        ]
    )
