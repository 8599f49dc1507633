"""How a run ends, as Kubernetes is told."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import ending, errors


def test_each_error_has_an_exit_code_of_its_own() -> None:
    kinds = errors.TrainerError.__subclasses__()

    codes = [kind.exit_code for kind in kinds]

    assert sorted(codes) == [64, 65, 73, 75, 76]
    assert len({kind.cause for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_volume_is_never_a_bug(number: int) -> None:
    assert ending.classify(OSError(number, "x")) == ("cannot-write", 73)


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
def test_any_message_fits_and_is_json(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "message"
    monkeypatch.setenv("VIDJOBS_TERMINATION_LOG", str(target))

    ending.write({"cause": "bug", "exit_code": 70, "message": text})

    kept = target.read_bytes()
    assert len(kept) <= ending.LIMIT
    assert json.loads(kept)["exit_code"] == 70
