"""What the trainer's exit codes mean, and what to do next: shared by the backends, since both report them."""

from __future__ import annotations

import signal

_KILLED = 128 + signal.SIGKILL

_MEANING = {
    64: (
        "the conf or the command line cannot be used",
        "correct the conf (`vidjobs lint CONF` shows every fault), then submit again",
    ),
    65: (
        "input data are missing or damaged",
        "correct what it names (`vidjobs submit prepare` reports on a data set), then submit again",
    ),
    70: (
        "a bug in the program",
        "`vidjobs logs {run}` shows where; `vidjobs resume {run}` goes on from the last checkpoint",
    ),
    73: (
        "the run folder could not be written",
        "free space on the runs volume or correct its rights, then `vidjobs resume {run}`",
    ),
    75: (
        "stopped from outside, to be tried again",
        "`vidjobs resume {run}` goes on from the last checkpoint",
    ),
    76: (
        "the loss is no longer finite",
        "lower `train.lr` or look at the samples it names; the last finite checkpoint is kept",
    ),
    126: ("the command may not be executed", "`vidjobs logs {run}` names it"),
    127: ("the command was not found", "`vidjobs logs {run}` names it"),
    128: ("the command could not be started", "`vidjobs logs {run}` says why"),
    _KILLED: (
        "killed (SIGKILL): most often out of memory",
        "give it more `job.resources.memory`, or use a smaller `train.batch`",
    ),
    139: ("crashed in native code (SIGSEGV)", "`vidjobs logs {run}` shows the last lines"),
}


def meaning(code: int) -> str:
    """A few words: `exit code 65: the data set is missing or damaged`."""
    if code in _MEANING:
        return f"exit code {code}: {_MEANING[code][0]}"
    known = {int(number) for number in signal.Signals}
    return (
        f"exit code {code}: ended by {signal.Signals(code - 128).name}"
        if code - 128 in known
        else f"exit code {code}"
    )


def log_tells(code: int) -> bool:
    """Whether the log's last line is about the end: what is killed with SIGKILL had no time to say so."""
    return code != _KILLED


def next_step(code: int, run: str) -> str:
    """What the person does about it."""
    fix = _MEANING[code][1] if code in _MEANING else "`vidjobs logs {run}` shows what happened"
    return fix.format(run=run)
