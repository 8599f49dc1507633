"""What a training uses of its cores, memory and GPUs, sampled beside it: a line of metrics.jsonl a minute, a summary at the end.

Shared clusters judge pods by these numbers, and by them `vidjobs status` says beforehand whether a run will be found wanting. Cores and
memory are those of the container (cgroup v2), else of this process and its descendants. Memory is what nobody else can use (anonymous
pages), without the page cache and without /dev/shm, as clusters count it. Nothing is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from trainer import provenance
from trainer.errors import TrainerError
from trainer.run_folder import RunFolder

EVERY = 60.0  # seconds between two lines; VIDJOBS_USAGE_EVERY changes it
SAMPLES = 12  # in that time
PATIENCE = 5.0  # seconds that nvidia-smi may take to end
_CGROUP = Path("/sys/fs/cgroup")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look."""

    at: float  # seconds since the process started
    cpu_s: float  # processor seconds since the start
    memory: int  # bytes
    gpu: float | None = None  # percent, the mean over the GPUs
    gpu_memory: int | None = None  # bytes, of the GPU that has most


class Meter(Protocol):
    """Where cores and memory are read."""

    def read(self) -> tuple[float, int]:
        """(processor seconds so far, bytes now)"""
        ...


class Container:
    """The cgroup v2 that this process is the root of, as in a container."""

    def __init__(self, folder: Path = _CGROUP) -> None:
        self._folder = folder

    @staticmethod
    def found(folder: Path = _CGROUP) -> bool:
        """A machine's own root has no memory.current."""
        return (folder / "memory.current").exists() and (folder / "cpu.stat").exists()

    def read(self) -> tuple[float, int]:
        return _word(self._folder / "cpu.stat", "usage_usec") / 1e6, _word(
            self._folder / "memory.stat", "anon"
        )


class Processes:
    """This process and all that it started."""

    def __init__(self, root: int | None = None) -> None:
        self._root = os.getpid() if root is None else root
        self._seen: dict[int, float] = {}
        self._ended = 0.0  # processor seconds of descendants that are gone

    def read(self) -> tuple[float, int]:
        now, memory = {}, 0
        for pid in _tree(self._root):
            with contextlib.suppress(OSError, ValueError, IndexError):
                now[pid] = _cpu_seconds(pid)
                memory += _anonymous(pid)
        self._ended += sum(seconds for pid, seconds in self._seen.items() if pid not in now)
        self._seen = now
        return self._ended + sum(now.values()), memory


class Gpus:
    """Utilisation and memory of the GPUs that this process may use, from one nvidia-smi that goes on telling. None without one."""

    def __init__(self, every: float) -> None:
        self._latest: dict[str, tuple[float, int]] = {}
        self._process: subprocess.Popen[str] | None = None
        program = shutil.which("nvidia-smi")
        if program is None:
            return
        query = [
            "--query-gpu=index,utilization.gpu,memory.used",
            "--format=csv,noheader,nounits",
            f"--loop={max(1, round(every))}",
        ]
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        chosen = (
            [f"--id={seen}"] if seen and all(part.isdecimal() for part in seen.split(",")) else []
        )
        with contextlib.suppress(OSError):
            command = [program, *query, *chosen]
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                text=True,
            )
            threading.Thread(
                target=self._listen, args=(self._process,), name="usage-gpus", daemon=True
            ).start()

    def read(self) -> tuple[float | None, int | None]:
        """(percent, bytes); (None, None) where nothing is known."""
        latest = list(self._latest.values())
        if not latest:
            return None, None
        return sum(percent for percent, _ in latest) / len(latest), max(used for _, used in latest)

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                # a driver that hangs lets nobody end; the training has, and gives its GPUs back
                self._process.kill()
                return
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed while it is read
            for line in process.stdout or ():
                if (told := gpu_line(line)) is not None:
                    self._latest[told[0]] = told[1:]


