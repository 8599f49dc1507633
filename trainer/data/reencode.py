"""`prepare.videos_to`: the same videos with a key frame every few frames, so that a clip is found without decoding all before it.

H.264 without B-frames and sound; each frame at its own time, also of a variable rate; as many frames as before, counted by our decoder.
A file keeps its name where its container takes H.264; of others (GIF, WebM, ...) the suffix becomes .mp4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import PrepareConf
from trainer.data import decode
from trainer.data.extract import relative
from trainer.data.ffmpeg import Ffmpeg, short_side
from trainer.data.kept import Kept
from trainer.data.outputs import Made, NothingMade, Task

# ffmpeg's names
FORMATS = {".avi": "avi", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
EVEN = "scale='trunc(iw/2)*2':'trunc(ih/2)*2'"  # yuv420p has half the colour in both directions
AS_IT_IS = Kept(resize="original")


class Reencode:
    """Videos with a short distance between key frames."""

    name = "videos"
    folders = False

    def __init__(self, conf: PrepareConf) -> None:
        """Raises DataError without ffmpeg."""
        self._gop, self._short = conf.gop, conf.short_side
        self.settings: Mapping[str, Any] = {"gop": self._gop, "short_side": self._short, "crf": 18}
        self._ffmpeg = Ffmpeg()

    def make(self, task: Task, place: Path) -> Made:
        before = decode.read_video(task.source, AS_IT_IS, counted=True)
        if not before.found:
            raise NothingMade(before.fault or "it holds no frame")
        # ffmpeg goes on after damage, with frames it makes up
        good = ["-frames:v", str(before.found)] if before.fault else []
        said = self._ffmpeg.convert(
            task.source, [*self._options(task.target), *good], place.name, folder=place.parent
        )
        after = decode.read_video(place, AS_IT_IS, counted=True)
        if after.found != before.found:
            raise NothingMade(
                f"{before.found} frames became {after.found}" + (f" ({said})" if said else "")
            )
        return Made(frames=after.found, damage=before.fault or said)

    def stop(self) -> None:
        self._ffmpeg.stop()

    def _options(self, target: Path) -> list[str]:
        gop = str(self._gop)
        picture = ["-vf", short_side(self._short) if self._short else EVEN, "-pix_fmt", "yuv420p"]
        keys = ["-g", gop, "-keyint_min", gop, "-sc_threshold", "0", "-bf", "0"]
        # -1: the source's own ticks, so that no time is rounded
        times = [*self._ffmpeg.every_frame, "-enc_time_base", "-1"]
        codec = ["-c:v", "libx264", "-crf", "18", "-preset", "medium"]
        return [
            "-map",
            "0:v:0",
            "-an",
            *picture,
            *codec,
            *keys,
            *times,
            "-f",
            FORMATS[target.suffix.lower()],
        ]


def file_name(video: Path, root: Path) -> Path:
    """Where a video goes, below videos_to."""
    name = relative(video, root)
    return name if name.suffix.lower() in FORMATS else name.with_suffix(".mp4")
