"""Which videos are this pod's when several prepare one dataset, and how the last one knows that it is the last.

Shard k of N does the videos k, k + N, k + 2N, ... of every step, and of the cache a part of its own:
    <cache>/.shards/<k>of<N>/          an ordinary cache of its clips, from which the whole one is put together
    <run>/shards/<k>of<N>.json         it is done
Whoever finds all marks under the run's lock does what is left: the whole cache, the statistics, the report.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from trainer.config import PrepareConf
from trainer.errors import ConfFault, Fault, NotOurs

if TYPE_CHECKING:  # `check` imports this, and is awaited at every submit
    from trainer.data.progress import Say
    from trainer.run_folder import RunFolder

WAIT_SECONDS = 1.0  # between looks at what another process holds
PARTS = ".shards"
INDEX = "JOB_COMPLETION_INDEX"  # which Kubernetes gives each pod of an Indexed Job

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One shard's part of the work."""

    shard: int
    shards: int

    @classmethod
    def of(cls, conf: PrepareConf, environ: Mapping[str, str]) -> Share:
        """As the conf says, or the environment. Raises ConfFault for a number that is none of the shards."""
        if conf.shards == 1:
            return WHOLE
        text = str(conf.shard) if conf.shard >= 0 else environ.get(INDEX, "0")
        if not text.isdecimal() or int(text) >= conf.shards:
            hint = f"0 to {conf.shards - 1}; `vidjobs submit prepare CONF --shards {conf.shards}` gives each pod its own"
            raise ConfFault(
                [
                    Fault(
                        path="prepare.shard",
                        message=f"is {text} (prepare.shard or {INDEX})",
                        hint=hint,
                    )
                ]
            )
        return cls(int(text), conf.shards)

    @property
    def whole(self) -> bool:
        """One process does everything."""
        return self.shards == 1

    def take(self, items: Sequence[T]) -> list[T]:
        """This shard's: Share(1, 3) of 0..7 -> 1, 4, 7"""
        return list(items[self.shard :: self.shards])

    def cache(self, cache: Path) -> Path:
        """Where this shard writes its part of a cache."""
        return cache if self.whole else cache / PARTS / f"{self.shard}of{self.shards}"

    def mark(self, folder: RunFolder) -> Path:
        """The file that says that a shard is done."""
        return folder.root / "shards" / f"{self.shard}of{self.shards}.json"

    def missing(self, folder: RunFolder) -> list[int]:
        """Shards that are not done yet."""
        return [
            shard
            for shard in range(self.shards)
            if not Share(shard, self.shards).mark(folder).exists()
        ]

    def begin(self, folder: RunFolder) -> None:
        """Not done (any more): also when a run is started again."""
        self.mark(folder).unlink(missing_ok=True)

    def finish(self, folder: RunFolder, made: Mapping[str, int], seconds: float) -> None:
        """Done; `made`: outputs of each step. Raises CannotWrite."""
        facts = {
            "shard": self.shard,
            "shards": self.shards,
            "made": dict(made),
            "seconds": round(seconds, 1),
        }
        folder.write_text(self.mark(folder), json.dumps(facts) + "\n")

    def made(self, folder: RunFolder) -> Counter[str]:
        """Outputs of each step that all shards together made."""
        marks = [
            json.loads(Share(shard, self.shards).mark(folder).read_text())
            for shard in range(self.shards)
        ]
        return sum((Counter[str](mark["made"]) for mark in marks), Counter[str]())

    def named(self, say: Say) -> Say:
        """Lines with the shard before them: the logs of all pods are read together."""
        return (
            say if self.whole else lambda line: say(f"shard {self.shard} of {self.shards}: {line}")
        )


WHOLE = Share(0, 1)


def parts(cache: Path) -> list[Path]:
    """Folders of the parts of a cache that shards have written, of any number of shards."""
    return sorted((cache / PARTS).glob("*of*"))


@contextmanager
def locked(path: Path, say: Say) -> Iterator[None]:
    """One process at a time inside the block, on all nodes that mount the volume; the kernel frees the lock of one that dies.

    On a volume without flock a heartbeat does, as for a run's folder (lock.py).
    """
    with path.open("a") as file, ExitStack() as beating:
        told = False
        while not _taken(file, path, beating):
            if not told:
                say(f"prepare: another process is writing {path.parent}; waiting for it")
                told = True
            time.sleep(WAIT_SECONDS)
        yield


def _taken(file: IO[str], path: Path, beating: ExitStack) -> bool:
    from trainer import lock

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in lock.NO_FLOCK:
            raise
        with suppress(NotOurs), ExitStack() as mine:
            held = mine.enter_context(lock.hold_file(path, say=lambda _: None))
            # of several that found it free at once the last one's name stays
            time.sleep(WAIT_SECONDS)
            lock.require_held(path, held.holder)
            beating.push(mine.pop_all())
            return True
        return False
    return True
