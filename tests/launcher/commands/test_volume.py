"""`vidjobs volume` on this machine: claims are folders, and file names from them cannot steer a terminal."""

from __future__ import annotations

import json

import pytest

from launcher.commands import volume
from launcher.errors import UserError
from launcher.records import state_dir


def test_a_claim_is_made_and_listed_with_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    """The claim's name is the only result; files are listed below a folder of it."""
    assert volume.create("runs", size="1Gi", access="ReadWriteMany", cluster="local") == 0
    assert capsys.readouterr().out == "runs\n"
    volume.ls(cluster="local", as_json=True)
    assert [each["claim"] for each in json.loads(capsys.readouterr().out)] == ["runs"]

    (folder,) = (
        path for path in (state_dir() / "local").rglob("runs") if path.parent.name == "volumes"
    )
    (folder / "r1").mkdir()
    (folder / "r1" / "evil\x1b[2J").write_bytes(b"abc")
    volume.ls("runs", "r1", cluster="local")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "evil\\x1b[2J" in out
    volume.ls("runs", "r1", cluster="local", as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["size"] == 3


def test_an_access_mode_that_does_not_exist_is_refused() -> None:
    """Before anything is asked."""
    with pytest.raises(UserError) as refusal:
        volume.create("runs", size="1Gi", access="ReadWriteMan", cluster="local")
    assert 'did you mean "ReadWriteMany"?' in refusal.value.hint


def test_a_size_that_is_none_is_refused() -> None:
    """Before anything is asked, also on this machine, where a claim is a folder."""
    with pytest.raises(UserError, match='--size is "50GB"; Kubernetes writes it 50G'):
        volume.create("runs", size="50GB", access="ReadWriteMany", cluster="local")


def test_nothing_is_said_to_be_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a table without rows."""
    volume.ls(cluster="local")
    assert "no claims yet" in capsys.readouterr().err
    volume.create("data", size="1Gi", access="ReadWriteOnce", cluster="local")
    capsys.readouterr()
    volume.ls("data", "nowhere", cluster="local")
    assert capsys.readouterr() == ("", "data:nowhere holds no files\n")
