"""The run folder is one text that two programs share: the launcher's RunPaths and the trainer's RunFolder name the same files."""

from __future__ import annotations

import io
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from launcher.backend_base import Phase, RemoteFile, RunStatus
from launcher.backends.local.files import LocalFiles
from launcher.fetch_choice import Which, choose
from launcher.records import RunPaths, RunRecord
from launcher.report_data import gather
from trainer.run_folder import RunFolder

NAMES = [
    "conf",
    "provenance",
    "metrics",
    "log",
    "checkpoints",
    "manifest",
    "predictions",
    "figures",
    "tensorboard",
    "report",
    "done",
]
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
    written = [
        folder.weights(1),
        folder.weights(1_000_000),
        folder.state(1),
        folder.state(1, 12),
        folder.manifest,
    ]
    listed = [RemoteFile(path=path.as_posix(), size=1, mtime_ns=1) for path in written]
    found = {file.path for file in choose("checkpoints", Which(), listed, None)}
    assert found == {
        folder.weights(1).as_posix(),
        folder.weights(1_000_000).as_posix(),
        folder.manifest.as_posix(),
    }


def test_fetch_leaves_the_trainers_unfinished_files_alone(tmp_path: Path) -> None:
    """What is being written has a name that `fetch all` does not bring."""
    from trainer import run_folder

    assert re.fullmatch(r"\.\w+", run_folder.TEMPORARY)
    names = [
        "train.log",
        f"checkpoints/epoch-000001.pt{run_folder.TEMPORARY}",
        RunFolder(Path()).lock.name,
    ]
    listed = [RemoteFile(path=name, size=1, mtime_ns=1) for name in names]
    assert [file.path for file in choose("all", Which(), listed, None)] == ["train.log"]


def test_a_report_reads_the_confusion_and_the_answers_that_the_trainer_writes(
    tmp_path: Path,
) -> None:
    from trainer import class_files, infer
    from trainer.infer_inputs import Input

    folder = RunFolder(tmp_path)
    class_files.write(folder, ["walking", "riding"], np.array([[3, 1], [0, 2]]), None)
    watch = infer._Watch(
        asked=None,
        config=None,
        source=Input("a.mp4", "file"),
        film=None,
        sink=io.StringIO(),
        stop=None,
    )  # type: ignore[arg-type]
    watch._write(
        "window",
        {"start": 0, "frames": 16, "from": 0.0, "to": 0.64},
        [("riding", 0.75), ("walking", 0.25)],
    )
    watch._write(
        "video",
        {"windows": 1, "seconds": 0.64, "labelled": None},
        [("riding", 0.75), ("walking", 0.25)],
    )
    (tmp_path / "predictions/infer.jsonl").write_text(watch.sink.getvalue())  # type: ignore[attr-defined]
    record = RunRecord(
        run="t", verb="test", name="t", created="x", backend="local", cluster="local", context="", namespace="",
        directory="/", runs_claim="runs", runs_mount="/",
    )  # fmt: skip
    data = gather(record, RunStatus(run="t", phase=Phase.SUCCEEDED), LocalFiles(tmp_path))
    assert (data.names, data.confusion) == (["walking", "riding"], [[3, 1], [0, 2]])
    (answer,) = data.answers
    assert (answer.name, answer.count, answer.seconds, answer.top) == (
        "a.mp4",
        1,
        0.64,
        (("riding", 0.75), ("walking", 0.25)),
    )
    assert [(window.since, window.until, window.top) for window in answer.windows] == [
        (0.0, 0.64, answer.top)
    ]
