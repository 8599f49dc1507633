"""`prepare.flow_to`: dense optical flow of each video, once, as images that a network reads like any other frames.

<flow_to>/flow.json                           how it was made; one folder never holds flow of two kinds
<flow_to>/<Class>/<video>/00001.jpg ...       image i: the flow from frame i to frame i + gap; there are `gap` fewer images than frames
    R = u, G = v, B = their magnitude, each round(clip(value * scale + 128, 0, 255)) with scale = 128 // flow_bound: the two-stream
    system's encoding

Two channels (`data.flow_channels: 2`) are read from the same images: the first two.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import PrepareConf
from trainer.data import decode, image_folder
from trainer.data.decode import Frames
from trainer.data.opencv import opencv
from trainer.data.outputs import Made, NothingMade, Task
from trainer.errors import DataError, TryAgain
from trainer.run_folder import own_name, writing

MARKER = "flow.json"
# what a network that learnt from flow must be fed alike; prepare.flow_method, ...
KIND = ("method", "bound", "gap")
QUALITY = 95  # of the jpg; its colours are not thinned out, since they are u and v
# pyramid scale, levels, window, iterations, neighbourhood, its sigma, flags
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)

Grey = npt.NDArray[np.uint8]  # (H, W)
FlowUV = npt.NDArray[np.float32]  # (H, W, 2), px: to the right, and down
Method = Callable[[Grey, Grey], FlowUV]


class Flow:
    """Flow images of videos and of folders of frames."""

    name = "flow"
    folders = True

    def __init__(self, conf: PrepareConf) -> None:
        self._method, self._gap, self._scale = (
            conf.flow_method,
            conf.flow_gap,
            scale_of(conf.flow_bound),
        )
        encoding = {
            "encoding": f"jpg {QUALITY}; R u, G v, B magnitude",
            "scale": self._scale,
            "offset": 128,
        }
        self.settings: Mapping[str, Any] = {
            "method": conf.flow_method,
            "bound": conf.flow_bound,
            "gap": conf.flow_gap,
            **encoding,
        }
        self._stopped = threading.Event()

    def make(self, task: Task, place: Path) -> Made:
        method, before, made, damage = method_of(self._method), deque[Grey](maxlen=self._gap), 0, ""
        try:
            for frame in read_grey(task.source):
                if self._stopped.is_set():
                    raise TryAgain("stopped while it computed flow")
                if len(before) == self._gap and before[0].shape == frame.shape:
                    made += 1
                    flow = method(before[0], frame)
                    (place / f"{made:05d}.jpg").write_bytes(to_jpg(flow, self._scale))
                before.append(frame)
        except decode.Damaged as error:
            damage = str(error)
        if not made:
            raise NothingMade(damage or f"it has no two frames {self._gap} apart")
        return Made(frames=made, damage=damage)

    def stop(self) -> None:
        self._stopped.set()


def method_of(name: str) -> Method:
    """A function for one thread: DIS keeps its buffers from pair to pair."""
    cv2 = opencv()
    if name == "farneback":
        return lambda first, second: np.asarray(
            cv2.calcOpticalFlowFarneback(first, second, None, *FARNEBACK), np.float32
        )
    presets = {
        "dis-fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        "dis-medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    }
    dis = cv2.DISOpticalFlow_create(presets[name])
    return lambda first, second: np.asarray(dis.calc(first, second, None), np.float32)


def scale_of(bound: int) -> int:
    """Levels of a flow image for one pixel of displacement, so that `bound` px fill it."""
    return 128 // bound


def to_image(flow: FlowUV, scale: int) -> Frames:
    """(H, W, 3) RGB of a flow (H, W, 2) in px."""
    channels = np.dstack([flow, np.hypot(flow[..., 0], flow[..., 1])])
    return np.asarray(np.rint(np.clip(channels * scale + 128, 0, 255)), np.uint8)


def to_jpg(flow: FlowUV, scale: int) -> bytes:
    """The image as a jpg file."""
    cv2 = opencv()
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, data = cv2.imencode(".jpg", to_image(flow, scale)[..., ::-1], options)
    return bytes(data)


def read_grey(source: Path) -> Iterator[Grey]:
    """The frames of a video file, or of a folder by number, one at a time. Raises decode.Damaged where no more can be read."""
    cv2 = opencv()
    for frame in (
        _images(source) if source.is_dir() else (shown.image for shown in decode.stream(source))
    ):
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _images(folder: Path) -> Iterator[Frames]:
    """A damaged one ends it: flow over a hole would be of another gap."""
    for number, path in image_folder.frame_paths(folder)[0].items():
        frame = image_folder.read_image(path)
        if frame is None:
            raise decode.Damaged(f"frame {number} is damaged: {path.name}")
        yield frame


def claim(root: Path, settings: Mapping[str, Any]) -> None:
    """Write the marker, or read that the folder's flow is of this kind. Raises DataError when it is of another, CannotWrite."""
    marker = root / MARKER
    text = json.dumps(dict(settings), indent=1) + "\n"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        mine = own_name(marker)
        mine.write_text(text)
        try:
            # whole at once, and only if there is none: several pods may claim it together
            os.link(mine, marker)
        except OSError:  # it is there, or the volume has no links
            if not marker.exists():
                mine.replace(marker)
        finally:
            mine.unlink(missing_ok=True)
    held = _read(marker)
    if held != dict(settings):
        said = ", ".join(
            f"{key} {held.get(key)}" for key, value in settings.items() if held.get(key) != value
        )
        wanted = ", ".join(
            f"{key} {value}" for key, value in settings.items() if held.get(key) != value
        )
        hint = "methods differ by some pixels, so one dataset has one: give prepare.flow_to another folder"
        raise DataError(f"{root} holds flow of another kind: {said}, not {wanted}", hint=hint)


def made_as(root: Path) -> dict[str, Any]:
    """How the flow in a folder was made, as a checkpoint keeps it; {} where nothing says it, as of flow that others made.

    Raises DataError for a marker that cannot be read.
    """
    held = _read(root / MARKER) if (root / MARKER).exists() else {}
    return {key: held[key] for key in KIND if key in held}


def _read(marker: Path) -> dict[str, Any]:
    try:
        raw = json.loads(marker.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {marker}: {error}", hint="remove the folder of flow, and prepare it anew"
        ) from error
    return raw if isinstance(raw, dict) else {}
