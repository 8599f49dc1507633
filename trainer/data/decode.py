"""The only module that reads video: whole files or folders of frames, as RGB frames already resized.

torchcodec where it loads, else PyAV; single frames through OpenCV, which never reads video here (it ends a damaged file
without an error). Nothing is raised for a damaged file: the frames before the damage come back with what was wrong.
The decoders are imported when first used, so that workers that read the cache stay light.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]  # (T, H, W, 3), RGB
Decoder = Literal["torchcodec", "pyav"]

CHUNK_BYTES = 32 << 20  # of full-size frames held at once
FRAME_NAME = re.compile(r"frame_(\d+)\.jpe?g", re.IGNORECASE)
CPP_PLACE = re.compile(r"^\w+, \S+\.cpp:\d+, ")  # torchcodec says first where in its own source it raised
END_OF_JPEG = b"\xff\xd9"
BAD_FILE = (RuntimeError, ValueError, IndexError, OSError)  # what torchcodec raises for files that it cannot read


@dataclass(frozen=True, kw_only=True)
class Video:
    """What could be read of one video."""

    frames: Frames  # (T, size, size, 3); T is 0 when nothing could be read
    height: int  # px, of the source
    width: int
    fps: float  # 0.0 where it is not known (folders of frames)
    promised: int  # frames that the container, or the highest frame number, says there are; 0 = not known
    variable_rate: bool
    decoder: str
    fault: str = ""  # what stopped the decoder, or which frames are missing


@functools.cache
def video_decoder() -> Decoder:
    """The decoder this machine has. torchcodec loads only where FFmpeg's libraries are installed; PyAV brings its own."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def read_video(path: Path, *, size: int, limit: int, decoder: Decoder | None = None) -> Video:
    """The first `limit` frames of a video file, resized to `size` x `size` px (bilinear, as cv2.INTER_LINEAR)."""
    try:
        if path.stat().st_size == 0:
            return _unreadable("", "the file is empty")
    except OSError as error:
        return _unreadable("", error.strerror or str(error))
    if decoder:
        return _READERS[decoder](path, size, limit)
    video = _READERS[video_decoder()](path, size, limit)
    if (video.fault or video.variable_rate) and video.decoder != "pyav" and find_spec("av"):
        # It gives the frames too that the decoder held back when it met the damage, and keeps the decoder's order where
        # an AVI's timestamps are wrong (torchcodec finds frames by them).
        other = _pyav(path, size, limit)
        return other if len(other.frames) >= len(video.frames) else video
    return video


def read_frames(folder: Path, *, size: int, limit: int) -> Video:
    """The frames `frame_<n>.jpg` of a folder with n < `limit`, ordered by number and resized.

    A missing or damaged frame is the last good one before it (at the start: the first good one), and `fault` names its number.
    """
    try:
        paths = frame_paths(folder)
    except OSError as error:
        return _unreadable("jpg", error.strerror or str(error))
    numbers = [number for number in paths if number < limit]
    if not numbers:
        return _unreadable("jpg", "the folder holds no frame_<n>.jpg")
    count = max(numbers) + 1
    good: dict[int, Frames] = {}
    height = width = 0
    for number in numbers:
        frame = _read_jpg(paths[number])
        if frame is not None:
            height, width = frame.shape[:2]
            good[number] = resize(frame[None], size)[0]
    if not good:
        return _unreadable("jpg", "none of its frames can be read")
    bad = [number for number in range(count) if number not in good]
    frames = np.stack([good[number] for number in _last_good(sorted(good), count)])
    fault = f"frames {_ranges(bad)} are missing or damaged" if bad else ""
    promised = max(paths) + 1
    return Video(frames=frames, height=height, width=width, fps=0.0, promised=promised, variable_rate=False, decoder="jpg", fault=fault)


