"""`check` and the exits of `python -m trainer`, as the launcher and Kubernetes see them: a process, its output, its code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import check
from trainer.config import Config

GOOD = "data: {root: /data, size: 112}\nmodel: {name: i3d}\n"


def trainer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "conf.yaml"
    path.write_text(GOOD)
    return path


def test_a_good_conf_has_no_faults_and_its_defaults_are_told(good: Path) -> None:
    done = trainer("check", "--conf", str(good), "--json")

    told = json.loads(done.stdout)

    assert (done.returncode, told["faults"]) == (0, [])
    assert told["defaults"]["train.lr"] == 0.001
    assert told["defaults"]["model.mode"] == "32x112"
    assert "data.root" not in told["defaults"]


def test_every_fault_of_value_is_told_at_once(good: Path) -> None:
    done = trainer(
        "check",
        "--conf",
        str(good),
        "--json",
        "train.batch=0",
        "data.flip=2",
        "test.epochs=3-",
        "data.name=tinyvirt",
        "model.name=i3",
    )

    told = json.loads(done.stdout)

    assert done.returncode == 64
    assert {"train.batch", "data.flip", "test.epochs", "data.name", "model.name"} <= {
        fault["path"] for fault in told["faults"]
    }
    assert 'did you mean "tinyvirat"?' in [fault["hint"] for fault in told["faults"]]


def test_check_needs_no_torch(good: Path) -> None:
    code = (
        "import sys; from trainer.__main__ import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'numpy', 'sklearn') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "check", "--conf", str(good)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "VERB"),
        (["trian"], "trian"),
        (["train"], "--conf"),
        (["check", "--conf", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_usage_error_is_exit_64_with_one_message(arguments: list[str], says: str) -> None:
    done = trainer(*arguments)

    assert done.returncode == 64
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_faulty_conf_ends_a_verb_with_64_and_a_termination_message(tmp_path: Path) -> None:
    path, message = tmp_path / "conf.yaml", tmp_path / "message"
    path.write_text("model: {name: i3d}\n")

    done = trainer(
        "train",
        "--conf",
        str(path),
        "--run",
        str(tmp_path / "run"),
        VIDJOBS_TERMINATION_LOG=str(message),
    )

    told = json.loads(message.read_text())
    assert done.returncode == told["exit_code"] == 64
    assert told["cause"] == "conf"
    assert "data.root" in told["message"]


@pytest.mark.parametrize("verb", ["eval", "infer"])
def test_what_asks_a_checkpoint_needs_one_before_it_is_submitted(verb: str) -> None:
    faults = check.check(Config(), verb)
    assert (
        f"model.init: {verb} needs a checkpoint (`vidjobs submit {verb} CONF --from RUN@best`"
        in "\n".join(map(str, faults))
    )
