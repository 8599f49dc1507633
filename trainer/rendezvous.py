"""Several nodes for one run: they meet at node 0, hear of each other while they work, and end together.

Each node is one process of this module, which starts that node's ranks (trainer/distributed.py). Node 0 serves a small
key-value store (trainer/meeting.py); one thread of each node alone talks to it, twice a second, so that a network that
swallows packets stops nobody from noticing.
A node that is lost ends the others with exit code 75: the Job starts all of them again, and they go on from the checkpoint.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from trainer import failures
from trainer.errors import TryAgain
from trainer.failures import LostPeers
from trainer.meeting import LOST, Meeting, Place, Say, connect, serve

BEAT = 0.5  # seconds between looks at the store
SETTLE = 5.0  # seconds in which a lost node may still tell what ended it
GOODBYE = 3.0  # seconds that node 0 keeps the store for the others to read why it ends

T = TypeVar("T")


class Group:
    """The nodes of a run. With one node every method answers at once."""

    def __init__(self, place: Place, say: Say) -> None:
        self.place = place
        self.say = place.named(say)
        self._link = None if place.alone else _Link(place)

    def first(self, begin: Callable[[], T], then: Callable[[], object] = lambda: None) -> T:
        """What `begin` gives on node 0, on all nodes; it can be written as JSON. The others do `then` afterwards."""
        if self._link is None:
            return begin()
        if self.place.leads:
            result = begin()
            self._link.post("result", json.dumps(result))
            return result
        found: T = json.loads(self._link.wait("result"))
        then()
        return found

    def count(self, processes: int) -> tuple[int, int]:
        """(rank of this node's first process, processes of all nodes), when this one starts so many."""
        if self._link is None:
            return 0, processes
        self._link.post(f"size/{self.place.node}", str(processes))
        sizes = [int(self._link.wait(f"size/{node}")) for node in range(self.place.nodes)]
        return sum(sizes[: self.place.node]), sum(sizes)

    def join(self) -> None:
        """Wait for all nodes. Raises TryAgain when they do not come in time."""
        if self._link is not None:
            self.say(
                f"one of {self.place.nodes} nodes; waiting for the others at {self.place.host}:{self.place.port}"
            )
            self._link.join()
            self.say(f"all {self.place.nodes} nodes are here")

    def leave(self, error: BaseException | None) -> BaseException | None:
        """The error to end with: of several nodes the one that ended the first."""
        return error if self._link is None else self._link.leave(error)


@contextmanager
def joined(place: Place, say: Say) -> Iterator[Group]:
    """The group inside the block, once all nodes are there. A node that fails inside ends all with its error.

    Raises TryAgain when nodes do not come in time, are lost, or were stopped; else what the first failing node raised.
    """
    group = Group(place, say)
    try:
        group.join()
        yield group
    except BaseException as error:
        other = group.leave(error)
        if other is not None and other is not error:
            raise other from None  # what this node met is only the echo
        raise
    other = group.leave(None)
    if other is not None:
        raise other


class _Link:
    """The thread that talks to the store, and what it has heard: the main thread waits for that only, so a signal reaches it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._news = threading.Condition()
        self._heard: dict[str, str] = {}
        self._outbox: dict[str, str] = {}
        self._formed = False
        self._waiting = False  # the main thread looks for `lost` itself
        self._lost: Exception | None = None
        self._missing = place.others
        self._last = ""  # what the last try to reach node 0 met
        self._answered = time.monotonic()  # when the store did
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("nodes", self._talk), ("watch", self._watch))
        ]

    def join(self) -> None:
        """Raises TryAgain after the place's patience."""
        signal.signal(signal.SIGUSR1, self._interrupt)
        for thread in self._threads:
            thread.start()
        if not self._until(lambda: self._formed, self._place.patience):
            raise TryAgain(
                self._nobody_came(),
                hint="`vidjobs status` says what a pod waits for; job.join_timeout is how long others do",
            )

    def post(self, key: str, value: str) -> None:
        """Tell all nodes."""
        with self._news:
            self._outbox[key] = value
            if key != "over":  # who is first with that, the store decides
                self._heard[key] = value

    def wait(self, key: str) -> str:
        """What somebody posts, however long it takes. Raises what ended the nodes."""
        self._until(lambda: key in self._heard)
        return self._heard[key]

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Say how this node ends, and hear what ended the first one."""
        self._waiting = True  # nothing interrupts from here on
        try:
            return self._part() if error is None else self._fail(error)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(1.0)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _part(self) -> Exception | None:
        """Done: the others stay until node 0 has written everything, so that none is missing when node 0 has to begin again."""
        if self._place.leads:
            self.post("finished", "yes")
        else:
            with suppress(Exception):
                self._until(lambda: "finished" in self._heard)
        self._goodbye()
        return None if "finished" in self._heard else self._lost

    def _fail(self, error: BaseException) -> BaseException:
        if isinstance(error, LostPeers):  # a moment for the node that caused this to say so
            with suppress(Exception):
                self._until(lambda: False, SETTLE)
        if self._lost is None:
            self.post("over", json.dumps(failures.describe(error, f"node {self._place.node}")))
        self._goodbye()
        return self._lost if self._lost is not None and isinstance(error, LostPeers) else error

    def _goodbye(self) -> None:
        """Wait until what was posted is told; on node 0 until the others have read it, for it takes the store along."""
        self.post(f"bye/{self._place.node}", "yes")
        wanted = {f"bye/{node}" for node in self._place.others} if self._place.leads else set()
        end = time.monotonic() + GOODBYE
        with self._news:
            while self._threads[0].is_alive() and self._formed and time.monotonic() < end:
                if not self._outbox and wanted <= self._heard.keys():
                    return
                self._news.wait(0.1)

    def _until(self, there: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait; False when the time is over. Raises what ended the nodes."""
        end = time.monotonic() + seconds
        before, self._waiting = self._waiting, True
        try:
            with self._news:
                while not there() and self._lost is None and time.monotonic() < end:
                    self._news.wait(min(max(end - time.monotonic(), 0.0), 1.0))
                if self._lost is not None and not there():
                    raise self._lost
                return there()
        finally:
            self._waiting = before

    def _nobody_came(self) -> str:
        place, missing = self._place, self._missing
        who = f"node 0 at {place.host}:{place.port}{self._last}, or a node that it waits for,"
        if place.leads:
            who = f"{'node' if len(missing) == 1 else 'nodes'} {', '.join(map(str, missing))} of {place.nodes}"
        return f"waited {place.patience:.0f} s for peers: {who} did not come"

    def _interrupt(self, _signum: int, _frame: object) -> None:
        if self._lost is not None and not self._waiting:
            raise self._lost

    def _lose(self, error: Exception) -> None:
        """The group is over: wake the main thread wherever it is."""
        with self._news:
            if self._lost is not None or self._stop.is_set():
                return
            self._lost = error
            self._news.notify_all()
        main = threading.main_thread().ident
        if not self._waiting and main is not None:
            signal.pthread_kill(main, signal.SIGUSR1)

    def _watch(self) -> None:
        """A call to the store that never comes back: node 0's machine is gone."""
        while not self._stop.wait(BEAT):
            if self._formed and time.monotonic() - self._answered > LOST:
                self._lose(LostPeers(f"node 0 has not been heard of for {LOST:.0f} s"))

    def _talk(self) -> None:
        """The thread: find the store, meet, then beat until the end."""
        try:
            store = serve(self._place) if self._place.leads else None
        except Exception as error:  # noqa: BLE001  a thread's top: the main thread raises it
            self._lose(TryAgain(f"node 0 cannot listen on port {self._place.port}: {error}"))
            return
        while not self._stop.is_set():
            try:
                self._last = ""
                met = Meeting(self._place, connect(self._place) if store is None else store)
                if self._meet(met):
                    self._beat(met)
            except Exception as error:  # noqa: BLE001  torch raises several kinds for a connection that broke
                said = (str(error).splitlines() or [type(error).__name__])[0]
                self._last = f" ({said})"
                if self._formed:
                    self._lose(LostPeers(f"the connection to node 0 is lost: {said}"))
                    return
            self._stop.wait(BEAT)

    def _meet(self, met: Meeting) -> bool:
        """True when everybody is here; False to look for another node 0."""
        if not met.arrive():
            return False
        while not self._stop.is_set() and not met.over():
            self._missing = met.missing()
            if met.formed(self._missing):
                with self._news:
                    self._formed, self._answered = True, time.monotonic()
                    self._news.notify_all()
                return True
            self._stop.wait(BEAT)
        return False

    def _beat(self, met: Meeting) -> None:
        while not self._stop.is_set():
            with self._news:
                mine = dict(self._outbox)
            met.tell(mine)
            heard = met.hear(self._heard)
            with self._news:
                self._outbox = {
                    key: value for key, value in self._outbox.items() if mine.get(key) != value
                }
                self._heard |= heard
                self._answered = time.monotonic()
                self._news.notify_all()
            if "over" in heard and heard["over"] != mine.get("over"):
                self._lose(_ended_by(heard["over"], self._place))
            silent = met.silent()
            if silent:
                self._lose(LostPeers(silent))
            self._stop.wait(BEAT / 5 if self._waiting else BEAT)


def _ended_by(text: str, place: Place) -> Exception:
    report = json.loads(text)
    error = failures.revive(report, named=report["who"] not in ("", f"node {place.node}"))
    return LostPeers(str(error)) if report["lost_peer"] else error
