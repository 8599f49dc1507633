"""How scripts read a clip without vidjobs: open, seek, decode, close, with each decoder. The peers of bench_data.py and bench_clips.py."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np


def torchcodec(path: Path, start: int, frames: int) -> np.ndarray:
    """`frames` frames from `start` on, (T, H, W, 3) RGB: seek and decode."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    return np.asarray(decoder.get_frames_in_range(start, start + frames).data.numpy())


def pyav(path: Path, start: int, frames: int) -> np.ndarray:
    """The same: decode from the key frame before the start."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = 1 / (stream.average_rate * stream.time_base)
        container.seek(int(start * step), stream=stream)
        for frame in container.decode(stream):
            if round(frame.pts / step) >= start:
                found.append(frame.to_ndarray(format="rgb24"))
            if len(found) == frames:
                break
    return np.stack(found)


def opencv(path: Path, start: int, frames: int) -> np.ndarray:
    """The same, as most scripts do it."""
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_POS_FRAMES, start)
    found = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(frames)]
    capture.release()
    return np.stack(found)


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """(T, size, size, 3), bilinear."""
    return np.stack(
        [cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in frames]
    )
