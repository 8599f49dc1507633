"""Where a run's nodes meet: node 0's key-value store, and its keys.

arrived/K      how often node K came: once more after everybody was here means that the first one died
formed         everybody is here
beat/K         a counter that node K raises as long as it lives
result         what node 0 made before the ranks start (JSON)
size/K         processes of node K
over           the first error that ended a node (failures.describe): everybody ends with it
finished       node 0 has written all there is to write
bye/K          node K needs the store no more
ranks/...      how the processes find each other (torch.distributed)
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from trainer import failures
from trainer.errors import ConfFault, Fault, TryAgain

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

NODES, MEETING, TIMEOUT = "VIDJOBS_NODES", "VIDJOBS_MEETING", "VIDJOBS_JOIN_TIMEOUT"
INDEX = "JOB_COMPLETION_INDEX"  # which Kubernetes gives each pod of an Indexed Job
LOST = 60.0  # seconds without a sign of life
CALL = timedelta(seconds=20)  # that the store may take to answer
SIOCGIFADDR = 0x8915  # Linux: the address of an interface

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which node of how many, and where node 0 is."""

    node: int = 0
    nodes: int = 1
    host: str = ""
    port: int = 0
    patience: float = 900.0  # seconds that a node waits for the others to come

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Place:
        """As the launcher rendered it; nothing of it set is one node. Raises ConfFault."""
        nodes = environ.get(NODES, "") or "1"
        if nodes == "1":
            return cls()
        node, meeting, patience = (
            environ.get(INDEX, ""),
            environ.get(MEETING, ""),
            environ.get(TIMEOUT, "") or "900",
        )
        host, _, port = meeting.rpartition(":")
        wrong = {
            NODES: ""
            if nodes.isdecimal() and int(nodes) > 0
            else f"is {nodes!r}, no number of nodes",
            INDEX: ""
            if node.isdecimal() and nodes.isdecimal() and int(node) < int(nodes)
            else f"is {node!r}, none of {nodes} nodes",
            MEETING: ""
            if host and port.isdecimal()
            else f"is {meeting!r}, not HOST:PORT of node 0",
            TIMEOUT: "" if patience.isdecimal() else f"is {patience!r}, no number of seconds",
        }
        if any(wrong.values()):
            hint = "`vidjobs submit` with job.nodes sets it on every node"
            raise ConfFault(
                [
                    Fault(path=name, message=message, hint=hint)
                    for name, message in wrong.items()
                    if message
                ]
            )
        return cls(
            node=int(node), nodes=int(nodes), host=host, port=int(port), patience=float(patience)
        )

    @property
    def alone(self) -> bool:
        """There is one node."""
        return self.nodes == 1

    @property
    def leads(self) -> bool:
        """Node 0 holds the run's lock, prepares, and writes."""
        return self.node == 0

    @property
    def others(self) -> list[int]:
        return [node for node in range(self.nodes) if node != self.node]

    def named(self, say: Say) -> Say:
        """Lines of other nodes than node 0 with their number: the logs of all pods may be read together."""
        return say if self.leads else lambda line: say(f"node {self.node}: {line}")


class Meeting:
    """One connection to one store, and the keys."""

    def __init__(self, place: Place, store: TCPStore) -> None:
        self._place, self._store = place, store
        self._count = 0
        self._seen: dict[int, tuple[bytes, float]] = {}  # node -> (its beat, when it changed)

    def arrive(self) -> bool:
        """False when the group is over, or goes on with one in this node's place that died: node 0 has to begin again."""
        if self.over():
            return False
        first = self._store.add(f"arrived/{self._place.node}", 1) == 1
        if first or not self._store.check(["formed"]):
            return True
        gone = TryAgain(f"node {self._place.node} was lost and has come anew")
        self._store.compare_set("over", "", json.dumps(failures.describe(gone, "")))
        return False

    def missing(self) -> list[int]:
        return [node for node in self._place.others if not self._store.check([f"arrived/{node}"])]

    def formed(self, missing: list[int]) -> bool:
        if self._place.leads and not missing:
            self._store.set("formed", "yes")
        return bool(self._store.check(["formed"]))

    def over(self) -> bool:
        return bool(self._store.check(["over"]))

    def tell(self, news: Mapping[str, str]) -> None:
        """Write them, and that this node lives. The first `over` stays."""
        for key, value in news.items():
            if key == "over":
                self._store.compare_set("over", "", value)
            else:
                self._store.set(key, value)
        self._count += 1
        self._store.set(f"beat/{self._place.node}", str(self._count))

    def hear(self, known: Mapping[str, str]) -> dict[str, str]:
        """Keys that are new."""
        per_node = [
            f"{kind}/{node}" for kind in ("size", "bye") for node in range(self._place.nodes)
        ]
        wanted = [key for key in ("over", "result", "finished", *per_node) if key not in known]
        return {key: self._store.get(key).decode() for key in wanted if self._store.check([key])}

    def silent(self) -> str:
        """On node 0: which node has not been heard of for too long; "" when all live."""
        now = time.monotonic()
        for node in self._place.others if self._place.leads else []:
            key = f"beat/{node}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if node not in self._seen or self._seen[node][0] != beat:
                self._seen[node] = beat, now
            if now - self._seen[node][1] > LOST:
                return f"node {node} has not been heard of for {LOST:.0f} s"
        return ""


def serve(place: Place) -> TCPStore:
    from torch._C._distributed_c10d import TCPStore

    return TCPStore("localhost", place.port, is_master=True, wait_for_workers=False, timeout=CALL)


def connect(place: Place) -> TCPStore:
    """A client of node 0's store; OSError when it is not there yet. A plain socket asks first: torch's would warn at length."""
    from torch._C._distributed_c10d import TCPStore

    with socket.create_connection((place.host, place.port), timeout=5.0):
        pass
    return TCPStore(place.host, place.port, is_master=False, wait_for_workers=False, timeout=CALL)


def interface_towards(host: str, port: int) -> str:
    """The network interface whose address this machine uses to reach another one: "eth0", "lo"; "" where that cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # sends nothing
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                with suppress(OSError):
                    answer = fcntl.ioctl(
                        probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15])
                    )
                    if socket.inet_ntoa(answer[20:24]) == own:
                        return name
    except OSError:
        pass
    return ""


def leads(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process may write to the run's log; also of a place that is wrong."""
    return environ.get(NODES, "1") in ("", "1") or environ.get(INDEX, "0") == "0"
