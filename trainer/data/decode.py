"""The door to video (with pyav_files.py): whole files, or single frames of them, as RGB frames kept as the conf says (kept.py).

torchcodec where it loads, else PyAV; OpenCV never reads video here (it ends a damaged file without an error). Nothing is
raised for a damaged file that is read whole: the frames before the damage come back with what was wrong.
The decoders are imported when first used, so that workers that read the cache stay light.
"""

from __future__ import annotations

import functools
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data import pyav_files
from trainer.data.kept import Kept
from trainer.data.resizing import Frames as Frames
from trainer.data.resizing import resize
from trainer.data.sampling import Indices, even_times, resample
from trainer.errors import DataError

Decoder = Literal["torchcodec", "pyav"]

CHUNK_BYTES = 32 << 20  # of full-size frames held at once
# torchcodec says first where in its own source it raised
CPP_PLACE = re.compile(r"^\w+, \S+\.cpp:\d+, ")
# frames that a wrong time stamp is apart from its place at most; UCF101's AVIs: 1, others: 3
REORDERED = 8
USUAL_RATE = 30.0  # frames a second of a file that does not say its own
# what torchcodec raises for files that it cannot read
BAD_FILE = (RuntimeError, ValueError, IndexError, OSError)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which frames of a file, before resampling: `limit` from number `first` on; limit 0 = all the rest."""

    first: int = 0
    limit: int = 0

    @property
    def stop(self) -> int:
        """The number after the last one."""
        return self.first + self.limit if self.limit else sys.maxsize


WHOLE = Span()


@dataclass(frozen=True, kw_only=True)
class Video:
    """What could be read of one video, or of one folder of frames."""

    # (T, H, W, C) as kept; no frame when nothing could be read, or they were only counted
    frames: Frames
    found: int  # frames that the file gave, before resampling
    height: int  # px, of the source
    width: int
    fps: float  # as the container says; 0.0 where it is not known (folders of frames)
    source_fps: float = 0.0  # as the time stamps say, on average
    # (kept frames,) number, from the span's first on, of the file's frame that each kept one shows
    taken: npt.NDArray[np.int64]
    # frames that the container, or the highest frame number, says there are; 0 = not known
    promised: int
    variable_rate: bool
    seekable: bool  # time stamps ascend in the decoder's order, and nothing is damaged
    decoder: str
    fault: str = ""  # what stopped the decoder, or which frames are missing
    note: str = ""  # nothing is wrong, but people should know


@functools.cache
def video_decoder() -> Decoder:
    """The decoder this machine has. torchcodec loads only where FFmpeg's libraries are installed; PyAV brings its own."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def read_video(
    path: Path,
    kept: Kept,
    span: Span = WHOLE,
    *,
    decoder: Decoder | None = None,
    counted: bool = False,
) -> Video:
    """The frames of a span of a video file, resized and resampled.

    Resampled to `kept.fps`, kept frame k is what is shown at (k + 1/2) / fps after the first one, and there are
    round(duration * fps); so time stamps are followed, also of a variable rate. `counted`: everything is decoded, no frame is held.
    """
    if why := _nothing_in(path):
        return unreadable("", why)
    if decoder:
        return _READERS[decoder](path, _Reading(kept, span, counted))
    video = _READERS[video_decoder()](path, _Reading(kept, span, counted))
    if (video.fault or video.variable_rate) and video.decoder != "pyav" and find_spec("av"):
        # It gives the frames too that the decoder held back when it met the damage, and keeps the
        # decoder's order where
        # an AVI's timestamps are wrong (torchcodec finds frames by them).
        other = _pyav(path, _Reading(kept, span, counted))
        return other if other.found >= video.found else video
    return video


def read_at(path: Path, numbers: Indices, *, decoder: Decoder, seekable: bool) -> Frames:
    """The frames (T, H, W, 3) with these ascending numbers of a video file, as they are: opened, sought, decoded, closed.

    Not `seekable`: decoded from the beginning, in the decoder's order. Raises DataError that names the file.
    """
    try:
        if decoder == "torchcodec" and video_decoder() == "torchcodec":
            return np.asarray(
                _open_torchcodec(path).get_frames_at(numbers.tolist()).data.numpy(), np.uint8
            )
        return pyav_files.read_at(path, numbers, seekable=seekable)
    except (*BAD_FILE, LookupError) as error:  # PyAV's errors are among them
        numbers_text = f"frames {numbers[0]} to {numbers[-1]}"
        hint = "the file changed or cannot be reached any more; look at it, and run `prepare` again"
        raise DataError(
            f"cannot read {numbers_text} of {path}: {_first_line(error)}", hint=hint
        ) from error


