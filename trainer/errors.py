"""Every way the trainer ends, and its exit code (the Job's podFailurePolicy reads them).

    TrainerError
    ├── ConfFault       64   conf or usage; carries every fault
    ├── DataError       65   dataset missing or damaged beyond what `prepare` repairs
    ├── CannotWrite     73   volume full, over quota or not writable
    ├── TryAgain        75   stopped from outside (SIGTERM), lost its peers; a retry goes on from the checkpoint
    │   └── NotOurs     75   another process holds the run's folder: nothing is written there, not even this
    └── Diverged        76   the loss is not finite

Any other exception is a bug: exit code 70. The launcher's templates name these numbers too (contract test).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

BUG = 70


class TrainerError(Exception):
    """Base of all errors raised on purpose. `cause` is the one word that goes into the termination message."""

    exit_code = BUG
    cause = "bug"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with a flat conf."""

    path: str  # key path, "train.lr"
    message: str
    hint: str = ""

    def __str__(self) -> str:
        subject = f"{self.path}: " if self.path else ""
        return f"{subject}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfFault(TrainerError):
    """The flat conf or the command line cannot be used."""

    exit_code = 64
    cause = "conf"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class DataError(TrainerError):
    """The dataset is missing, or damaged in a way that must not be trained over silently."""

    exit_code = 65
    cause = "data"


class CannotWrite(TrainerError):
    """The run folder cannot be written: full, over quota, read-only, or owned by somebody else."""

    exit_code = 73
    cause = "cannot-write"


class TryAgain(TrainerError):
    """Nothing is wrong with the run: it was stopped and goes on from its last checkpoint."""

    exit_code = 75
    cause = "stopped"


class NotOurs(TryAgain):
    """Another process holds the run's folder, or took it over: what is written there is no longer this one's."""

    cause = "not-ours"


class Diverged(TrainerError):
    """The loss or a weight is NaN or infinite."""

    exit_code = 76
    cause = "diverged"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean "frames"?`, or an empty string when nothing known is close to `word`."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""
