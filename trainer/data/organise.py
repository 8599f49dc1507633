"""Videos in one flat folder sorted into class folders: `prepare.organise`.

v_Archery_g01_c01.avi  ->  <root>/Archery/v_Archery_g01_c01.avi

Hard links where the file system has them, so that nothing is held twice, else copies. Nothing is overwritten, moved or deleted, and a
second time only what is missing is done.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from trainer.config import Config
from trainer.data import dataset_files as files
from trainer.data.datasets import ucf101
from trainer.errors import DataError
from trainer.run_folder import writing

Say = Callable[[str], None]
Done = Literal["linked", "copied", "there", "different"]

NAME = re.compile(r"v_(?P<name>[^_]+)_g\d+_c\d+\.[^.]+")
NAMED = 10  # files named in a line


@dataclass(frozen=True, kw_only=True)
class Organised:
    """What was done, by the files' names."""

    linked: tuple[str, ...]
    copied: tuple[str, ...]
    there: tuple[str, ...]  # before, with the same size
    different: tuple[str, ...]  # another file of this name is there; it was left as it is
    strangers: tuple[str, ...]  # files whose names tell no class

    def summary(self) -> list[str]:
        """Lines for people."""
        counts = (
            f"{len(self.linked)} linked, {len(self.copied)} copied, {len(self.there)} there before"
        )
        told = [f"organise: {counts}, {len(self.strangers)} left where they are"]
        if self.strangers:
            told.append(
                f"organise: no class in the names of {_some(self.strangers)}; videos are named v_<Class>_g01_c01.avi"
            )
        if self.different:
            told.append(f"organise: not overwritten, though they differ: {_some(self.different)}")
        return told


def organise(config: Config, say: Say) -> Organised:
    """Sort the videos of the folder prepare.organise into class folders under data.root. Raises DataError, CannotWrite."""
    source, root = Path(config.prepare.organise), Path(config.data.root)
    files.require_folder(source, "prepare.organise")
    placed, strangers = plan(entry.name for entry in files.entries(source) if entry.is_file())
    if not placed:
        message = f"{source} holds no file named v_<Class>_g01_c01.avi, of {len(strangers)} files"
        raise DataError(message, hint="prepare.organise names the flat folder of the videos")
    done: dict[Done, list[str]] = {"linked": [], "copied": [], "there": [], "different": []}
    for name, folder in placed.items():
        done[place(source / name, root / folder / name)].append(name)
    result = Organised(strangers=strangers, **{what: tuple(names) for what, names in done.items()})
    for line in result.summary():
        say(line)
    return result


def plan(names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(video -> class folder, files whose names tell no class), in the order given. Hidden files are not mentioned."""
    placed, strangers = {}, []
    for name in names:
        match = NAME.fullmatch(name)
        if match and files.video_stem(name) != name and match["name"] not in (".", ".."):
            placed[name] = ucf101.official_name(match["name"])
        elif not name.startswith("."):
            strangers.append(name)
    return placed, tuple(strangers)


def place(source: Path, target: Path) -> Done:
    """Link or copy one file, unless something is there. Raises CannotWrite."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except FileExistsError:
            return "there" if _same(source, target) else "different"
        except OSError:  # another volume, or one that has no links
            return _copy(source, target)
    return "linked"


def _copy(source: Path, target: Path) -> Done:
    if target.exists():
        return "there" if _same(source, target) else "different"
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(target)  # another pod of the same `prepare` would put the same file there
    finally:
        part.unlink(missing_ok=True)
    return "copied"


def _same(source: Path, target: Path) -> bool:
    return target.is_file() and (
        source.samefile(target) or source.stat().st_size == target.stat().st_size
    )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
