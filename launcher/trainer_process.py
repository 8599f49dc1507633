"""`python -m trainer ...` as a process. Light to import, so that the trainer's check starts before all else that a command needs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

LIMIT_S = 60


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainer ...` of the working directory, else of the installation that this launcher is part of."""
    return subprocess.run(
        _command(*arguments),
        env=_environment(),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT_S,
        check=False,
        text=True,
    )


class Checking:
    """`python -m trainer check`, started before its conf is known: it takes as long to start as the launcher to read a conf.

    `tell` it the conf once, then take its `answer`; what is done between costs no time. Leaving the context ends it.
    """

    def __init__(self, verb: str = "train", *, trials: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="vidjobs-") if trials else ""
        more = ["--trials", self._trials_file] if trials else []
        self._process = subprocess.Popen(
            _command("check", "--verb", verb, "--conf", "/dev/stdin", "--json", *more),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    @property
    def _trials_file(self) -> str:
        return f"{self._folder}/trials.jsonl"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with self._process:  # closes its pipes and waits
            pass
        if self._folder:
            Path(self._trials_file).unlink(missing_ok=True)
            Path(self._folder).rmdir()

    def tell(self, conf: str, trials: str = "") -> None:
        """The flat conf, and the trials file of a sweep."""
        if self._folder:
            Path(self._trials_file).write_text(trials, encoding="utf-8")
        pipe, self._process.stdin = self._process.stdin, None  # communicate() would flush it
        assert pipe is not None
        # one that could not start says why on stderr
        with contextlib.suppress(BrokenPipeError), pipe:
            pipe.write(conf)

    def answer(self) -> tuple[str, str]:
        """What it wrote to stdout and stderr. subprocess.TimeoutExpired after LIMIT_S."""
        return self._process.communicate(timeout=LIMIT_S)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainer", *arguments]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(
        part for part in (os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1])) if part
    )
    return {**os.environ, "PYTHONPATH": path}
