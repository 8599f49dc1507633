"""The only module that starts the ffmpeg and ffprobe programs: for what `prepare` makes of a download."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.outputs import NothingMade
from trainer.errors import CannotWrite, DataError, TryAgain

_WHERE = re.compile(r"^\[[^\]]* @ 0x[0-9a-f]+\] ")  # ffmpeg says first which of its parts speaks
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
)
_HINT = "apt install ffmpeg, or conda install -c conda-forge ffmpeg; the job image has it"


class Counted(NamedTuple):
    """Frames of a file's video stream; 0 = it cannot be told."""

    held: int
    promised: int

    @property
    def lack(self) -> str:
        """What is missing, for people."""
        return (
            f"it holds {self.held} of the {self.promised} frames that its header promises"
            if self.held < self.promised
            else ""
        )


class Ffmpeg:
    """ffmpeg for several threads at once, one core each; `stop` ends all of its processes."""

    def __init__(self) -> None:
        """Raises DataError where the program is missing."""
        self._program, self._probe = require("ffmpeg"), require("ffprobe")
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def convert(self, source: Path, options: Sequence[str], output: str, *, folder: Path) -> str:
        """`ffmpeg -i source options output` in `folder`; what it complained of first, "" when of nothing.

        Raises NothingMade with its reason, CannotWrite when the volume refuses, TryAgain once stopped.
        """
        head = [
            self._program,
            "-nostdin",
            "-hide_banner",
            "-v",
            "error",
            "-max_error_rate",
            "1",
            "-y",
            "-threads",
            "1",
        ]
        code, said = self._run(
            [*head, "-i", f"file:{source.absolute()}", *options, "-threads", "1", output], folder
        )
        if any(word in line for line in said for word in _FULL) and code:
            place = folder.parent if folder.suffix == ".part" else folder
            raise CannotWrite(
                f"ffmpeg cannot write in {place}: {said[-1]}",
                hint="free space there, or write elsewhere",
            )
        if code:
            raise NothingMade(said[0] if said else f"ffmpeg ended with {code}")
        return said[0] if said else ""

    def count(self, source: Path) -> Counted:
        """The frames of the first video stream as its container has them (undecoded): held, and promised by its header."""
        entries = "stream=nb_frames,nb_read_packets"
        wanted = [
            "-select_streams",
            "v:0",
            "-count_packets",
            "-show_entries",
            entries,
            "-of",
            "default=noprint_wrappers=1",
        ]
        command = [self._probe, "-v", "error", *wanted, f"file:{source.absolute()}"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        facts = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
        held, promised = (
            int(text) if (text := facts.get(key, "")).isdigit() else 0
            for key in ("nb_read_packets", "nb_frames")
        )
        return Counted(held, promised)

    @functools.cached_property
    def every_frame(self) -> tuple[str, str]:
        """The option that keeps each frame at its own time; its name changed with ffmpeg 5.1."""
        said = subprocess.run(
            [self._program, "-version"], capture_output=True, text=True, check=False
        ).stdout
        version = re.match(r"ffmpeg version n?(\d+)\.(\d+)", said)
        old = version is not None and (int(version[1]), int(version[2])) < (5, 1)
        return ("-vsync" if old else "-fps_mode", "passthrough")

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _run(self, command: list[str], folder: Path) -> tuple[int, list[str]]:
        with self._lock:
            if self._stopped:
                raise TryAgain("stopped while ffmpeg was at work")
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            self._running.add(process)
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        if self._stopped:
            raise TryAgain("stopped while ffmpeg was at work")
        lines = said.decode(errors="replace").splitlines()
        return process.returncode, [
            _WHERE.sub("", line).strip()[:200] for line in lines if line.strip()
        ]


def require(program: str) -> str:
    """The program's path. Raises DataError that says how to get it."""
    found = shutil.which(program)
    if not found:
        raise DataError(
            f"the program {program} is not on this machine's PATH, and prepare needs it here",
            hint=_HINT,
        )
    return found


def short_side(pixels: int) -> str:
    """ffmpeg's filter that scales the short side to `pixels`, the other to the nearest even number."""
    return f"scale='if(gt(iw,ih),-2,{pixels})':'if(gt(iw,ih),{pixels},-2)'"
