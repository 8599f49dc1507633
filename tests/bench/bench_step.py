"""One training step of I3D 32x112: clips a second, and the ratio to eager fp32.

`pytest -m bench tests/bench/bench_step.py -s`. Nothing about time is asserted: a number belongs to the machine named beside it.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch

from trainer import losses, optim
from trainer.compute import Compute, cores
from trainer.config import ComputeConf, TrainConf
from trainer.data import normalise
from trainer.data.loader import Batch
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.loop import Meter, Position, Session, steps
from trainer.models import create

pytestmark = pytest.mark.bench

FRAMES, SIDE, CLASSES = 32, 112, 26
EXACT = {"precision": "fp32", "channels_last": False, "compile": False, "fused": False}


def _session(conf: ComputeConf, clips: int, batch: int) -> Session:
    torch.manual_seed(0)
    recipe = TrainConf(batch=batch, lr=1e-4)
    compute = Compute.from_conf(conf, clips=batch)
    model = compute.prepare(create("i3d", CLASSES, mode=f"{FRAMES}x{SIDE}"))
    optimizer = optim.build(model, recipe, fused=compute.fused)
    return Session(
        conf=recipe,
        world=World(),
        compute=compute,
        model=model,
        network=model,
        optimizer=optimizer,
        loss=losses.multi_label,
        clips=clips,
        name_of=str,
        inputs=ModelInput(normalise.PRESETS["minus_one_one"]),
    )


def _seconds_of_a_step(
    conf: ComputeConf, *, batch: int, warm: int, measured: int
) -> tuple[float, float]:
    """(median seconds, final loss) of the loop's own step, forward to update."""
    count = batch * (warm + measured)
    session = _session(conf, count, batch)
    video = torch.randint(0, 256, (batch, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8)
    labels = (torch.rand(batch, CLASSES) > 0.8).float()
    source = (
        Batch(video, labels, torch.arange(batch) + begin, batch) for begin in range(0, count, batch)
    )
    meter, times, began = Meter(), [], time.perf_counter()
    for _ in steps(session, source, Position(), meter):
        # the step waits for its loss, so the device is done
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    return statistics.median(times[warm:]), meter.take()[0]


def _compare(
    title: str,
    confs: dict[str, ComputeConf],
    measure: Callable[[ComputeConf], tuple[float, float]],
    batch: int,
) -> None:
    print(
        f"\nI3D {FRAMES}x{SIDE}, one training step of {batch} clips, {title}, torch {torch.__version__}"
    )
    reference = 0.0
    for name, conf in confs.items():
        seconds, loss = measure(conf)
        reference = reference or seconds
        print(
            f"  {name:<28} {batch / seconds:8.2f} clips/s  {reference / seconds:5.2f}x  (mean loss {loss:.4f})",
            flush=True,
        )
        assert loss == pytest.approx(loss)  # finite


def test_a_step_on_the_cpu() -> None:
    """fp32 is the default there; bf16 is a switch."""
    confs = {
        "fp32 eager (the default)": ComputeConf(device="cpu"),
        "fp32, fused optimizer": ComputeConf(device="cpu", fused=True),
        "bf16 autocast": ComputeConf(device="cpu", precision="bf16"),
    }
    title = f"{platform.processor() or platform.machine()}, {cores()} cores, {torch.get_num_threads()} threads"
    _compare(title, confs, partial(_seconds_of_a_step, batch=2, warm=1, measured=3), 2)


@pytest.mark.gpu
def test_a_step_on_the_gpu() -> None:
    """The defaults against eager fp32 in NCDHW; a small and a large batch."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    confs = {
        "fp32 eager": ComputeConf(**EXACT),
        "bf16": ComputeConf(**{**EXACT, "precision": "bf16"}),
        "bf16, channels_last_3d": ComputeConf(
            **{**EXACT, "precision": "bf16", "channels_last": True}
        ),
        "the defaults": ComputeConf(),
    }
    title = f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}"
    for batch in (8, 32):
        _compare(title, confs, partial(_seconds_of_a_step, batch=batch, warm=5, measured=20), batch)
