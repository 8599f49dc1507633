"""An error as JSON, and back: processes of a run tell each other what ended them, and the first cause is what all of them end with."""

from __future__ import annotations

import re
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trainer import ending
from trainer.errors import (
    CannotWrite,
    ConfFault,
    DataError,
    Diverged,
    Fault,
    NotOurs,
    TrainerError,
    TryAgain,
)

LOST_PEER = re.compile(
    r"gloo|NCCL|Connection (reset|closed|refused)|Broken pipe|Socket Timeout|socket has timed out|store->|TCPStore|failed to recv",
    re.IGNORECASE,
)
ERRORS: dict[str, type[TrainerError]] = {
    kind.cause: kind for kind in (DataError, CannotWrite, TryAgain, NotOurs, Diverged)
}

Report = Mapping[str, Any]


class LostPeers(TryAgain):
    """Processes of the run are gone, and here nobody knows why: whoever ended them does."""


def describe(error: BaseException, who: str) -> dict[str, Any]:
    """What the others need to end with the same error. `who` had it: "process 3", "node 1"."""
    cause, code = ending.classify(error)
    known = cause != "bug"
    lost = isinstance(error, LostPeers) or (
        isinstance(error, RuntimeError) and not known and bool(LOST_PEER.search(str(error)))
    )
    return {
        "at": time.time(),
        "who": who,
        "cause": cause,
        "exit_code": TryAgain.exit_code if lost else code,
        "message": getattr(error, "message", str(error)),
        "hint": getattr(error, "hint", ""),
        "faults": [asdict(fault) for fault in error.faults] if isinstance(error, ConfFault) else [],
        "lost_peer": lost,
        "trace": "" if known else "".join(traceback.format_exception(error)),
    }


def revive(report: Report, *, named: bool = False) -> Exception:
    """The error that `describe` told of. `named`: its message begins with who had it."""
    if report["cause"] == ConfFault.cause:
        return ConfFault([Fault(**fault) for fault in report["faults"]])
    kind = ERRORS.get(report["cause"])
    if kind is None:
        return RuntimeError(f"{report['who']} failed:\n{report['trace']}")
    who = f"{report['who']}: " if named else ""
    return kind(f"{who}{report['message']}", hint=report["hint"])


def first_failure(reports: Sequence[Report], killed: Mapping[int, int]) -> Exception:
    """The error that ended the first failing process. One that only lost its peers says nothing about the reason.

    `killed`: rank -> signal of the processes that a signal ended.
    """
    causes = sorted(
        (report for report in reports if not report["lost_peer"]),
        key=lambda report: float(report["at"]),
    )
    if causes:
        return revive(causes[0])
    for rank, number in killed.items():
        hint = "out of memory, most likely: lower train.batch or compute.workers, or raise job.resources.memory"
        name = signal.Signals(number).name
        return TryAgain(
            f"process {rank} was killed by {name}", hint=hint if number == signal.SIGKILL else ""
        )
    told = f": {reports[0]['message']}" if reports else ""
    return LostPeers(f"the processes lost each other{told}")
