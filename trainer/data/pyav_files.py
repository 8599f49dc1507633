"""What PyAV gives of an open video file: its frames in the decoder's order, upright, up to the first damage."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.resizing import Frames
from trainer.data.sampling import Indices


def frames_of(container: Any, stream: Any) -> Iterator[Any]:
    """Frames up to the first damage, then its error; those that the decoder holds back at that moment come too."""
    import av

    try:
        for packet in container.demux(stream):
            yield from packet.decode()
    except av.FFmpegError:
        yield from stream.codec_context.decode(None)
        raise


def picture(frame: Any) -> Frames:
    """Upright, as torchcodec and the ffmpeg program give it: phones film lying down and note by how much it is to be turned."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    quarters = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def read_at(path: Path, numbers: Indices, *, seekable: bool) -> Frames:
    """The frames (T, H, W, 3) with these ascending numbers; not `seekable`: of all decoded from the beginning.

    Raises OSError, ValueError or LookupError.
    """
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if not seekable:
            left, frames = set(numbers.tolist()), enumerate(frames_of(container, stream))
            pictures = {
                number: picture(frame)
                for number, frame in islice(frames, int(numbers[-1]) + 1)
                if number in left
            }
            return np.stack([pictures[number] for number in numbers.tolist()])
        shown = sorted(
            packet.pts
            for packet in container.demux(stream)
            if packet.pts is not None and not packet.is_discard
        )
        wanted = [shown[number] for number in numbers.tolist()]
        # where frames are reordered, a key frame before `start` may be shown after it
        for start in (wanted[0], shown[0]):
            container.seek(start, stream=stream)
            pictures = _until(container, stream, wanted)
            if len(pictures) == len(wanted):
                return np.stack([pictures[time] for time in wanted])
    raise LookupError("the frames are not where their time stamps say")


def _until(container: Any, stream: Any, wanted: list[int]) -> dict[int, Frames]:
    """Time stamp -> frame (H, W, 3), of those among `wanted` that come before the last of them is over."""
    pictures, left = {}, set(wanted)
    for frame in container.decode(stream):
        if frame.pts in left:
            pictures[frame.pts] = picture(frame)
        if frame.pts is not None and frame.pts >= wanted[-1]:
            break
    return pictures
