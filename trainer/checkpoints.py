"""Checkpoints: `epoch-*.pt` (weights, for inference), `state-*.pt` (everything that resuming needs) and their manifest.

Files first, the manifest last, deletions after it: whenever the process is killed, the manifest names whole files only.
Tensors and plain containers only; everything is read with weights_only=True, and its sha256 is compared first.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from trainer.errors import DataError
from trainer.run_folder import RunFolder, atomic

FORMAT = 1
STATES_KEPT = 2
NO_STATE = "move the folder away to start anew, or submit a new run `--from` its weights"
# how torch.load tells that a file is no checkpoint
MALFORMED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)
WEIGHTS_NAME = re.compile(r"epoch-(\d{6,})\.pt")
CHECKPOINT_NAME = re.compile(r"(?P<kind>epoch|state)-\d{6,}(-step-\d{8,})?\.pt")


class WeightsFile(TypedDict):
    """What `epoch-*.pt` holds: the weights, and what inference must know to use them."""

    format: int
    model: dict[str, Any]  # name and every option
    classes: list[str]
    multi_label: bool  # a video may show several of the classes, or none
    # how frames become clips: DataConf's keys of `INFERENCE` (trainer/config.py)
    data: dict[str, Any]
    frames: int
    size: int
    # method, bound and gap of the flow that it learnt from (trainer/data/flow.py); {} where nobody
    # said
    flow: dict[str, Any]
    normalisation: dict[str, Any]  # mean, std and order of the channels (trainer/data/normalise.py)
    fps: float
    epoch: int
    step: int
    metrics: dict[str, float]
    state_dict: dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the manifest."""

    kind: Literal["weights", "state"]
    epoch: int
    step: int
    size: int
    sha256: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """checkpoints/manifest.json. `last` and `best` name weights files, "" while there are none."""

    last: str = ""
    best: str = ""
    select: str = ""
    files: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: RunFolder) -> Manifest:
        """The run's manifest, an empty one when it has none. Raises DataError when it cannot be read."""
        try:
            raw = json.loads(folder.manifest.read_text())
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']} is not {FORMAT}")
            files = {str(name): Entry(**entry) for name, entry in raw["files"].items()}
            return cls(last=raw["last"], best=raw["best"], select=raw["select"], files=files)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            hint = "remove this one file: the next start makes it anew from the checkpoints"
            raise DataError(f"cannot read {folder.manifest}: {error!r}", hint=hint) from error

    @classmethod
    def rebuilt(cls, folder: RunFolder, say: Callable[[str], None]) -> Manifest:
        """From the files themselves, which are whole when they have their names. Those that are not are named and left out.

        Raises DataError when there are some and none can be read: nothing starts anew over them.
        """
        files: dict[str, Entry] = {}
        paths = sorted(
            path for path in folder.checkpoints.glob("*.pt") if CHECKPOINT_NAME.fullmatch(path.name)
        )
        for path in paths:
            try:
                files[path.name] = _entry(path, _read(path))
            except DataError as error:
                say(f"warning: {error}; it is left out")
        if paths and not files:
            raise DataError(
                f"{folder.checkpoints} holds no checkpoint that can be read", hint=NO_STATE
            )
        return cls(
            last=max(
                (name for name, entry in files.items() if entry.kind == "weights"), default=""
            ),
            files=files,
        )

    @classmethod
    def of(cls, folder: RunFolder, say: Callable[[str], None]) -> Manifest:
        """As it stands there. Rebuilt where there is none, as when the process was killed before it came, and where it is damaged."""
        if folder.manifest.exists():
            try:
                return cls.load(folder)
            except DataError as error:
                say(f"warning: {error.message}; it is made anew from the checkpoints beside it")
        return cls.rebuilt(folder, say)

    def save(self, folder: RunFolder) -> None:
        """Write it, then remove the files that the one before it named and it does not, and states that neither did."""
        try:
            before = Manifest.load(folder)
        except DataError:
            before = Manifest()
        entries = {name: asdict(entry) for name, entry in sorted(self.files.items())}
        for entry in entries.values():
            if entry["kind"] == "state":
                del entry["metrics"]
        raw = {
            "format": FORMAT,
            "last": self.last,
            "best": self.best,
            "select": self.select,
            "files": entries,
        }
        folder.write_text(folder.manifest, json.dumps(raw, indent=1) + "\n")
        for path in folder.checkpoints.glob("*.pt"):
            hit = CHECKPOINT_NAME.fullmatch(path.name)
            if (
                hit
                and path.name not in self.files
                and (path.name in before.files or hit["kind"] == "state")
            ):
                path.unlink()

    def of_kind(self, kind: str) -> list[tuple[str, Entry]]:
        """Its files of that kind, oldest first."""
        found = [(name, entry) for name, entry in self.files.items() if entry.kind == kind]
        return sorted(found, key=lambda item: (item[1].step, item[1].epoch, item[0]))

    def adding(self, files: Mapping[str, Entry], *, best: str, select: str, keep: str) -> Manifest:
        """With new files, thinned: the last states and, of the weights, what `keep` (train.keep_weights) says."""
        every = replace(self, files={**self.files, **files}, best=best, select=select)
        weights = [name for name, _ in every.of_kind("weights")]
        states = [name for name, _ in every.of_kind("state")]
        kept = {*kept_weights(weights, best, keep), *states[-STATES_KEPT:]}
        return replace(
            every,
            last=weights[-1] if weights else "",
            files={name: every.files[name] for name in every.files if name in kept},
        )

    def cut_back(self, step: int, epoch: int, best: str) -> Manifest:
        """Without what came after the state at `step` from which training goes on in `epoch`; `best` as it was then."""

        def stays(entry: Entry) -> bool:
            return (
                entry.step <= step
                if entry.kind == "state"
                else entry.epoch < epoch or entry.step < step
            )

        files = {name: entry for name, entry in self.files.items() if stays(entry)}
        weights = [name for name, entry in sorted(files.items()) if entry.kind == "weights"]
        return replace(
            self,
            files=files,
            last=weights[-1] if weights else "",
            best=best if best in files else "",
        )


