"""Data worker processes: light to start, and out of the way of the trainer's own signals and locks.

They are forked from a small server process, not from the trainer, so they inherit none of its signal handlers, open files
(the run folder's lock), CUDA state or threads. They live in a process group of their own: a SIGTERM or Ctrl-C meant for the
trainer does not reach them, and the trainer finishes its step with them. They end when the trainer closes them or is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from trainer.data.loader import ClipSet, Key

T = TypeVar("T")
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
STOPPING = (signal.SIGINT, signal.SIGTERM)


def load(clips: ClipSet, keys: Sequence[list[Key]], *, workers: int, pin: bool) -> Iterator[Tensors]:
    """`clips.__getitems__(k)` for each k of `keys`, in their order, computed by `workers` processes ahead of time."""
    _start_server()
    loader = DataLoader(
        clips,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        worker_init_fn=_begin_worker,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
        generator=torch.Generator(),  # its own: torch's global one belongs to the model, and must not depend on workers
    )
    yield from loader


def _start_server() -> None:
    """Start the process that workers are forked from, once; it and they must not be stopped by the trainer's signals."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["trainer.data.loader"])
    resource_tracker.ensure_running()  # first, because it unblocks the signals when it is done
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(_: int) -> None:
    os.setpgid(0, 0)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # this also forgets one that came before, while they were blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # this is how the trainer ends a worker that does not answer


def _as_it_is(value: T) -> T:
    return value
