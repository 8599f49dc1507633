"""Nodes of one training as processes of this machine: where they meet, and which of its GPUs each may take."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_GPUS = "CUDA_VISIBLE_DEVICES"


def meeting() -> str:
    """HOST:PORT that is free now, on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def environment(index: int, nodes: int, address: str) -> dict[str, str]:
    """What node `index` of `nodes` sees beside the manifest's: two nodes must not take one GPU, so each gets its share of them."""
    mine = shares(_gpus(), nodes)[index]
    return {"VIDJOBS_MEETING": address} | ({_GPUS: ",".join(mine)} if _gpus() else {})


def shares(gpus: list[str], nodes: int) -> list[list[str]]:
    """As many for each, the first nodes the first ones; none where there are fewer than nodes."""
    size = len(gpus) // nodes
    return [gpus[node * size : (node + 1) * size] for node in range(nodes)]


def _gpus() -> list[str]:
    """Those that the user lets be seen, else all of this machine."""
    told = os.environ.get(_GPUS)
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    return [
        str(number)
        for number in range(
            sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
        )
    ]