def kept_weights(names: list[str], best: str, keep: str) -> set[str]:
    """Which of the weights files (oldest first) stay: "all", "best" or "last:N"; the best and the last always do."""
    always = {name for name in (best, *names[-1:]) if name}
    if keep == "all":
        return set(names)
    if keep == "best":
        return always
    return always | set(names[-int(keep.removeprefix("last:")) :])


def save(
    path: Path,
    content: Mapping[str, Any],
    *,
    kind: Literal["weights", "state"],
    metrics: Mapping[str, float] | None = None,
    require: Callable[[], None] = lambda: None,
) -> Entry:
    """Write a checkpoint atomically; returns its manifest entry. `content` has `epoch` and `step`. Raises CannotWrite.

    `require` raises where the folder is no longer this process's: asked before the file gets its name, which is long after it was begun.
    """
    with atomic(path) as sink:
        torch.save(dict(content), sink)  # type: ignore[arg-type]  # it needs write and flush only
        sink.close()
        require()
    numbers = {"epoch": int(content["epoch"]), "step": int(content["step"])}
    return Entry(
        kind=kind, **numbers, size=sink.size, sha256=sink.sha256, metrics=dict(metrics or {})
    )


def read_weights(path: Path) -> dict[str, Any]:
    """A WeightsFile, on the CPU. Its sha256 is checked when a manifest stands beside it. Raises DataError."""
    require_as_written(path)
    return _read(path)


def list_weights(folder: Path) -> dict[int, Path]:
    """epoch -> file, of every `epoch-*.pt` in a checkpoints folder, in order."""
    found = {
        int(hit[1]): path
        for path in folder.glob("epoch-*.pt")
        if (hit := WEIGHTS_NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def newest_state(
    folder: RunFolder, say: Callable[[str], None]
) -> tuple[Manifest, dict[str, Any]] | None:
    """The newest whole state and the manifest up to it; None when there is no checkpoint at all.

    A damaged state is named and left out. Raises DataError when there are checkpoints and no whole state: nothing starts anew over them.
    """
    manifest = Manifest.of(folder, say)
    states = manifest.of_kind("state")
    for name, entry in reversed(states):
        try:
            require_whole(folder.checkpoints / name, entry)
            state = _read(folder.checkpoints / name)
        except DataError as error:
            say(f"warning: {error}; going back to the state before it")
            manifest = replace(
                manifest,
                files={other: kept for other, kept in manifest.files.items() if other != name},
            )
            continue
        position = state["position"]
        goes_on_in = int(position["epoch"]) + bool(position["closed"])
        return manifest.cut_back(
            int(position["step"]), goes_on_in, str(state["best"]["file"])
        ), state
    if manifest.files or states:
        raise DataError(f"{folder.checkpoints} holds no whole state to go on from", hint=NO_STATE)
    return None


def _entry(path: Path, content: Mapping[str, Any]) -> Entry:
    weights = path.name.startswith("epoch")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(
        kind="weights" if weights else "state",
        epoch=int(content["epoch"]),
        step=int(content["step"]),
        size=path.stat().st_size,
        sha256=sha256,
        metrics=dict(content["metrics"]) if weights else {},
    )


def require_as_written(path: Path) -> None:
    """Raise DataError when the manifest beside the file names it and says otherwise; a file without one may be anything."""
    run = RunFolder(path.absolute().parent.parent)
    entry = (
        Manifest.load(run).files.get(path.name)
        if path.absolute().parent == run.checkpoints
        else None
    )
    if entry is not None:
        require_whole(path, entry)


def require_whole(path: Path, entry: Entry) -> None:
    """Raise DataError unless the file has the size and sha256 of its manifest entry."""
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise DataError(f"{path} has {size} bytes, its manifest says {entry.size}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if found != entry.sha256:
        raise DataError(
            f"{path} is damaged: its sha256 is {found[:12]}..., its manifest says {entry.sha256[:12]}..."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, *MALFORMED) as error:
        raise DataError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not a checkpoint of this program (format {FORMAT})")
    return content
