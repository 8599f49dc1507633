"""Several processes for one training: starting this node's, passing SIGTERM on, ending with what the first one failed of.

`World` is one process's place among those of all nodes (trainer/rendezvous.py); with one process every method answers at
once, without torch.distributed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import FileStore, GradBucket, PrefixStore, Store, TCPStore
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    PContext,
    RunProcsResult,
    start_processes,
)
from torch.nn.parallel import DistributedDataParallel

from trainer import failures
from trainer.errors import TryAgain
from trainer.meeting import CALL, Place, interface_towards
from trainer.rendezvous import Group
from trainer.stopping import grace

P = ParamSpec("P")
PATIENCE = timedelta(minutes=60)  # for a peer that writes a checkpoint to a slow volume
SPARE = 5  # seconds of the grace kept for ending ourselves
# seconds after which torch kills processes that do not heed its SIGTERM (30, with some to spare)
STUBBORN = 25.0


@dataclass(frozen=True)
class World:
    """One process among `size`. All methods are collective: every process calls them in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # processes of this node

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

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model whose gradients are the mean over the processes; with one process the model itself."""
        if self.size == 1:
            return model
        cuda = device.type == "cuda"
        network = DistributedDataParallel(
            model, device_ids=[device] if cuda else None, gradient_as_bucket_view=True
        )
        if not cuda:
            network.register_comm_hook(None, lambda _, bucket: _mean_by_rank(bucket))
        return network

    def share_buffers(self, model: nn.Module) -> None:
        """Rank 0's BatchNorm statistics for all: they are what its checkpoint holds."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def _mean_by_rank(bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The mean of a bucket's gradients, added up by rank.

    gloo's all_reduce adds the terms of an element in an order that depends on the element's place in its bucket, and
    DistributedDataParallel lays the buckets out anew after the first step of a process. With three terms a resumed run would
    so differ in the last digit from one that was not interrupted.
    """
    mine = bucket.buffer()
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    total = parts[0]
    for part in parts[1:]:
        total += part
    mean: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    mean.set_result(total.div_(len(parts)))
    return mean


def launch(
    nodes: Group,
    processes: int,
    fn: Callable[Concatenate[World, P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Call `fn(world, ...)` in `processes` processes of this node, beside those of the other nodes; with one in all, here.

    `fn` is a function of a module and its arguments can be pickled. SIGTERM is passed on; after `grace` what is left is killed.
    Raises what the first failing process raised; TryAgain when one was killed, LostPeers when they only lost others.
    """
    first, size = nodes.count(processes)
    if size == 1:
        fn(World(), *args, **kwargs)
        return
    # the failure is told once, by our error
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # none that we use: SIGTERM is ours to pass on
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGUSR2"
    worlds = {local: World(first + local, size, local, processes) for local in range(processes)}
    with (
        tempfile.TemporaryDirectory(prefix="vidjobs-ranks-") as name,
        _passing_on_sigterm() as sigterm,
    ):
        reports = Path(name)
        context = start_processes(
            name="trainer",
            entrypoint=_rank,
            args={
                local: (world, os.getpid(), (str(reports), nodes.place), (fn, args, kwargs))
                for local, world in worlds.items()
            },
            envs={local: _environment(world) for local, world in worlds.items()},
            logs_specs=DefaultLogsSpecs(log_dir=str(reports / "logs")),
            start_method="spawn",
        )
        try:
            sigterm.pids = list(context.pids().values())
            killed = _supervise(context, sigterm)
        except BaseException:
            context.close(signal.SIGTERM, timeout=SPARE)
            raise
        if killed is not None:
            raise failures.first_failure(
                _read_reports(reports), {first + local: number for local, number in killed.items()}
            )


def _environment(world: World) -> dict[str, str]:
    return {
        "RANK": str(world.rank),
        "LOCAL_RANK": str(world.local_rank),
        "WORLD_SIZE": str(world.size),
    }


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


def _supervise(context: PContext, sigterm: _Sigterm) -> dict[int, int] | None:
    """Wait for the processes. None when all ended well, else local rank -> signal of those that a signal ended.

    Raises TryAgain when they had to be killed after the grace.
    """
    while True:
        began = time.monotonic()
        result = context.wait(timeout=0.5, period=0.05)
        if result is not None:
            return (
                _killed(result, context, took=time.monotonic() - began)
                if result.is_failed()
                else None
            )
        if sigterm.at is not None and time.monotonic() > sigterm.at + max(grace() - SPARE, 1):
            context.close(signal.SIGKILL, timeout=1)
            raise TryAgain(
                f"the processes did not end within the grace of {grace():.0f} s after SIGTERM",
                hint="raise job.grace",
            )


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended already


def _killed(result: RunProcsResult, context: PContext, *, took: float) -> dict[int, int]:
    """Local rank -> signal. `result` names the failure that was looked at first, which may be the echo of another one.

    Since then the rest got SIGTERM from torch, and those that did not heed it for long SIGKILL.
    """
    codes = {
        rank: process.exitcode or 0
        for rank, process in enumerate(getattr(getattr(context, "_pc", None), "processes", ()))
    }
    ours = (-signal.SIGTERM, -signal.SIGKILL) if took > STUBBORN else (-signal.SIGTERM,)
    codes = {rank: code for rank, code in codes.items() if code not in ours}
    codes |= {rank: failure.exitcode for rank, failure in result.failures.items()}
    return {rank: -code for rank, code in codes.items() if code < 0}


def _rank(
    world: World,
    parent: int,
    where: tuple[str, Place],
    call: tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]],
) -> None:
    """One process: join the others, run, and end with the exit code of what went wrong."""
    code, (folder, place) = 0, where
    threading.Thread(target=_end_without, args=(parent,), name="parent-watch", daemon=True).start()
    try:
        _join(world, Path(folder) / "meeting", place)
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


def _join(world: World, meeting: Path, place: Place) -> None:
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= world.local_size
    if cuda:
        torch.cuda.set_device(world.local_rank)
    if place.alone:
        # a pod's own name need not resolve
        interface = "lo" if Path("/sys/class/net/lo").exists() else ""
        store: Store = FileStore(str(meeting), world.size)
    else:
        interface = interface_towards(place.host, place.port)
        server = TCPStore(
            place.host, place.port, is_master=False, wait_for_workers=False, timeout=CALL
        )
        store = PrefixStore("ranks", server)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE
    )


def _report(error: BaseException, rank: int, folder: Path) -> int:
    report = failures.describe(error, f"process {rank}")
    (folder / f"rank-{rank}.json").write_text(json.dumps(report))
    code: int = report["exit_code"]
    return code


def _read_reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
