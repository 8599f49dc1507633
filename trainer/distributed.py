"""Several processes for one training: starting them, passing SIGTERM on, ending with what the first one failed of.

`World` is one process's place among them; with one process every method answers at once, without torch.distributed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, RunProcsResult, start_processes

from trainer.errors import BUG, CannotWrite, ConfFault, DataError, Diverged, Fault, TrainerError, TryAgain
from trainer.stopping import grace

P = ParamSpec("P")
PATIENCE = timedelta(minutes=60)  # for a peer that writes a checkpoint to a slow volume
SPARE = 5  # seconds of the grace kept for ending ourselves
LOST_PEER = re.compile(r"gloo|NCCL|Connection (reset|closed|refused)|Socket Timeout|store->", re.IGNORECASE)
ERRORS: dict[str, type[TrainerError]] = {kind.cause: kind for kind in (DataError, CannotWrite, TryAgain, Diverged)}


@dataclass(frozen=True)
class World:
    """One process among `size`. All methods are collective: every process calls them in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def any(self, flag: bool) -> bool:
        """Whether it is true on any process."""
        return bool(self.sum([float(flag)])[0])

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the processes, in float64; the same on all of them."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank, on every process."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            self.sum([0.0])

    def share_buffers(self, model: nn.Module) -> None:
        """Rank 0's BatchNorm statistics for all: they are what its checkpoint holds."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def launch(processes: int, fn: Callable[Concatenate[World, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call `fn(world, ...)` in `processes` processes of this node; with one, here.

    `fn` is a function of a module and its arguments can be pickled. SIGTERM is passed on; after `grace` what is left is killed.
    Raises what the first failing process raised; TryAgain when one was killed or lost its peers.
    """
    if processes == 1:
        fn(World(), *args, **kwargs)
        return
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failure is told once, by our error
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGUSR2"  # none that we use: SIGTERM is ours to pass on
    with tempfile.TemporaryDirectory(prefix="vidjobs-ranks-") as name, _passing_on_sigterm() as sigterm:
        reports = Path(name)
        context = start_processes(
            name="trainer",
            entrypoint=_rank,
            args={rank: (World(rank, processes, rank), os.getpid(), str(reports), (fn, args, kwargs)) for rank in range(processes)},
            envs={rank: {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)} for rank in range(processes)},
            logs_specs=DefaultLogsSpecs(log_dir=str(reports / "logs")),
            start_method="spawn",
        )
        try:
            sigterm.pids = list(context.pids().values())
            result = _supervise(context, sigterm)
        except BaseException:
            context.close(signal.SIGTERM, timeout=SPARE)
            raise
        if result is None:
            raise TryAgain(f"the processes did not end within the grace of {grace():.0f} s after SIGTERM", hint="raise job.grace")
        if result.is_failed():
            raise first_failure(_read_reports(reports), _killed(result))


def first_failure(reports: list[dict[str, Any]], killed: dict[int, int]) -> Exception:
    """The error that ended the first failing process. One that only lost its peers says nothing about the reason."""
    causes = sorted((report for report in reports if not report["lost_peer"]), key=lambda report: float(report["at"]))
    if causes:
        return _revive(causes[0])
    for rank, number in killed.items():
        hint = "out of memory, most likely: lower train.batch or compute.workers, or raise job.resources.memory"
        name = signal.Signals(number).name
        return TryAgain(f"process {rank} was killed by {name}", hint=hint if number == signal.SIGKILL else "")
    told = f": {reports[0]['message']}" if reports else ""
    return TryAgain(f"the processes lost each other{told}")


class _Sigterm:
    """Passes SIGTERM on to the processes, also one that came before they were there, and remembers when."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        self.at: float | None = None  # monotonic seconds

    @property
    def pids(self) -> list[int]:
        return self._pids

    @pids.setter
    def pids(self, pids: list[int]) -> None:
        self._pids = pids
        if self.at is not None:
            self.handle()

    def handle(self, *_: object) -> None:
        self.at = time.monotonic() if self.at is None else self.at
        for pid in self._pids:
            _signal(pid, signal.SIGTERM)


@contextmanager
def _passing_on_sigterm() -> Iterator[_Sigterm]:
    sigterm = _Sigterm()
    previous = signal.signal(signal.SIGTERM, sigterm.handle)
    try:
        yield sigterm
    finally:
        signal.signal(signal.SIGTERM, previous)


def _supervise(context: PContext, sigterm: _Sigterm) -> RunProcsResult | None:
    """Wait for the processes; None when they had to be killed after the grace."""
    while True:
        result = context.wait(timeout=0.5, period=0.05)
        if result is not None:
            return result
        if sigterm.at is not None and time.monotonic() > sigterm.at + max(grace() - SPARE, 1):
            context.close(signal.SIGKILL, timeout=1)
            return None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended already


def _killed(result: RunProcsResult) -> dict[int, int]:
    """rank -> signal of the processes that a signal ended."""
    return {rank: -failure.exitcode for rank, failure in result.failures.items() if failure.exitcode < 0}


def _rank(world: World, parent: int, folder: str, call: tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]) -> None:
    """One process: join the others, run, and end with the exit code of what went wrong."""
    code = 0
    threading.Thread(target=_end_without, args=(parent,), name="parent-watch", daemon=True).start()
    try:
        _join(world, Path(folder) / "meeting")
        fn, args, kwargs = call
        fn(world, *args, **kwargs)
        dist.destroy_process_group()
    except BaseException as error:  # noqa: BLE001  the top of a process: every ending is reported to the parent
        code = _report(error, world.rank, Path(folder))
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a peer may be gone: the usual end would wait for it in a destructor


def _end_without(parent: int) -> None:
    """The parent holds the run's lock: when it is killed, nobody may write any more."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(TryAgain.exit_code)


def _join(world: World, meeting: Path) -> None:
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one node; a pod's own name need not resolve
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= world.size
    if cuda:
        torch.cuda.set_device(world.local_rank)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=world.rank, world_size=world.size, timeout=PATIENCE)


def _report(error: BaseException, rank: int, folder: Path) -> int:
    known = isinstance(error, TrainerError)
    lost = not known and isinstance(error, (dist.DistError, RuntimeError)) and bool(LOST_PEER.search(str(error)))
    code = error.exit_code if isinstance(error, TrainerError) else TryAgain.exit_code if lost else BUG
    report = {
        "at": time.time(),
        "rank": rank,
        "cause": error.cause if isinstance(error, TrainerError) else "bug",
        "message": getattr(error, "message", str(error)),
        "hint": getattr(error, "hint", ""),
        "faults": [asdict(fault) for fault in error.faults] if isinstance(error, ConfFault) else [],
        "lost_peer": lost,
        "trace": "" if known else "".join(traceback.format_exception(error)),
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(report))
    return code


def _read_reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]


def _revive(report: dict[str, Any]) -> Exception:
    if report["cause"] == ConfFault.cause:
        return ConfFault([Fault(**fault) for fault in report["faults"]])
    kind = ERRORS.get(report["cause"])
    if kind is None:
        return RuntimeError(f"process {report['rank']} failed:\n{report['trace']}")
    return kind(report["message"], hint=report["hint"])