def frame_paths(folder: Path) -> dict[int, Path]:
    """Frame number -> file, ascending by number (frame_10 after frame_9). Other files in the folder are left alone."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := FRAME_NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def resize(frames: Frames, size: int) -> Frames:
    """Frames (T, H, W, 3) as (T, size, size, 3), bilinear."""
    if frames.shape[1:3] == (size, size):
        return frames
    import cv2

    resized = [cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in frames]
    return np.stack(resized) if resized else np.empty((0, size, size, 3), np.uint8)


def _torchcodec(path: Path, size: int, limit: int) -> Video:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]  # its __init__ re-exports without saying so

    try:
        decoder = VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)
    except BAD_FILE as error:
        return _unreadable("torchcodec", _first_line(error))
    about = decoder.metadata
    height, width = int(about.height or 0), int(about.width or 0)
    wanted = min(int(about.num_frames or 0), limit)
    chunk = max(CHUNK_BYTES // max(height * width * 3, 1), 1)
    parts, times, fault = [np.empty((0, size, size, 3), np.uint8)], [], ""
    for batch in _torchcodec_batches(decoder, wanted, chunk):
        if isinstance(batch, str):
            fault = batch
            break
        parts.append(resize(batch.data.numpy(), size))
        times += batch.pts_seconds.reshape(-1).tolist()
    return Video(
        frames=np.concatenate(parts),
        height=height,
        width=width,
        fps=float(about.average_fps or 0.0),
        promised=int(about.num_frames_from_header or about.num_frames or 0),
        variable_rate=is_variable(times),
        decoder="torchcodec",
        fault=fault,
    )


def _torchcodec_batches(decoder: Any, wanted: int, chunk: int) -> Iterator[Any]:
    """Batches of frames in order; after the last good frame, the text of the error that ended it."""
    start = 0
    while start < wanted:
        stop = min(start + chunk, wanted)
        try:
            yield decoder.get_frames_in_range(start, stop)
            start = stop
        except BAD_FILE as error:
            if chunk == 1:
                yield f"frame {start}: {_first_line(error)}"
                return
            chunk = 1  # the frames before the damage still count


def _pyav(path: Path, size: int, limit: int) -> Video:
    import av

    parts, times, fault = [np.empty((0, size, size, 3), np.uint8)], [], ""
    height = width = promised = 0
    fps = 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return _unreadable("pyav", "it has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            height, width, promised, fps = stream.height, stream.width, stream.frames, float(stream.average_rate or 0)
            for frame in _pyav_frames(container, stream):
                parts.append(resize(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)[None], size))
                times.append(float((frame.pts or 0) * (stream.time_base or 0)))
                if len(times) == limit:
                    break
    except (av.FFmpegError, *BAD_FILE) as error:
        keep = _before_gap(times)
        parts, times = parts[: keep + 1], times[:keep]
        fault = f"frame {keep}: {_first_line(error)}" if times else _first_line(error)
    return Video(
        frames=np.concatenate(parts),
        height=height,
        width=width,
        fps=fps,
        promised=promised,
        variable_rate=is_variable(times),
        decoder="pyav",
        fault=fault,
    )


def _before_gap(times: list[float]) -> int:
    """How many frames to keep before damage: those at the end that come after a gap do not belong where they would stand."""
    usual = float(np.median(np.diff(times))) if len(times) > 2 else 0.0
    keep = len(times)
    while keep > 2 and times[keep - 1] - times[keep - 2] > 1.5 * usual:
        keep -= 1
    return keep


def _pyav_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Frames up to the first damage, then its error; those that the decoder holds back at that moment come too."""
    import av

    try:
        for packet in container.demux(stream):
            yield from packet.decode()
    except av.FFmpegError:
        yield from stream.codec_context.decode(None)
        raise


_READERS: dict[Decoder, Callable[[Path, int, int], Video]] = {"torchcodec": _torchcodec, "pyav": _pyav}


def is_variable(times: list[float]) -> bool:
    """Whether frames come at uneven times (seconds, in any order), beyond what rounding to a container's time base does."""
    steps = np.diff(np.sort(np.asarray(times, dtype=np.float64)))
    if len(steps) < 2:
        return False
    usual = float(np.median(steps))
    return bool(np.abs(steps - usual).max() > max(0.1 * usual, 0.0015))


def _read_jpg(path: Path) -> Frames | None:
    """One frame (H, W, 3) RGB, or None when it is damaged. libjpeg fills up a truncated file with grey: its end mark must be there."""
    import cv2

    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.rstrip(b"\0").endswith(END_OF_JPEG):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _last_good(good: list[int], count: int) -> list[int]:
    """For each of `count` places the last number of `good` up to it, or the first one. good=[1, 3], count=5 -> 1 1 1 3 3"""
    places = np.searchsorted(np.asarray(good), np.arange(count), side="right") - 1
    return [good[max(place, 0)] for place in places]


def _ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _unreadable(decoder: str, fault: str) -> Video:
    frames = np.empty((0, 0, 0, 3), np.uint8)
    return Video(frames=frames, height=0, width=0, fps=0.0, promised=0, variable_rate=False, decoder=decoder, fault=fault)


def _first_line(error: Exception) -> str:
    lines = CPP_PLACE.sub("", str(error).strip()).splitlines()
    return lines[0][:200].rstrip(" .") if lines else type(error).__name__
