"""Windows of a clip's length over a stream of frames, each as soon as its last frame is there, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from trainer.config import DataConf, PrepareConf
from trainer.data import flow
from trainer.data.crops import cut, test_box
from trainer.data.decode import Frames, Shown
from trainer.data.kept import Kept
from trainer.data.opencv import opencv
from trainer.data.resizing import resize
from trainer.data.sampling import clip_indices, span_of
from trainer.errors import DataError

Shrink = Callable[[Frames], Frames]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Consecutive frames of a video, and the clip made of them."""

    start: int  # number of its first frame
    # how many of the video it covers; fewer than a clip's span in a video that is shorter
    frames: int
    since: float  # seconds, of its first frame
    until: float  # of its last frame
    clip: Frames  # (T, size, size, C), as the network is fed
    # (picture to draw on, seconds) of the frames since the window before
    fresh: tuple[tuple[Frames, float], ...]


class Seen(NamedTuple):
    """One frame as the network takes it, and as people do."""

    image: Frames  # (H, W, C): colours, or flow
    picture: Frames  # (H, W, 3)
    seconds: float


def colours(frames: Iterator[Shown]) -> Iterator[Seen]:
    """For networks of the RGB stream."""
    return (Seen(frame.image, frame.image, frame.seconds) for frame in frames)


def flows(
    frames: Iterator[Shown], data: DataConf, made: PrepareConf, *, short_side: int = 0
) -> Iterator[Seen]:
    """For networks of the flow stream: the flow from each frame to the one `flow_gap` later, as `prepare` writes it (data/flow.py).

    `short_side` > 0: of frames resized so, since a motion has as many pixels as the frame it is seen in. Raises DataError for a video
    of too few frames.
    """
    cv2 = opencv()
    method, scale = flow.method_of(made.flow_method), flow.scale_of(made.flow_bound)
    sized = Kept.of(replace(data, resize=f"short:{short_side}")) if short_side else None
    held: deque[tuple[Shown, Frames]] = deque(maxlen=made.flow_gap + 1)
    found = False
    for frame in frames:
        height, width = frame.image.shape[:2]
        image = (
            resize(frame.image[None], sized.sides(height, width), antialias=sized.antialias)[0]
            if sized
            else frame.image
        )
        held.append((frame, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)))
        if len(held) == held.maxlen:
            found = True
            flow_image = flow.to_image(method(held[0][1], held[-1][1]), scale)[
                ..., : data.flow_channels
            ]
            yield Seen(flow_image, held[0][0].image, held[0][0].seconds)
    if not found:
        raise DataError(
            f"has no two frames {made.flow_gap} apart, so there is no flow",
            hint="prepare.flow_gap, infer.fps",
        )


def windows(
    frames: Iterator[Seen], data: DataConf, *, step: int, shrink: Shrink | None
) -> Iterator[Window]:
    """Windows that start every `step` frames; the last one ends with the video, so that no frame goes unseen.

    A video shorter than a window gives one, filled up as `data.short` says. `shrink` makes the pictures that answers are drawn on;
    without it none are kept.
    """
    span = span_of(data.frames, data.stride)
    held: deque[Seen] = deque(maxlen=span)  # as kept for the network
    fresh: list[tuple[Frames, float]] = []
    number, start, told = 0, 0, 0
    kept = Kept.of(data)
    for frame in frames:
        height, width = frame.image.shape[:2]
        image = resize(frame.image[None], kept.sides(height, width), antialias=kept.antialias)[0]
        held.append(frame._replace(image=image, picture=frame.picture[:0]))
        if shrink:
            fresh.append((shrink(frame.picture), frame.seconds))
        number += 1
        if number == start + span:
            yield _window(held, data, start=start, fresh=fresh)
            fresh, told, start = [], number, start + step
    if number > told:
        yield _window(held, data, start=max(number - span, 0), fresh=fresh)


def _window(
    held: deque[Seen], data: DataConf, *, start: int, fresh: list[tuple[Frames, float]]
) -> Window:
    wanted = clip_indices(len(held), data.frames, stride=data.stride, loop=data.short == "loop")
    kept = np.stack([held[place].image for place in wanted.tolist()])
    clip = np.empty((data.frames, data.size, data.size, kept.shape[3]), np.uint8)
    cut(kept, test_box(kept.shape[1], kept.shape[2], data), clip, antialias=data.antialias)
    return Window(
        start=start,
        frames=len(held),
        since=held[0].seconds,
        until=held[-1].seconds,
        clip=clip,
        fresh=tuple(fresh),
    )