class _Reading:
    """Frames in the making: those of the span, resized as they come."""

    def __init__(self, kept: Kept, span: Span, counted: bool) -> None:
        self.kept, self.span, self.counted = kept, span, counted
        self.parts: list[Frames] = []
        self.times: list[float] = []  # seconds, of the span's frames
        self.sides = (0, 0)  # px, of the source

    def add(self, frames: Frames, times: list[float]) -> None:
        """Next come `frames` (T, H, W, 3), shown from `times` on."""
        self.sides = (frames.shape[1], frames.shape[2])
        self.times += times
        if not self.counted:
            wanted = (
                self.kept.sides(*self.sides)
                if not self.parts
                else (self.parts[0].shape[1], self.parts[0].shape[2])
            )
            self.parts.append(resize(frames, wanted, antialias=self.kept.antialias))

    def cut(self, count: int) -> None:
        """Forget all but the first `count` frames, which were added one by one."""
        self.parts, self.times = self.parts[:count], self.times[:count]

    def video(self, *, fps: float, promised: int, decoder: str, fault: str = "") -> Video:
        """What was read, resampled."""
        found, variable = len(self.times), is_variable(self.times)
        steps = np.diff(self.times)
        length = max(self.times) - min(self.times) if found > 1 else 0.0
        rate = (found - 1) / length if length > 0 else fps
        times = (
            np.sort(np.asarray(self.times)) if variable or rate <= 0 else even_times(found, rate)
        )
        taken = resample(times, self.kept.fps) if self.kept.fps and found else np.arange(found)
        sides = self.kept.sides(*self.sides) if found else (0, 0)
        frames = np.concatenate(self.parts) if self.parts else np.empty((0, *sides, 3), np.uint8)
        resampled = bool(self.kept.fps) and len(frames) > 0
        return Video(
            frames=frames[taken] if resampled else frames,
            found=found,
            height=self.sides[0],
            width=self.sides[1],
            fps=fps,
            source_fps=rate,
            taken=taken,
            promised=promised,
            variable_rate=variable,
            seekable=not fault and bool((steps > 0).all()),
            decoder=decoder,
            fault=fault,
        )


def _torchcodec(path: Path, reading: _Reading) -> Video:
    try:
        decoder = _open_torchcodec(path)
    except BAD_FILE as error:
        return unreadable("torchcodec", _first_line(error))
    about = decoder.metadata
    stop = min(int(about.num_frames or 0), reading.span.stop)
    chunk = max(CHUNK_BYTES // max(int(about.height or 0) * int(about.width or 0) * 3, 1), 1)
    fault = ""
    for batch in _torchcodec_batches(decoder, reading.span.first, stop, chunk):
        if isinstance(batch, str):
            fault = batch
            break
        reading.add(batch.data.numpy(), batch.pts_seconds.reshape(-1).tolist())
    promised = int(about.num_frames_from_header or about.num_frames or 0)
    return reading.video(
        fps=float(about.average_fps or 0.0), promised=promised, decoder="torchcodec", fault=fault
    )


def _open_torchcodec(path: Path) -> Any:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]  # its __init__ re-exports without saying so

    return VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)


def _torchcodec_batches(decoder: Any, start: int, stop: int, chunk: int) -> Iterator[Any]:
    """Batches of frames in order; after the last good frame, the text of the error that ended it."""
    while start < stop:
        end = min(start + chunk, stop)
        try:
            yield decoder.get_frames_in_range(start, end)
            start = end
        except BAD_FILE as error:
            if chunk == 1:
                yield f"frame {start}: {_first_line(error)}"
                return
            chunk = 1  # the frames before the damage still count


def _pyav(path: Path, reading: _Reading) -> Video:
    import av

    span, fault, promised, fps = reading.span, "", 0, 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return unreadable("pyav", "it has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            reading.sides, promised, fps = (
                (stream.height, stream.width),
                stream.frames,
                float(stream.average_rate or 0),
            )
            for number, frame in enumerate(pyav_files.frames_of(container, stream)):
                if number >= span.first:
                    seconds = float((frame.pts or 0) * (stream.time_base or 0))
                    reading.add(pyav_files.picture(frame)[None], [seconds])
                if number + 1 >= span.stop:
                    break
    except (av.FFmpegError, *BAD_FILE) as error:
        reading.cut(_before_gap(reading.times))
        count = len(reading.times)
        fault = f"frame {span.first + count}: {_first_line(error)}" if count else _first_line(error)
    return reading.video(fps=fps, promised=promised, decoder="pyav", fault=fault)


