"""done.json: that a training is finished, and with which length it was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trainer.checkpoints import Manifest
from trainer.config import Config
from trainer.run_folder import RunFolder


def before(config: Config, folder: RunFolder) -> bool:
    """Whether the run was finished with the same length; one that was shorter goes on."""
    try:
        return bool(json.loads(folder.done.read_text())["asked"] == _asked(config))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(config: Config, folder: RunFolder, *, usage: Mapping[str, Any]) -> None:
    """The file, and a line on stdout. `usage` is of the last attempt. Raises CannotWrite."""
    manifest = Manifest.load(folder)
    done = {
        "verb": "train",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit_code": 0,
        "asked": _asked(config),
        "last": manifest.last,
        "best": manifest.best,
        "step": max((entry.step for entry in manifest.files.values()), default=0),
        "usage": dict(usage),
    }
    folder.write_text(folder.done, json.dumps(done, indent=1) + "\n")
    print(
        f"finished: last {manifest.last}, best {manifest.best or 'unknown (no validation)'} in {folder.checkpoints}",
        flush=True,
    )


def _asked(config: Config) -> dict[str, int]:
    return {"epochs": config.train.epochs, "max_steps": config.train.max_steps}
