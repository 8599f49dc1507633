"""The run folder is one text that two programs share: the launcher's RunPaths and the trainer's RunFolder name the same files."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest

from launcher.backend_base import RemoteFile
from launcher.fetch_choice import Which, choose
from launcher.records import RunPaths
from trainer.run_folder import RunFolder

NAMES = ["conf", "provenance", "metrics", "log", "checkpoints", "manifest", "predictions", "figures", "tensorboard", "report", "done"]
LAYOUT = {
    "conf": "conf.yaml",
    "provenance": "provenance.json",
    "metrics": "metrics.jsonl",
    "log": "train.log",
    "checkpoints": "checkpoints",
    "manifest": "checkpoints/manifest.json",
    "predictions": "predictions",
    "figures": "figures",
    "tensorboard": "tensorboard",
    "report": "report.html",
    "done": "DONE.json",
}


@pytest.mark.parametrize("name", NAMES)
def test_both_programs_give_a_file_the_same_name(name: str) -> None:
    ours = getattr(RunPaths(root=PurePosixPath("/runs/a")), name)
    theirs = getattr(RunFolder(Path("/runs/a")), name)
    assert str(ours) == str(theirs) == f"/runs/a/{LAYOUT[name]}"


def test_the_launcher_knows_every_name() -> None:
    properties = {name for name, value in vars(RunPaths).items() if isinstance(value, property)}
    assert properties == set(NAMES)


def test_fetch_finds_the_weights_that_the_trainer_writes_and_leaves_the_states() -> None:
    folder = RunFolder(Path())
    written = [folder.weights(1), folder.weights(1_000_000), folder.state(1), folder.state(1, 12), folder.manifest]
    listed = [RemoteFile(path=path.as_posix(), size=1, mtime_ns=1) for path in written]
    found = {file.path for file in choose("checkpoints", Which(), listed, None)}
    assert found == {folder.weights(1).as_posix(), folder.weights(1_000_000).as_posix(), folder.manifest.as_posix()}


def test_fetch_leaves_the_trainers_unfinished_files_alone(tmp_path: Path) -> None:
    """What is being written has a name that `fetch all` does not bring."""
    from trainer import run_folder

    assert re.fullmatch(r"\.\w+", run_folder.TEMPORARY)
    names = ["train.log", f"checkpoints/epoch-000001.pt{run_folder.TEMPORARY}", RunFolder(Path()).lock.name]
    listed = [RemoteFile(path=name, size=1, mtime_ns=1) for name in names]
    assert [file.path for file in choose("all", Which(), listed, None)] == ["train.log"]
