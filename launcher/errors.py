"""Every error that vidjobs raises on purpose, and the exit code of each.

    VidjobsError
    ├── UserError      1   what was typed: a run that does not exist, a bad option
    ├── ConfError      2   the conf file; carries every fault found, with file and line
    ├── JobFailed      4   the job ran and failed; carries its outcome
    └── ClusterError   5   the cluster, or the way to it
        └── AdmissionError   the API server refused the object; carries its whole message

Exit code 3 is a bug (anything else that reaches the top of `cli.py`), 130 an interrupt.
A message says what happened, with the value, and why; `hint` is the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUG = 3
INTERRUPTED = 130


class VidjobsError(Exception):
    """Base of all errors meant for the person at the terminal."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(VidjobsError):
    """What was typed cannot be done."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with a conf: where it stands and what to do."""

    path: str  # key path, "job.resources.gpus"
    message: str
    hint: str = ""
    file: str = ""  # "" when no file set the value
    line: int = 0  # 1-based; 0 when unknown

    def __str__(self) -> str:
        where = (
            f"{self.file}:{self.line}: "
            if self.file and self.line
            else f"{self.file}: "
            if self.file
            else ""
        )
        # "--set train.lr" has named it
        subject = f"{self.path}: " if self.path and not self.file.endswith(self.path) else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{subject}{self.message}{hint}"


class ConfError(VidjobsError):
    """The conf cannot be used. All faults are reported together."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault], *, hint: str = "") -> None:
        super().__init__("\n".join(str(fault) for fault in faults), hint=hint)
        self.faults = tuple(faults)


class JobFailed(VidjobsError):
    """The job ended without success."""

    exit_code = 4


class ClusterError(VidjobsError):
    """The cluster, or the connection to it, did not do what was asked.

    `status` is the HTTP status of the answer, 0 when there was none; `transient` when asking again may help;
    `begun` is False when it is certain that nothing was changed.
    """

    exit_code = 5
    begun = True

    def __init__(
        self, message: str, *, hint: str = "", status: int = 0, transient: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.transient = transient


class AdmissionError(ClusterError):
    """The API server refused an object; the message is the server's own, whole."""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean "frames"?`, or an empty string when nothing known is close to `word`."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""
