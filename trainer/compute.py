"""How a network is computed: device, precision, memory layout, compilation, threads. `auto` is decided here, once.

On the CPU everything is fp32 and eager, so that a resumed run stays bit for bit the uninterrupted one.
"""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.config import ComputeConf
from trainer.errors import ConfFault, Fault, TryAgain

# cuDNN 9.8 to 9.14: conv3d in bf16 is slow, hungry and at times wrong (pytorch issues 163539,
# 166122, 166643)
BROKEN_CUDNN = range(90800, 91500)
MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Compute:
    """The decided settings of one process. `notes` are what a person should know about the decisions."""

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    fused: bool = False
    deterministic: bool = False
    workers: int = 0
    threads: int = 1
    # usual clips in a micro-batch of this process; compiled code serves only these, others run
    # eagerly. 0 = any
    clips: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def from_conf(
        cls, conf: ComputeConf, local_rank: int = 0, *, processes: int = 1, clips: int = 0
    ) -> Compute:
        """Decide every `auto` and set torch's switches of this process. Raises ConfFault for what this machine cannot do."""
        device = _device(conf, local_rank)
        precision, notes = _precision(conf, device)
        compiled, more = _compile(conf, device)
        cuda = device.type == "cuda"
        decided = cls(
            device=device,
            precision=precision,
            channels_last=cuda if conf.channels_last == "auto" else conf.channels_last,
            compile=compiled,
            fused=cuda if conf.fused == "auto" else conf.fused,
            deterministic=conf.deterministic,
            workers=default_workers(processes) if conf.workers == "auto" else conf.workers,
            threads=conf.threads or max(min(torch.get_num_threads(), cores() // processes), 1),
            clips=clips,
            notes=(*notes, *more),
        )
        decided._switch()
        return decided

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, lay it out, compile it in place (its parameter names stay). Returns it."""
        model.to(self.device)
        if self.channels_last:
            _lay_out(model)
        if self.compile:
            model.compile(dynamic=False)
        return model

    def place(self, values: Tensor) -> Tensor:
        """Onto the device, without waiting where the memory is pinned."""
        return values.to(self.device, non_blocking=True)

    def lay_out(self, video_BCTHW: Tensor) -> Tensor:
        """In the memory layout of the model's weights."""
        if self.channels_last and video_BCTHW.ndim in LAYOUTS:
            return video_BCTHW.contiguous(memory_format=LAYOUTS[video_BCTHW.ndim])
        return video_BCTHW

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where that was decided, else nothing."""
        return (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if self.precision == "bf16"
            else nullcontext()
        )

    def run(self, network: nn.Module, video_BCTHW: Tensor) -> Tensor:
        """The network's answer, in float32. A micro-batch of an unusual size runs eagerly instead of compiling once more."""
        unusual = self.compile and self.clips and video_BCTHW.shape[0] != self.clips
        stance = torch.compiler.set_stance("force_eager") if unusual else nullcontext()
        with stance, self.autocast():
            answer: Tensor = network(self.lay_out(video_BCTHW))
        return answer.float()

    def describe(self) -> dict[str, Any]:
        """For provenance.json and the log."""
        cuda = self.device.type == "cuda"
        return {
            "device": str(self.device),
            "gpu": torch.cuda.get_device_name(self.device) if cuda else "",
            "precision": self.precision,
            "channels_last": self.channels_last,
            "compile": self.compile,
            "fused": self.fused,
            "deterministic": self.deterministic,
            "workers": self.workers,
            "threads": self.threads,
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "" if cuda else "",
            "cudnn": cudnn_version() if cuda else None,
        }

    def _switch(self) -> None:
        torch.set_num_threads(self.threads)
        if self.device.type != "cuda":
            return
        torch.cuda.set_device(self.device)
        torch.backends.cudnn.benchmark = not self.deterministic  # shapes are static
        torch.backends.cudnn.deterministic = self.deterministic
        # then what autocast leaves in fp32 may use TF32; a conf that says fp32 gets fp32
        fast = self.precision == "bf16"
        torch.backends.cuda.matmul.allow_tf32 = fast
        torch.backends.cudnn.allow_tf32 = fast


@contextmanager
def enough_memory(device: torch.device, clips: int, *, fitted: int = 0) -> Iterator[None]:
    """Tells of GPU memory that is not there. `fitted`: steps of this attempt that it was enough for.

    Raises ConfFault for the first step, which no retry would do any better, and TryAgain for a later one.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = (
            "halve train.batch and double train.accumulate: the same steps in about half the memory"
        )
        gpu = (
            f"{torch.cuda.get_device_name(device)} ({_gib(device)})"
            if device.type == "cuda"
            else "this device"
        )
        if fitted:
            message = f"the memory of {gpu} ran out after {fitted} steps that fitted into it"
            raise TryAgain(message, hint=f"if that comes again: {hint}") from error
        message = (
            f"makes {clips} clips at once for each process, more than fit into the memory of {gpu}"
        )
        raise ConfFault([Fault(path="train.batch", message=message, hint=hint)]) from error


def _gib(device: torch.device) -> str:
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    others = total - free - ours
    return f"{total / 2**30:.0f} GiB" + (
        f", of which others hold {others / 2**30:.0f}" if others > 2**31 else ""
    )


LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def process_count(conf: ComputeConf) -> int:
    """Processes on this node: what the conf says, else one for each GPU that will be used, at least 1."""
    if conf.processes != "auto":
        return conf.processes
    return (
        max(torch.cuda.device_count(), 1)
        if conf.device != "cpu" and torch.cuda.is_available()
        else 1
    )


def default_workers(processes: int) -> int:
    """Data workers of each process: cores / processes, at least 1 and at most 8."""
    return min(max(cores() // processes, 1), MOST_WORKERS)


def cores() -> int:
    """Cores that this process may use: its CPU set, and the container's quota (cgroup v2), whichever is less."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(usable, _quota(Path("/sys/fs/cgroup/cpu.max")) or usable)


def cudnn_version() -> int | None:
    """91501 for 9.15.1; None without cuDNN."""
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _quota(path: Path) -> int:
    """Whole cores of a cgroup's `cpu.max` ("200000 100000" -> 2), 0 without a limit."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else max(math.ceil(int(quota) / int(period)), 1)


def _device(conf: ComputeConf, local_rank: int) -> torch.device:
    if conf.device == "cpu" or (conf.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        hint = "ask for one with job.resources.gpus, or set compute.device: auto"
        raise ConfFault(
            [Fault(path="compute.device", message="is cuda, but torch sees no GPU", hint=hint)]
        )
    if local_rank >= torch.cuda.device_count():
        message = f"asks for more processes than there are GPUs ({torch.cuda.device_count()})"
        raise ConfFault(
            [Fault(path="compute.processes", message=message, hint="auto starts one for each GPU")]
        )
    return torch.device("cuda", local_rank)


def _precision(
    conf: ComputeConf, device: torch.device
) -> tuple[Literal["fp32", "bf16"], list[str]]:
    if device.type == "cpu":
        return ("bf16" if conf.precision == "bf16" else "fp32"), []
    if conf.precision == "fp32":
        return "fp32", []
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    return decide_bf16(conf.precision, able=able, cudnn=cudnn_version() or 0)


def decide_bf16(
    wanted: str, *, able: bool, cudnn: int
) -> tuple[Literal["fp32", "bf16"], list[str]]:
    """On CUDA: the precision for "auto" or "bf16". Raises ConfFault where bf16 was demanded and would be wrong."""
    reason = "" if able else "this GPU has no bf16"
    if able and cudnn in BROKEN_CUDNN:
        reason = f"cuDNN {cudnn // 10000}.{cudnn % 10000 // 100} computes conv3d in bf16 slowly and at times wrongly (9.8 to 9.14 do)"
    if not reason:
        return "bf16", []
    if wanted == "bf16":
        hint = (
            "use an image with cuDNN 9.15 or newer, or precision: fp32"
            if able
            else "set precision: auto or fp32"
        )
        raise ConfFault(
            [Fault(path="compute.precision", message=f"is bf16, but {reason}", hint=hint)]
        )
    return "fp32", [f"warning: fp32, since {reason}"]


def _compile(conf: ComputeConf, device: torch.device) -> tuple[bool, list[str]]:
    if conf.compile != "auto":
        return conf.compile, []
    if device.type != "cuda":
        return False, []
    missing = missing_for_compile()
    return not missing, [
        f"warning: torch.compile is off, since there is no {missing}; eager is slower"
    ] if missing else []


def missing_for_compile() -> str:
    """What torch.compile lacks on this machine: "C compiler", "Python.h", or nothing ("")."""
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    if not any(shutil.which(name) for name in compilers if name):
        return "C compiler"
    return "" if (Path(sysconfig.get_path("include")) / "Python.h").exists() else "Python.h"


def _lay_out(model: nn.Module) -> None:
    """Each weight by its own rank: nets that mix 2D and 3D convolutions have both layouts."""
    for values in (*model.parameters(), *model.buffers()):
        if values.ndim in LAYOUTS:
            values.data = values.data.contiguous(memory_format=LAYOUTS[values.ndim])
