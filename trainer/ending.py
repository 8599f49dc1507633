"""How a run ends: the exit code, and the JSON that Kubernetes keeps as the container's termination message."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from trainer.errors import BUG, CannotWrite, TrainerError

LIMIT = 4096  # bytes that Kubernetes keeps of a container's termination message
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def classify(error: BaseException) -> tuple[str, int]:
    """(cause, exit code) of an exception that ended a verb."""
    if isinstance(error, TrainerError):
        return error.cause, error.exit_code
    if isinstance(error, OSError) and error.errno in FULL:
        return CannotWrite.cause, CannotWrite.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    return "bug", BUG


def message(cause: str, code: int, text: str, manifest: Path) -> dict[str, Any]:
    """What `vidjobs status` shows: why it ended, and how far the run got (from the checkpoints' manifest, if there is one)."""
    ending = {"cause": cause, "exit_code": code, "message": text}
    try:
        files = json.loads(manifest.read_text())["files"]
        name, entry = max(
            files.items(), key=lambda item: (item[1]["step"], item[1]["kind"] == "state")
        )
        return ending | {"checkpoint": name, "step": entry["step"], "epoch": entry["epoch"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ending  # no checkpoint yet, or a manifest that must not hide why the run ended


def write(ending: dict[str, Any]) -> None:
    """Write the termination message, cut to the size that is kept; nothing where there is no such file to write."""
    target = os.environ.get("VIDJOBS_TERMINATION_LOG", "/dev/termination-log")
    if not (Path(target).exists() or "VIDJOBS_TERMINATION_LOG" in os.environ):
        return
    text = json.dumps(ending)
    excess = len(text.encode()) - LIMIT
    if excess > 0:
        kept = str(ending["message"]).encode()[: -excess - 8].decode(errors="ignore")
        text = json.dumps(ending | {"message": kept + "..."})
    try:
        Path(target).write_text(text)
    except OSError:
        pass  # the exit code still says it
