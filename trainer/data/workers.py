"""Data worker processes: light to start, and out of the way of the trainer's own signals and locks.

They are forked from a small server process, not from the trainer, so they inherit none of its signal handlers, open files
(the run folder's lock), CUDA state or threads, and they are in another process group (worker_server.py): a SIGTERM or Ctrl-C
meant for the trainer does not reach them, and it finishes its step with them. They end when the trainer closes them or is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.data.loader import ClipSet, Key

T = TypeVar("T")
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
STOPPING = (signal.SIGINT, signal.SIGTERM)
LATE_S = 2.0  # for threads that have nothing left to do but end


def load(
    clips: ClipSet, keys: Iterable[list[Key]], *, workers: int, pin: bool
) -> Iterator[Tensors]:
    """`clips.__getitems__(k)` for each k of `keys`, in their order, computed by `workers` processes ahead of time."""
    _start_server()
    loader = DataLoader(
        _Telling(clips),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        worker_init_fn=_begin_worker,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
        # its own: torch's global one belongs to the model, and must not depend on workers
        generator=torch.Generator(),
    )
    before = set(threading.enumerate())
    source = iter(loader)
    feeding = set(threading.enumerate()) - before
    try:
        for batch in source:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        del source
        _wait_for(feeding)


def _wait_for(feeding: set[threading.Thread]) -> None:
    """Torch does not: one that the trainer's end cuts off leaves a semaphore half freed, and Python warns of it."""
    until = time.monotonic() + LATE_S
    for thread in feeding:
        thread.join(timeout=max(0.0, until - time.monotonic()))


class _Telling(Dataset[Tensors | DataError]):
    """A file that broke is told as it is: torch would wrap the worker's error in its traceback."""

    def __init__(self, clips: ClipSet) -> None:
        self._clips = clips

    def __getitems__(self, keys: list[Key]) -> Tensors | DataError:
        try:
            return self._clips.__getitems__(keys)
        except DataError as error:
            return error


def _start_server() -> None:
    """Start the process that workers are forked from, once; no signal may reach it before it has left the trainer's group."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["trainer.data.worker_server"])
    resource_tracker.ensure_running()  # first, because it unblocks the signals when it is done
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(_: int) -> None:
    """End with the trainer, however it ends: torch's own watch looks at the server, which lives as long as its workers do."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    threading.Thread(target=_follow, args=(trainer,), daemon=True).start()


def _follow(trainer: BaseProcess) -> None:
    trainer.join()
    os._exit(1)


def _as_it_is(value: T) -> T:
    return value