def _before_gap(times: list[float]) -> int:
    """How many frames to keep before damage: those at the end that come after a gap do not belong where they would stand."""
    usual = float(np.median(np.diff(times))) if len(times) > 2 else 0.0
    keep = len(times)
    while keep > 2 and times[keep - 1] - times[keep - 2] > 1.5 * usual:
        keep -= 1
    return keep


class Damaged(Exception):
    """A stream of frames ends before the file should; the text says why."""


class Shown(NamedTuple):
    """One frame of a stream."""

    image: Frames  # (H, W, 3), upright, in the video's own size
    seconds: float  # since the first one; never less than the one before


def stream(path: Path) -> Iterator[Shown]:
    """Every frame of a video file, one at a time. Raises Damaged where it can be read no further, after the frames before that.

    In the decoder's order; the times, which some AVIs number otherwise, are sorted, as `read_video` does.
    """
    if why := _nothing_in(path):
        raise Damaged(why)
    first: float | None = None
    for image, seconds in _times_sorted(
        _stream_pyav(path) if find_spec("av") else _stream_torchcodec(path)
    ):
        first = seconds if first is None else first
        yield Shown(image, seconds - first)


def _times_sorted(frames: Iterator[tuple[Frames, float]]) -> Iterator[tuple[Frames, float]]:
    """The same frames with the same times, these ascending. What is held back for that comes before the frames' own error."""
    images, times, fault = deque[Frames](), list[float](), None
    try:
        for image, seconds in frames:
            images.append(image)
            heappush(times, seconds)
            if len(images) > REORDERED:
                yield images.popleft(), heappop(times)
    except Damaged as error:
        fault = error
    for image in images:
        yield image, heappop(times)
    if fault:
        raise fault


def promised(path: Path) -> int:
    """Frames that a file's header says there are; 0 where it says nothing, or nothing that can be read."""
    if not find_spec("av"):
        return 0
    import av

    try:
        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames)
    except (av.FFmpegError, *BAD_FILE):
        return 0


def _stream_pyav(path: Path) -> Iterator[tuple[Frames, float]]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Damaged("it has no video stream")
            source = container.streams.video[0]
            source.codec_context.thread_count = 1
            rate, base = float(source.average_rate or USUAL_RATE), float(source.time_base or 0)
            for number, frame in enumerate(pyav_files.frames_of(container, source)):
                seconds = number / rate if frame.pts is None or not base else frame.pts * base
                yield pyav_files.picture(frame), seconds
    except (av.FFmpegError, *BAD_FILE) as error:
        raise Damaged(_first_line(error)) from error


def _stream_torchcodec(path: Path) -> Iterator[tuple[Frames, float]]:
    try:
        decoder = _open_torchcodec(path)
    except BAD_FILE as error:
        raise Damaged(_first_line(error)) from error
    for batch in _torchcodec_batches(decoder, 0, int(decoder.metadata.num_frames or 0), 1):
        if isinstance(batch, str):
            raise Damaged(batch)
        yield batch.data.numpy()[0], float(batch.pts_seconds[0])


_READERS: dict[Decoder, Callable[[Path, _Reading], Video]] = {
    "torchcodec": _torchcodec,
    "pyav": _pyav,
}


def is_variable(times: list[float]) -> bool:
    """Whether frames come at uneven times (seconds, in any order), beyond what rounding to a container's time base does."""
    steps = np.diff(np.sort(np.asarray(times, dtype=np.float64)))
    if len(steps) < 2:
        return False
    usual = float(np.median(steps))
    return bool(np.abs(steps - usual).max() > max(0.1 * usual, 0.0015))


def unreadable(decoder: str, fault: str) -> Video:
    """A video of which nothing could be read."""
    return Video(
        frames=np.empty((0, 0, 0, 3), np.uint8),
        found=0,
        height=0,
        width=0,
        fps=0.0,
        taken=np.empty(0, np.int64),
        promised=0,
        variable_rate=False,
        seekable=False,
        decoder=decoder,
        fault=fault,
    )


def _nothing_in(path: Path) -> str:
    """Why no decoder need be asked about a file; "" when one must."""
    try:
        return "the file is empty" if path.stat().st_size == 0 else ""
    except OSError as error:
        return error.strerror or str(error)


def _first_line(error: Exception) -> str:
    # PyAV's and the system's: without a number and the file's name
    text = str(getattr(error, "strerror", "") or error)
    lines = CPP_PLACE.sub("", text.strip()).splitlines()
    return lines[0][:200].rstrip(" .") if lines else type(error).__name__