@dataclass
class Usage:
    """The samples so far, as a line and a summary tell them."""

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=1000))
    first: Sample | None = None
    memory_peak: int = 0
    gpu_memory_peak: int | None = None
    cpu_peak: float = 0.0  # cores, over a line's time
    _gpu_sum: float = 0.0  # percent x seconds
    _gpu_time: float = 0.0
    _memory_sum: float = 0.0
    _count: int = 0

    def add(self, sample: Sample) -> None:
        before = self.samples[-1] if self.samples else sample
        if sample.gpu is not None:
            # idle until the first word of it: data was prepared, models were read
            self._gpu_time = self._gpu_time or before.at
            self._gpu_sum += sample.gpu * (sample.at - before.at)
            self._gpu_time += sample.at - before.at
            self.gpu_memory_peak = max(self.gpu_memory_peak or 0, sample.gpu_memory or 0)
        self.first = self.first or sample
        self.memory_peak = max(self.memory_peak, sample.memory)
        self._memory_sum += sample.memory
        self._count += 1
        self.samples.append(sample)

    def line(self, every: float) -> dict[str, Any]:
        """The record: over the last line's time, over the 15 and 30 minutes that clusters look at, and since the start."""
        last = self.samples[-1]
        cpu = self._cores(every)
        self.cpu_peak = max(self.cpu_peak, cpu)
        told = {
            "elapsed": round(last.at, 1),
            "cpu": round(cpu, 3),
            "cpu_15m": round(self._cores(900), 3),
            "memory": last.memory,
            "memory_30m": self._memory(1800),
        }
        recent = [
            each.gpu for each in self.samples if each.gpu is not None and each.at > last.at - every
        ]
        if recent:
            told |= {
                "gpu": round(sum(recent) / len(recent), 1),
                "gpu_mean": round(self.gpu_mean or 0.0, 1),
                "gpu_memory": last.gpu_memory or 0,
            }
        return told

    @property
    def gpu_mean(self) -> float | None:
        """Percent since the start."""
        return self._gpu_sum / self._gpu_time if self._gpu_time else None

    def summary(self) -> dict[str, Any]:
        """Of the whole attempt; {} before two samples."""
        if self.first is None or len(self.samples) < 2:
            return {}
        last = self.samples[-1]
        told: dict[str, Any] = {
            "elapsed": round(last.at, 1),
            "cpu_mean": round(
                (last.cpu_s - self.first.cpu_s) / max(last.at - self.first.at, 1e-9), 3
            ),
            "memory_mean": int(self._memory_sum / self._count),
            "memory_peak": self.memory_peak,
        }
        if self.gpu_mean is not None:
            told |= {
                "gpu_mean": round(self.gpu_mean, 1),
                "gpu_memory_peak": self.gpu_memory_peak or 0,
            }
        return told

    def _since(self, seconds: float) -> Sample:
        """The oldest sample of the last so many seconds, and at least the one before the last."""
        last = self.samples[-1]
        before = [each for each in self.samples if each.at >= last.at - seconds - 1e-6]
        return before[0] if len(before) > 1 else self.samples[-2] if len(self.samples) > 1 else last

    def _cores(self, seconds: float) -> float:
        last, first = self.samples[-1], self._since(seconds)
        return (last.cpu_s - first.cpu_s) / (last.at - first.at) if last.at > first.at else 0.0

    def _memory(self, seconds: float) -> int:
        last = self.samples[-1]
        recent = [each.memory for each in self.samples if each.at >= last.at - seconds]
        return sum(recent) // len(recent)


class Sampler:
    """A thread that looks, and writes. What it cannot write it leaves out: it never ends a training."""

    def __init__(
        self,
        folder: RunFolder,
        every: float,
        *,
        meter: Meter | None = None,
        require: Callable[[], None] = lambda: None,
        age: float = 0.0,
    ) -> None:
        """`every`: seconds between two lines. `age`: of the process by now, in seconds; its GPUs were idle so long."""
        self._folder, self._every, self._require = folder, every, require
        self._meter = meter or (Container() if Container.found() else Processes())
        self._usage = Usage()
        self._stop = threading.Event()
        self._began = time.monotonic() - age
        self._gpus = Gpus(every / SAMPLES)
        self._events: Any = None
        self._look()
        self._thread = threading.Thread(target=self._work, name="usage", daemon=True)
        self._thread.start()

    def summary(self) -> dict[str, Any]:
        """Up to now."""
        self._look()
        return self._usage.summary()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._gpus.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

    def _work(self) -> None:
        due = time.monotonic() + self._every
        while not self._stop.wait(self._every / SAMPLES):
            self._look()
            if time.monotonic() >= due:
                due += self._every
                with contextlib.suppress(OSError, TrainerError):
                    self._require()
                    self._write(self._usage.line(self._every))

    def _look(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            cpu, memory = self._meter.read()
            gpu, gpu_memory = self._gpus.read()
            at = time.monotonic() - self._began
            self._usage.add(Sample(at=at, cpu_s=cpu, memory=memory, gpu=gpu, gpu_memory=gpu_memory))

    def _write(self, told: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        entry = {"kind": "usage", **told, "time": now.isoformat(timespec="milliseconds")}
        with self._folder.metrics.open(
            "a", encoding="utf-8"
        ) as file:  # one write to a file opened for appending: never inside another line
            file.write(json.dumps(entry) + "\n")
        if self._events is None:
            try:
                # heavy, optional, and here only after a minute of training
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._events = SummaryWriter(str(self._folder.usage_events))
        for key, value in told.items():
            if key != "elapsed":
                self._events.add_scalar(
                    f"usage/{key}", value, round(told["elapsed"]), walltime=now.timestamp()
                )
        self._events.flush()


@contextlib.contextmanager
def watched(
    folder: RunFolder, *, enabled: bool = True, require: Callable[[], None] = lambda: None
) -> Iterator[Sampler | None]:
    """Sample while the block runs; however it ends, the summary goes into the attempt's provenance. None when not enabled.

    `require` raises where the folder is no longer this process's to write in.
    """
    if not enabled:
        yield None
        return
    sampler = Sampler(
        folder, float(os.environ.get("VIDJOBS_USAGE_EVERY") or EVERY), require=require, age=_age()
    )
    try:
        yield sampler
    finally:
        sampler.close()
        with contextlib.suppress(TrainerError):  # why the training ended is told, not this
            require()
            provenance.add_usage(folder, sampler.summary())


def gpu_line(line: str) -> tuple[str, float, int] | None:
    """(index, percent, bytes) of nvidia-smi's `0, 61, 4096`; None of a line without numbers (`[N/A]`)."""
    parts = [part.strip() for part in line.split(",")]
    try:
        return parts[0], float(parts[1]), int(float(parts[2]) * 2**20)
    except (IndexError, ValueError):
        return None


def _age() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / _TICK
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _word(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise ValueError(f"{path} has no {name}")


def _tree(root: int) -> Iterator[int]:
    """The process and its descendants."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]


def _cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _anonymous(pid: int) -> int:
    """Resident bytes less those of files and shared memory."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE
