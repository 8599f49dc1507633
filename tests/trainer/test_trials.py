"""A trial of a sweep: its line of the trials file, its folder, and how it ended; and the check of all trials at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import trials
from trainer.config import Config, DataConf
from trainer.data.loader import cache_folder
from trainer.errors import ConfFault
from trainer.records import Recorder, read_metrics
from trainer.run_folder import RunFolder
from trainer.trials import Trials

CONF = """\
data: {name: tinyvirat, root: /nowhere}
model: {name: transformer_resizer_i3d, read_at: 2, apply_at: 2}
"""
FILE = '["model.read_at","train.lr"]\n[0,0.001]\n[9,null]\n[1,"abc"]\n'


def trainer(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "conf.yaml").write_text(CONF)
    (tmp_path / "trials.jsonl").write_text(FILE)
    return tmp_path


def test_a_pod_takes_the_line_of_its_index_and_null_leaves_the_confs_value(files: Path) -> None:
    trial = trials.choose(files / "trials.jsonl", None, {"JOB_COMPLETION_INDEX": "1"})
    assert (trial.number, trial.of, dict(trial.changes)) == (1, 3, {"model.read_at": 9})
    assert (
        str(trials.choose(files / "trials.jsonl", 0, {"JOB_COMPLETION_INDEX": "1"}))
        == "trial 0 of 3: model.read_at=0 train.lr=0.001"
    )


@pytest.mark.parametrize(
    ("index", "environ"), [(None, {}), (3, {}), (-1, {}), (None, {"JOB_COMPLETION_INDEX": "x"})]
)
def test_a_number_that_is_no_trial_is_a_conf_fault(
    files: Path, index: int | None, environ: dict[str, str]
) -> None:
    with pytest.raises(ConfFault, match=r"--index|sweep submit"):
        trials.choose(files / "trials.jsonl", index, environ)


@given(st.text(max_size=60))
def test_a_file_of_any_other_form_is_a_conf_fault(text: str) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"trials-{os.getpid()}.jsonl"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        with pytest.raises(ConfFault):
            Trials.read(path)
    finally:
        path.unlink()


def test_a_trial_is_a_run_inside_the_sweeps_and_shares_what_runs_share(tmp_path: Path) -> None:
    """The same cache of clips and of published weights as for a run beside the sweep."""
    sweep, config = RunFolder(tmp_path / "runs" / "s"), Config(data=DataConf(root="/nowhere"))
    trial = sweep.of_trial(7)
    assert trial.root == tmp_path / "runs/s/trials/0007"
    assert trial.runs == sweep.runs
    assert trial.weights_cache == sweep.weights_cache
    assert cache_folder(config, trial.whole) == cache_folder(config, sweep.whole)


def test_its_records_name_the_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path).of_trial(3)
    folder.require_writable()
    Recorder(folder, tensorboard=False).record("train", 0.5, epoch=1, step=4, lr=0.1)
    assert capsys.readouterr().out == "train Loss: 0.5000 epoch=1 step=4 lr=1.0e-01 trial=3\n"
    assert [entry["trial"] for entry in read_metrics(folder.metrics)] == [3]


def test_trial_json_tells_what_was_changed_and_how_it_ended(files: Path) -> None:
    """Also of a trial whose conf is wrong: the file outlives the pod. Nothing is written beside the trial's folder."""
    run = files / "runs" / "s"
    done = trainer(
        *(
            "train",
            "--conf",
            str(files / "conf.yaml"),
            "--run",
            str(run),
            "--trials",
            str(files / "trials.jsonl"),
        ),
        JOB_COMPLETION_INDEX="1",
        VIDJOBS_TERMINATION_LOG=str(files / "ending"),
    )
    assert done.returncode == 64, done.stderr
    assert done.stdout.startswith("trial 1 of 3: model.read_at=9\n")
    told = json.loads((run / "trials/0001/trial.json").read_text())
    assert (told["trial"], told["of"], told["changes"]) == (1, 3, {"model.read_at": 9})
    assert (told["ended"]["cause"], told["ended"]["exit_code"]) == ("conf", 64)
    assert "model.read_at" in told["ended"]["message"]
    assert json.loads((files / "ending").read_text())["trial"] == 1
    assert [path.name for path in run.iterdir()] == ["trials"]


def test_all_trials_are_checked_at_once_and_each_fault_names_its_trials(files: Path) -> None:
    checked = trainer(
        "check",
        "--conf",
        str(files / "conf.yaml"),
        "--trials",
        str(files / "trials.jsonl"),
        "--json",
    )
    assert checked.returncode == 64
    faults: list[Any] = json.loads(checked.stdout)["faults"]
    assert {(each["path"], tuple(each["trials"])) for each in faults} == {
        ("model.read_at", (1,)),
        ("train.lr", (2,)),
    }
