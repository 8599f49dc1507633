"""Run by the tests as a program of its own: `ddp_program.py WHAT PROCESSES OUT`; what it found goes into OUT."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer import evaluation, losses, optim
from trainer.compute import Compute
from trainer.config import ComputeConf, TrainConf
from trainer.data import sampling
from trainer.data.loader import Batch
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.distributed import World, launch
from trainer.errors import ConfFault, DataError, Fault, TrainerError, TryAgain
from trainer.loop import Meter, Position, Session, steps
from trainer.meeting import Place
from trainer.rendezvous import joined

CLIPS, CLASSES = 10, 3
INPUTS = ModelInput(PRESETS["minus_one_one"])
CONF = TrainConf(batch=3, accumulate=2, optimizer="sgd", momentum=0.0, lr=0.1)


class Net(nn.Module):
    """No BatchNorm: then the gradient is the same however the clips are shared out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, video: Tensor) -> Tensor:
        features = self.conv(video).relu().mean(dim=(2, 3, 4))
        answer: Tensor = self.head(self.frozen(features))
        return answer


class Crossed(nn.Module):
    """Its layers are used in another order than they are named in, and the gradients come in a third one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, CLASSES)
        self.first = nn.Conv3d(3, 16, 3)
        self.middle = nn.Linear(16, 16)

    def forward(self, video: Tensor) -> Tensor:
        features = self.first(video).relu().mean(dim=(2, 3, 4))
        answer: Tensor = self.head(self.middle(features))
        return answer


def data() -> tuple[Tensor, Tensor]:
    """(clips, targets)."""
    generator = torch.Generator().manual_seed(7)
    clips = torch.randint(0, 256, (CLIPS, 4, 6, 6, 3), generator=generator, dtype=torch.uint8)
    return clips, (torch.rand(CLIPS, CLASSES, generator=generator) > 0.5).float()


def batches(world: World, order: list[int], size: int) -> list[Batch]:
    """Shares as the loader makes them."""
    clips, targets = data()
    found = []
    for begin in range(0, len(order), size):
        part = order[begin : begin + size]
        mine = torch.tensor(
            part[sampling.share(len(part), world.rank, world.size)], dtype=torch.int64
        )
        found.append(Batch(clips[mine], targets[mine], mine, len(part)))
    return found


def session(world: World, conf: TrainConf = CONF, model: nn.Module | None = None) -> Session:
    """A small training."""
    torch.manual_seed(0)
    model = Net() if model is None else model
    network = world.parallel(model, torch.device("cpu"))
    return Session(
        conf=conf,
        world=world,
        compute=Compute.from_conf(ComputeConf(device="cpu", threads=1)),
        model=model,
        network=network,
        optimizer=optim.build(model, conf, fused=False),
        loss=losses.multi_label,
        clips=CLIPS,
        name_of=lambda index: f"clip-{index}",
        inputs=INPUTS,
    )


def train(world: World, out: str) -> None:
    """One epoch: micro-batches of 3 3 | 3 1 clips, so with two processes shares are uneven and the last one is empty."""
    trained = session(world)
    told = [
        step.position.step
        for step in steps(
            trained, batches(world, list(range(CLIPS)), CONF.batch), Position(), Meter()
        )
    ]
    if world.rank == 0:
        torch.save({"weights": trained.model.state_dict(), "steps": told}, out)


def train_twice(world: World, out: str) -> None:
    """Two epochs: at a stretch, and by processes that begin anew with the second. The weights of both."""
    conf = replace(CONF, batch=5, accumulate=1)
    shares = batches(world, list(range(CLIPS)), conf.batch)
    ended = []
    for anew in (False, True):
        torch.manual_seed(0)
        trained = session(world, conf, Crossed())
        list(steps(trained, shares, Position(), Meter()))
        if anew:
            weights = trained.model.state_dict()
            trained = session(world, conf, Crossed())
            trained.model.load_state_dict(weights)
        list(steps(trained, shares, Position(epoch=2, step=len(shares)), Meter()))
        ended.append(trained.model.state_dict())
    if world.rank == 0:
        torch.save(ended, out)


def train_scaled(world: World, out: str) -> None:
    """As `train`, with a rate that two processes scale to its own."""
    trained = session(world, replace(CONF, lr=CONF.lr / world.size, lr_scaling="linear"))
    told = [
        step.lr
        for step in steps(
            trained, batches(world, list(range(CLIPS)), CONF.batch), Position(), Meter()
        )
    ]
    if world.rank == 0:
        torch.save({"weights": trained.model.state_dict(), "rates": told}, out)


def predict(world: World, out: str) -> None:
    """All clips through an untrained net."""
    torch.manual_seed(0)
    compute = Compute.from_conf(ComputeConf(device="cpu", threads=1))
    # the last video has one clip only
    shares, videos = batches(world, list(range(CLIPS)), 3), [clip // 3 for clip in range(CLIPS)]
    found = evaluation.predict(
        Net(), shares, compute, inputs=INPUTS, videos=videos, rank=world.rank, world=world.size
    )
    if world.rank == world.size - 1:  # everybody has them
        scored = found.video_scores()
        np.savez(
            out,
            logits=found.logits,
            indices=found.indices,
            targets=found.targets,
            loss=found.loss,
            videos=scored,
        )


def fail(world: World, out: str) -> None:
    """The last process cannot read its data; the others wait for it."""
    if world.rank == world.size - 1:
        raise DataError("a broken video", hint="replace it")
    world.wait()


def kill(world: World, out: str) -> None:
    """The last process is killed, as by the kernel when memory runs out."""
    if world.rank == world.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.wait()


def bug(world: World, out: str) -> None:
    """A mistake of ours."""
    raise ZeroDivisionError("in the loop")


def conf(world: World, out: str) -> None:
    """A fault that only the processes can find."""
    raise ConfFault([Fault(path="model.mode", message="is wrong", hint="mend it")])


def stop(world: World, out: str) -> None:
    """Waits for SIGTERM, and then needs a moment, as for a checkpoint."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    Path(f"{out}.{world.rank}").write_text(str(os.getpid()))
    while not world.any(bool(asked)):
        time.sleep(0.05)
    time.sleep(0.5)
    if world.rank == 0:
        Path(out).write_text("checkpoint")
    world.wait()
    raise TryAgain("stopped by SIGTERM")


def idle(world: World, out: str) -> None:
    """Computes for long without a word to the others."""
    Path(f"{out}.{world.rank}").write_text(str(os.getpid()))
    time.sleep(60)


WHAT: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (train, train_twice, train_scaled, predict, fail, kill, bug, conf, stop, idle)
}

if __name__ == "__main__":
    try:
        with joined(Place.of(os.environ), print) as nodes:
            launch(nodes, int(sys.argv[2]), WHAT[sys.argv[1]], sys.argv[3])
    except TrainerError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
