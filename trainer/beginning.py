"""What one process of a training does for all others before they start, under the run's lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer import config as conf
from trainer import done, preflight, provenance
from trainer.config import Config
from trainer.prepare import ensure_cache
from trainer.run_folder import RunFolder, remove_temporary


def finished_before(config: Config, folder: RunFolder, say: Callable[[str], None]) -> bool:
    """Whether there is nothing left to do. Raises ConfFault for a run that had another recipe."""
    preflight.require_same_conf(folder, config, say)
    if done.before(config, folder):
        say(f"the run {folder.root.name} is already finished: {folder.done} says so")
        return True
    return False


def begin(config: Config, folder: RunFolder, cache: Path, say: Callable[[str], None]) -> bool:
    """Conf, provenance, cache. True when there is nothing left to do. Raises ConfFault, DataError, CannotWrite."""
    if finished_before(config, folder, say):
        return True
    folder.done.unlink(missing_ok=True)
    for place in (folder.root, folder.checkpoints):
        remove_temporary(place)
    folder.write_text(folder.conf, conf.dump(config))
    provenance.write(folder, config)
    for note in ensure_cache(config, cache, say).notes:
        say(f"note: {note}")
    return False
