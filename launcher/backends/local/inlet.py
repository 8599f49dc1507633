"""Write access to a claim's directory: the same receiver as in a pod, as a process of this machine."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from launcher.backend_base import Channel

_RECEIVER = Path(__file__).parents[2] / "receiving.py"
_BLOCK = 1 << 16


class Receiver:
    """A receiver process. A broken pipe is a ConnectionError, as on any wire."""

    def __init__(self, top: Path, folder: str, only: str) -> None:
        request = json.dumps({"top": str(top), "folder": folder, "only": only})
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_RECEIVER), request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]

    def receive(self, *, wait: bool) -> bytes | None:
        assert self._process.stdout is not None
        if not wait and not select.select([self._process.stdout], [], [], 0)[0]:
            return None
        return self._process.stdout.read(_BLOCK)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class LocalInlet:
    """One directory."""

    def __init__(self, top: Path) -> None:
        self._top = top

    @contextlib.contextmanager
    def connect(self, folder: str, only: str) -> Iterator[Channel]:
        with contextlib.closing(Receiver(self._top, folder, only)) as receiver:
            yield receiver
