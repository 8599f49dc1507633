"""Which files of a run folder `fetch WHAT` means. Pure: names in, names out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from launcher.backend_base import RemoteFile
from launcher.errors import UserError, did_you_mean
from launcher.records import RunPaths

INSIDE = RunPaths(root=PurePosixPath())  # names relative to the run folder
WORDS = ("checkpoints", "predictions", "metrics", "logs", "figures", "report", "all")
_WEIGHTS = re.compile(re.escape(str(INSIDE.checkpoints)) + r"/epoch-(\d+)\.pt")
_UNFINISHED = (".tmp", ".part", ".part.json")  # names of files that are not whole yet


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which checkpoints; nothing set means all."""

    epochs: str = ""  # "3,10-20"
    last: bool = False
    best: bool = False

    @property
    def some(self) -> bool:
        return bool(self.epochs or self.last or self.best)


def choose(
    what: str, which: Which, listed: Sequence[RemoteFile], manifest: Mapping[str, Any] | None
) -> list[RemoteFile]:
    """The files that are wanted, in the order of the listing. `manifest` is checkpoints/manifest.json, None when there is none yet.

    UserError for a WHAT that means nothing, for checkpoints that do not exist, and when nothing matches.
    """
    _check(what, which)
    whole = [
        file
        for file in listed
        if not file.path.endswith(_UNFINISHED) and not PurePosixPath(file.path).name.startswith(".")
    ]
    if which.some:
        wanted = _selected(which, whole, manifest or {})
    elif what == "checkpoints":
        wanted = {
            file.path
            for file in whole
            if _WEIGHTS.fullmatch(file.path) or file.path == str(INSIDE.manifest)
        }
    else:
        wanted = {file.path for file in whole if _matches(what, file.path)}
    found = [file for file in whole if file.path in wanted]
    if not found:
        have = sorted({file.path.split("/")[0] for file in whole})
        hint = (
            "`vidjobs report RUN` makes it here"
            if what == "report"
            else f"it has {', '.join(have)}"
            if have
            else "it has written nothing yet"
        )
        raise UserError(f'the run folder has nothing that "{what}" means', hint=hint)
    return found


def parse_epochs(text: str) -> list[range]:
    """`3,10-20` as ranges, ends included. UserError when it is something else."""
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UserError(
                f'--epochs is "{text}", and "{word}" is no epoch or range of epochs',
                hint="write --epochs 3,10-20",
            )
        found.append(range(first, last + 1))
    return found


def _check(what: str, which: Which) -> None:
    if which.some and what != "checkpoints":
        raise UserError(
            f'--epochs, --last and --best choose checkpoints, and "{what}" is asked for',
            hint="vidjobs fetch checkpoints --best",
        )
    plain = not any(letter in what for letter in "*?[/.")
    if plain and what not in WORDS:
        hint = (
            did_you_mean(what, WORDS)
            or f"one of {', '.join(WORDS)}, or a glob like 'predictions/*.npy'"
        )
        raise UserError(f'"{what}" is nothing that can be fetched', hint=hint)


def _matches(what: str, path: str) -> bool:
    folders = {"predictions": INSIDE.predictions, "figures": INSIDE.figures}
    files = {"metrics": INSIDE.metrics, "logs": INSIDE.log, "report": INSIDE.report}
    if what == "all":
        return True
    if what in folders:
        return path.startswith(f"{folders[what]}/")
    if what in files:
        return path == str(files[what])
    return path == what or path.startswith(what.rstrip("/") + "/") or fnmatchcase(path, what)


def _selected(which: Which, listed: Sequence[RemoteFile], manifest: Mapping[str, Any]) -> set[str]:
    """Paths of the checkpoints that --epochs, --last and --best name, together."""
    weights = {
        int(match[1]): file.path for file in listed if (match := _WEIGHTS.fullmatch(file.path))
    }
    wanted = _of_epochs(which.epochs, weights) if which.epochs else set()
    for flag, word in ((which.last, "last"), (which.best, "best")):
        if flag:
            wanted.add(_named(word, weights, manifest))
    return wanted


def _named(word: str, weights: Mapping[int, str], manifest: Mapping[str, Any]) -> str:
    name = manifest.get(word) or ""
    path = (
        f"{INSIDE.checkpoints}/{name}"
        if name
        else weights[max(weights)]
        if word == "last" and weights
        else ""
    )
    if path not in weights.values():
        raise UserError(f"the run has no {word} checkpoint yet", hint=_span(weights))
    return path


def _of_epochs(text: str, weights: Mapping[int, str]) -> set[str]:
    ranges = parse_epochs(text)
    missing = [str(each[0]) for each in ranges if not any(epoch in weights for epoch in each)]
    if missing:
        raise UserError(
            f"the run has no checkpoint of epoch {', '.join(missing)}", hint=_span(weights)
        )
    return {path for epoch, path in weights.items() if any(epoch in each for each in ranges)}


def _span(weights: Mapping[int, str]) -> str:
    return (
        f"it has epochs {min(weights)} to {max(weights)}"
        if weights
        else "`vidjobs status` says how far it is"
    )
