"""Locks between all processes that test on this machine's node: each has a name, and is held by one alone or by many together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# kept between runs, outside any checkout
CACHE = Path(os.environ.get("VIDJOBS_IMAGE_CACHE", "/var/tmp/vidjobs-images"))


@contextmanager
def sharing(name: str, *, alone: bool) -> Iterator[None]:
    """Hold the lock: `alone` waits until nobody else does, and others wait for it. It goes with the process, however that ends."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
