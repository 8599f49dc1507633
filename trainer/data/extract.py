"""`prepare.frames_to`: a folder of jpg for each video, by the rules that the published systems extracted theirs with.

kinetics    <frames_to>/<youtube id>/00001.jpg ...             ffmpeg -qscale:v 15 -r 16: the two-stream system
ucf101      <frames_to>/<Class>/<video>/image_00001.jpg ...    ffmpeg -vf scale=-1:240, and n_frames: the compressed 3D CNNs
c3d         <frames_to>/<Class>/<video>/00000.jpg 00001.jpg .. 000010.jpg    every 4th frame at 171 x 128: C3D. Read by number, not by name
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import PrepareConf
from trainer.data.dataset_files import video_stem
from trainer.data.ffmpeg import Ffmpeg, short_side
from trainer.data.outputs import Made, NothingMade, Task

NUMBER = re.compile(r"(\d+)\.jpg$")
KINETICS_NAME = re.compile(r"(.+)_\d{6}_\d{6}")  # <youtube id>_<first second>_<last second>
# frames from one kept frame to the next, and how many there must be more than
C3D_STEP, C3D_LEAST = 4, 16


class Extract:
    """Frames of videos by one of the rules."""

    name = "frames"
    folders = True

    def __init__(self, conf: PrepareConf) -> None:
        """Raises DataError without ffmpeg."""
        self._rule, self._short = conf.frames_rule, conf.short_side
        self.settings: Mapping[str, Any] = {"rule": self._rule, "short_side": self._short}
        self._ffmpeg = Ffmpeg()

    def make(self, task: Task, place: Path) -> Made:
        if task.source.is_dir():
            raise NothingMade("it is a folder of frames already")
        counted = self._ffmpeg.count(task.source)
        options, pattern = self._options(counted.held)
        said = self._ffmpeg.convert(task.source, options, pattern, folder=place)
        numbers = [int(match[1]) for path in place.iterdir() if (match := NUMBER.search(path.name))]
        if not numbers:
            raise NothingMade(said or "it holds no frame")
        if self._rule == "ucf101":
            (place / "n_frames").write_text(str(max(numbers)))
        return Made(frames=len(numbers), damage=said or counted.lack)

    def stop(self) -> None:
        self._ffmpeg.stop()

    def _options(self, held: int) -> tuple[list[str], str]:
        """ffmpeg's options and the pattern of the names, for a video that holds so many frames."""
        scale = ["-vf", short_side(self._short)] if self._short else []
        if self._rule == "kinetics":
            return [*scale, "-qscale:v", "15", "-r", "16"], "%05d.jpg"
        if self._rule == "ucf101":
            return scale or ["-vf", "scale=-1:240"], "image_%05d.jpg"
        filters = rf"select=not(mod(n\,{c3d_step(held)})),scale=171:128:flags=bilinear"
        return [
            "-vf",
            filters,
            *self._ffmpeg.every_frame,
            "-q:v",
            "2",
            "-start_number",
            "0",
        ], "0000%d.jpg"


def c3d_step(held: int) -> int:
    """4, or less for a video so short that no more than 16 frames would be left: 3, 2, at last 1."""
    return next((step for step in range(C3D_STEP, 1, -1) if held // step > C3D_LEAST), 1)


def folder_name(video: Path, root: Path, rule: str) -> Path:
    """Where a video's frames go, below frames_to: as the video lies below the dataset's root; kinetics has its ids side by side."""
    name = video_stem(video.name)
    if rule == "kinetics":
        match = KINETICS_NAME.fullmatch(name)
        return Path(match[1] if match else name)
    return relative(video, root).with_name(name)


def relative(video: Path, root: Path) -> Path:
    """A video's place below the root; of a video elsewhere its name in its folder."""
    return (
        video.relative_to(root)
        if video.is_relative_to(root)
        else Path(video.parent.name, video.name)
    )
