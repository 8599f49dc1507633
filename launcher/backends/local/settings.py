"""The order that `submit` leaves for the supervisor: the manifests as rendered, and how long to wait between attempts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.backend_base import Manifest
from launcher.backends.local.state import write_whole

_LONGEST_S = 360.0  # as the Job controller has it


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run."""

    manifests: Sequence[Manifest]
    # delay before the first retry; it doubles with each (a cluster starts at 10 s)
    retry_base_s: float

    def delay(self, failures: int) -> float:
        """Seconds to wait before the next attempt."""
        return min(_LONGEST_S, self.retry_base_s * 2.0 ** min(30, max(0, failures - 1)))


def save_order(order: Order, path: Path) -> None:
    """Write it for the supervisor, and for every `resume` after."""
    write_whole(path, json.dumps(asdict(order), indent=1))


def load_order(path: Path) -> Order:
    """Read what `save_order` wrote."""
    return Order(**json.loads(path.read_text(encoding="utf-8")))
