"""provenance.json: which code, packages, machine and seed made this run, and each attempt at it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainer import config as conf
from trainer.compute import cudnn_version
from trainer.config import Config
from trainer.run_folder import RunFolder

PROJECT = Path(__file__).resolve().parents[1]
OF_ATTEMPT = (
    "started",
    "node",
    "pod",
    "gpu",
    "cudnn",
    "command",
    "commit",
    "diff_hash",
    "image",
    "conf_hash",
)


def write(folder: RunFolder, config: Config) -> None:
    """Write the run's provenance; on a retry only its list of attempts grows, and what changed is written into the new one."""
    facts = collect(config)
    attempt = {key: facts[key] for key in OF_ATTEMPT}
    known = _read(folder.provenance)
    attempts = [*known.get("attempts", []), attempt]
    folder.write_text(
        folder.provenance, json.dumps({**(known or facts), "attempts": attempts}, indent=1) + "\n"
    )


def add_usage(folder: RunFolder, usage: Mapping[str, Any]) -> None:
    """Write into the newest attempt what it used. Raises CannotWrite."""
    known = _read(folder.provenance)
    attempts = known.get("attempts")
    if usage and isinstance(attempts, list) and attempts:
        attempts[-1] |= {"usage": dict(usage)}
        folder.write_text(folder.provenance, json.dumps(known, indent=1) + "\n")


def collect(config: Config) -> dict[str, Any]:
    """The facts of now. The launcher passes those that only it knows in VIDJOBS_* variables."""
    commit, diff_hash = _code()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "diff_hash": diff_hash,
        "image": os.environ.get("VIDJOBS_IMAGE", ""),
        "conf_hash": hashlib.sha256(conf.dump(config).encode()).hexdigest(),
        "packages": packages(),
        "python": sys.version.split()[0],
        "cudnn": cudnn_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "node": os.environ.get("VIDJOBS_NODE") or socket.gethostname(),
        "pod": os.environ.get("VIDJOBS_POD", ""),
        "seed": {"train": config.train.seed, "split": config.data.split_seed},
        "vidjobs": version(),
        "command": [sys.executable, *sys.argv],
    }


def packages() -> dict[str, str]:
    """Every installed distribution and its version."""
    found = {
        dist.metadata["Name"]: dist.version
        for dist in metadata.distributions()
        if dist.metadata["Name"]
    }
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def version() -> str:
    """Of the launcher that rendered this pod, else of the installed package; "" in a checkout used by hand."""
    told = os.environ.get("VIDJOBS_VERSION", "")
    try:
        return told or metadata.version("vidjobs")
    except metadata.PackageNotFoundError:
        return ""


def _code() -> tuple[str, str]:
    """(commit, sha256 of the diff against it); on a machine without the launcher's word, git's."""
    commit = os.environ.get("VIDJOBS_COMMIT", "")
    if commit:
        return commit, os.environ.get("VIDJOBS_DIFF_SHA256", "")
    if not (PROJECT / ".git").exists():
        return "", ""  # installed as a package, or another project's checkout around it
    commit = _git("rev-parse", "HEAD").decode().strip()
    diff = _git("diff", "--binary", "HEAD") if commit else b""
    return commit, hashlib.sha256(diff).hexdigest() if diff else ""


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
