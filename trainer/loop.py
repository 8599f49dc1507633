"""One epoch of training, an optimizer step at a time, with no clip dropped.

A step's gradient is the mean over the clips of its window: `accumulate` micro-batches, fewer at the end of an epoch. Each
micro-batch counts by its clips, on however many processes they lie.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainer import optim
from trainer.compute import Compute, enough_memory
from trainer.config import TrainConf
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.errors import ConfFault, Diverged, Fault
from trainer.evaluation import Batch
from trainer.losses import Loss, require_match

NAMED = 20  # clips that a message names at most


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run is. A closed one was ended by max_steps inside its epoch, validation included."""

    epoch: int = 1  # the epoch in which training goes on
    # of its clips, over all processes; with epoch_size each time that a clip is drawn
    consumed: int = 0
    step: int = 0  # optimizer steps done
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one process trains with."""

    conf: TrainConf
    world: World
    compute: Compute
    model: nn.Module  # with the parameter names of the checkpoints
    network: nn.Module  # the same, wrapped for several processes
    optimizer: torch.optim.Optimizer
    loss: Loss
    clips: int  # of the training split
    name_of: Callable[[int], str]  # each of them
    inputs: ModelInput

    @property
    def epoch_clips(self) -> int:
        return optim.epoch_clips(self.clips, self.conf)

    @property
    def total_steps(self) -> int:
        return optim.total_steps(self.clips, self.conf)

    def train_mode(self) -> None:
        """As nn.Module.train, but with freeze_norm no BatchNorm's statistics move; their weights and biases still train."""
        self.model.train()
        if self.conf.freeze_norm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step, done."""

    position: Position
    lr: float
    stop: bool  # some process was asked to stop


@dataclass(kw_only=True)
class Meter:
    """What the next log line will tell: a mean over the clips since the last one, and where the time went."""

    loss: float = 0.0  # sum over clips
    clips: int = 0
    waited: float = 0.0  # seconds, for data
    began: float = field(default_factory=time.perf_counter)
    seen: int = 0  # clips since `began`

    def restart_clock(self) -> None:
        """Time spent otherwise (validation, checkpoints) is not training time."""
        self.waited, self.seen, self.began = 0.0, 0, time.perf_counter()

    def add(self, loss: float, clips: int) -> None:
        """Sums over the clips of one step."""
        self.loss += loss
        self.clips += clips
        self.seen += clips

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the wait for each counted."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def take(self) -> tuple[float, dict[str, float]]:
        """(mean loss, speeds) since the last call; starts anew."""
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        speeds = {"clips_per_s": self.seen / elapsed, "data_wait": min(self.waited / elapsed, 1.0)}
        mean = self.loss / self.clips
        self.loss, self.clips = 0.0, 0
        self.restart_clock()
        return mean, speeds


def steps(
    session: Session,
    batches: Iterable[Batch],
    position: Position,
    meter: Meter,
    *,
    stop: Any = None,
) -> Iterator[Step]:
    """Train on the rest of an epoch. `batches` start at `position.consumed`; yields after every optimizer step.

    Raises Diverged before an update that would not be finite.
    """
    session.train_mode()
    span = session.conf.batch * session.conf.accumulate
    per_epoch = optim.steps_per_epoch(session.clips, session.conf)
    window, before = (
        _Window(session, clips=min(span, session.epoch_clips - position.consumed)),
        position.step,
    )
    for batch in meter.timed(batches):
        with enough_memory(
            session.compute.device, len(batch.indices_B), fitted=position.step - before
        ):
            window.add(batch)
            if not window.full:
                continue
            lr = optim.lr_at(
                position.step,
                session.conf,
                per_epoch=per_epoch,
                total=session.total_steps,
                world=session.world.size,
            )
            loss, stopping = window.update(lr, position, asked=stop is not None and stop.requested)
        meter.add(loss, window.clips)
        position = replace(
            position, consumed=position.consumed + window.clips, step=position.step + 1
        )
        yield Step(position=position, lr=lr, stop=stopping)
        if position.step >= session.total_steps:
            return
        window = _Window(session, clips=min(span, session.epoch_clips - position.consumed))


class _Window:
    """The micro-batches of one optimizer step."""

    def __init__(self, session: Session, *, clips: int) -> None:
        self._session = session
        self._each: list[Tensor] = []  # losses of this process's clips
        self._indices: list[Tensor] = []
        self._seen = 0
        self.clips = clips  # over all processes and micro-batches

    @property
    def full(self) -> bool:
        return self._seen >= self.clips

    def add(self, batch: Batch) -> None:
        """Forward and backward; gradients are exchanged with the last micro-batch only."""
        self._seen += batch.total
        with self._exchange():
            if len(batch.indices_B):
                self._each.append(self._backward(batch))
                self._indices.append(batch.indices_B)
            else:
                self._idle(batch)

    def update(self, lr: float, position: Position, *, asked: bool) -> tuple[float, bool]:
        """Step the optimizer; returns (sum of the clips' losses, whether any process was asked to stop)."""
        session = self._session
        gradients = [
            weight.grad for weight in session.model.parameters() if weight.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        each = torch.cat(self._each) if self._each else norm.new_zeros(0)
        # the step's one wait for the device
        mine, size = torch.stack([each.double().sum(), norm.double()]).tolist()
        finite = math.isfinite(mine) and math.isfinite(size)
        loss, broken, stops = session.world.sum(
            [mine if finite else 0.0, float(not finite), float(asked)]
        )
        if broken:
            self._diverged(each, position)
        if session.conf.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(
                session.model.parameters(), session.conf.clip_grad, norm
            )
        optim.set_lr(session.optimizer, lr)
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        return loss, bool(stops)

    def _backward(self, batch: Batch) -> Tensor:
        session = self._session
        targets = session.compute.place(batch.targets_BC)
        logits = self._logits(batch)
        require_match(logits, targets)
        each = session.loss(logits, targets)
        # DDP divides by the size
        torch.autograd.backward(each.sum() * (session.world.size / self.clips))
        return each.detach()

    def _logits(self, batch: Batch) -> Tensor:
        """ConfFault where BatchNorm has a single value of each channel, which has no variance: one clip, of which one place is left."""
        session = self._session
        try:
            return session.compute.run(
                session.network, session.inputs(session.compute.place(batch.clips_BTHWC))
            )
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            message = f"leaves {len(batch.clips_BTHWC)} clip to a process, and this network's BatchNorm needs two at this data.size"
            hint = "choose another train.batch, also for the epoch's last clips, or train.freeze_norm: true"
            raise ConfFault([Fault(path="train.batch", message=message, hint=hint)]) from error

    def _idle(self, batch: Batch) -> None:
        """No clip for this process: take part in the exchange with a gradient of zero, and leave BatchNorm and dropout alone."""
        session = self._session
        blank = session.compute.place(
            batch.clips_BTHWC.new_zeros((1, *batch.clips_BTHWC.shape[1:]))
        )
        session.model.eval()
        torch.autograd.backward(
            session.compute.run(session.network, session.inputs(blank)).sum() * 0.0
        )
        session.train_mode()

    def _exchange(self) -> AbstractContextManager[Any]:
        network = self._session.network
        return (
            nullcontext()
            if self.full or not isinstance(network, DistributedDataParallel)
            else network.no_sync()
        )

    def _diverged(self, each: Tensor, position: Position) -> None:
        """Name the step and the clips; collective. A finite loss with a gradient that is not names the whole window."""
        session = self._session
        indices = torch.cat(self._indices).tolist() if self._indices else []
        bad = [
            index
            for index, finite in zip(indices, each.isfinite().tolist(), strict=True)
            if not finite
        ]
        found = session.world.gather((bad, indices))
        guilty = [index for mine, _ in found for index in mine]
        what = "loss" if guilty else "gradient"
        blamed = guilty or [index for _, all_of_it in found for index in all_of_it]
        named = ", ".join(session.name_of(index) for index in blamed[:NAMED])
        more = f" and {len(blamed) - NAMED} more" if len(blamed) > NAMED else ""
        where = f"at step {position.step + 1} of epoch {position.epoch}"
        hint = "lower train.lr, or set train.warmup_steps or train.clip_grad; the last checkpoint is from before it"
        raise Diverged(f"the {what} is not finite {where}; clips: {named}{more}", hint=hint)
