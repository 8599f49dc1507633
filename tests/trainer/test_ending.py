"""How a run ends, as Kubernetes is told."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import ending, errors, failures
from trainer.__main__ import main


def test_each_error_has_an_exit_code_of_its_own() -> None:
    kinds = errors.TrainerError.__subclasses__()

    codes = [kind.exit_code for kind in kinds]

    assert sorted(codes) == [64, 65, 73, 75, 76]
    assert len({kind.cause for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_volume_is_never_a_bug(number: int) -> None:
    assert ending.classify(OSError(number, "x")) == ("cannot-write", 73)


def test_what_one_process_tells_the_others_is_what_it_would_have_ended_with_alone() -> None:
    """A full volume in one of eight processes is no bug either."""
    report = failures.describe(OSError(errno.ENOSPC, "No space left on device"), "process 3")
    assert (
        (report["cause"], report["exit_code"])
        == ending.classify(failures.revive(report))
        == ("cannot-write", 73)
    )


def test_a_wish_to_stop_is_heard_while_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any verb listens: a process 1 without a handler would not notice SIGTERM at all, and be killed after the grace."""
    (tmp_path / "conf.yaml").write_text("{fuse: {streams: {a: x, b: y}}}\n")
    monkeypatch.setattr("importlib.import_module", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert (
        main(["fuse", "--conf", str(tmp_path / "conf.yaml"), "--run", str(tmp_path / "run")]) == 75
    )
    assert signal.getsignal(signal.SIGTERM) == before


def test_anything_unforeseen_is_a_bug() -> None:
    assert ending.classify(ZeroDivisionError("x")) == ("bug", 70)


def test_the_message_says_how_far_the_run_got(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    files = {
        "epoch-000001.pt": {"kind": "weights", "epoch": 1, "step": 10},
        "state-000001.pt": {"kind": "state", "epoch": 1, "step": 10},
        "epoch-000000.pt": {"kind": "weights", "epoch": 0, "step": 0},
    }
    manifest.write_text(json.dumps({"files": files}))

    told = ending.message("stopped", 75, "SIGTERM", manifest)

    assert (told["checkpoint"], told["step"], told["epoch"]) == ("state-000001.pt", 10, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {"a": {}}}'])
def test_a_damaged_manifest_does_not_hide_the_ending(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)

    assert ending.message("bug", 70, "x", tmp_path / "manifest.json")["cause"] == "bug"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=9000))
def test_any_message_fits_and_is_json(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "message"
    monkeypatch.setenv("VIDJOBS_TERMINATION_LOG", str(target))

    ending.write({"cause": "bug", "exit_code": 70, "message": text})

    kept = target.read_bytes()
    assert len(kept) <= ending.LIMIT
    assert json.loads(kept)["exit_code"] == 70
