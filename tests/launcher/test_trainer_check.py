"""The trainer's check as a process of its own, whatever becomes of it. What it finds is tested in tests/contract/test_flat_conf.py."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from launcher.backends.local.backend import LocalBackend
from launcher.conf.resolve import Experiment
from launcher.plan import read
from launcher.profiles import load
from launcher.trainer_check import Verdict, check
from launcher.trainer_process import Checking

LONG = " ".join(f"folder-{number:05d}" for number in range(20_000))  # more than a pipe holds


def conf(folder: Path, root: str = "/data") -> Experiment:
    (folder / "x.yaml").write_text(f"data:\n  name: tinyvirat\n  root: {root}\n")
    return read(folder / "x.yaml", profile=load("local"), backend=LocalBackend())


def trainer(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Another trainer, which the working directory has."""
    (folder / "trainer").mkdir()
    (folder / "trainer" / "__init__.py").touch()
    (folder / "trainer" / "__main__.py").write_text(program)
    monkeypatch.chdir(folder)


def test_a_long_conf_reaches_it(tmp_path: Path) -> None:
    (fault,) = check(conf(tmp_path, LONG)).faults
    assert (fault.path, fault.file.endswith("x.yaml")) == ("model.name", True)


@pytest.mark.parametrize("root", ["/data", LONG])
def test_one_that_cannot_start_is_a_note(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it ends before it was told the conf."""
    trainer(tmp_path, monkeypatch, "raise SystemExit('its disk is full')")
    assert check(conf(tmp_path, root)) == Verdict(
        note="the trainer could not check the conf: its disk is full"
    )


def test_trials_are_read_when_they_have_been_told(tmp_path: Path) -> None:
    """It starts before they are known, and may be ready first."""
    with Checking(trials=True) as asked:
        time.sleep(0.5)
        asked.tell(
            "data: {name: tinyvirat, root: /data}\nmodel: {name: i3d}\n",
            '["train.batch"]\n[1]\n[0]\n',
        )
        said, errors = asked.answer()
    assert {fault["path"]: fault["trials"] for fault in json.loads(said)["faults"]}[
        "train.batch"
    ] == [1], errors


def test_one_that_is_never_told_a_conf_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conf that cannot be read ends the launcher's work before."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with pytest.raises(ZeroDivisionError), Checking(trials=True) as asked:
        _ = 1 / 0
    assert asked._process.returncode is not None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_one_that_takes_too_long_is_ended_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr("launcher.trainer_process.LIMIT_S", 0.3)
    assert "took more than" in check(conf(tmp_path)).note
