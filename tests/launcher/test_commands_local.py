"""status, fetch, cancel, resume and delete as they are typed, on runs of this machine."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launcher import records
from launcher.commands import cancel, delete, fetch, resume, status, submit
from launcher.errors import ConfError, UserError
from launcher.run_view import age

RUN = "a-train-aaaaaa"
TRAINER = """
import hashlib, json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2]); (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
for epoch in (1, 2):
    (folder / "checkpoints" / f"epoch-{epoch:06d}.pt").write_bytes(bytes([epoch]) * 100000)
(folder / "checkpoints/manifest.json").write_text(json.dumps({"last": "epoch-000002.pt", "best": "epoch-000001.pt", "files": {}}))
(folder / "train.log").write_text("train Loss: 0.5 epoch=2 step=40\\n")
print("train Loss: 0.5 epoch=2 step=40", flush=True)
(folder / "ready").touch()
while not (folder / "go").exists(): time.sleep(0.01)
"""


def test_a_fault_elsewhere_does_not_ask_for_what_from_gives(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conf is refused before --from is looked at."""
    monkeypatch.chdir(tmp_path)
    Path("exp.yaml").write_text(
        "name: exp\nmodel: {name: i3d}\ninfer: {input: a.mp4}\njob: {webhook: x, volumes: [{claim: runs, mount: /runs, as: runs}]}\n"
    )
    for source, told in ((None, {"job.webhook", "model.init"}), (f"{RUN}@best", {"job.webhook"})):
        with pytest.raises(ConfError) as caught:
            submit.run("infer", Path("exp.yaml"), cluster="local", source=source)
        assert {fault.path for fault in caught.value.faults} == told


@pytest.fixture
def running(world: Any) -> str:
    """A run that has written two checkpoints and waits."""
    world.submit(RUN, TRAINER)
    world.wait_for_file(world.folder(RUN) / "ready")
    # what it printed has gone through its supervisor
    world.wait(RUN, lambda _: bool(world.log(RUN)))
    return RUN


def read(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_status_of_a_running_run_says_how_far_it_is(
    running: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.run("a-tr", watch=False, as_json=True) == 0
    told = read(capsys)
    assert (told["run"], told["verb"], told["phase"], told["epoch"], told["step"]) == (
        RUN,
        "train",
        "running",
        2,
        40,
    )
    assert told["progress"] == {"phase": "train", "loss": 0.5, "epoch": 2, "step": 40}
    assert [pod["phase"] for pod in told["pods"]] == ["running"]

    assert status.run(None, watch=False, as_json=False) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["RUN", "VERB", "PHASE", "AGE", "EPOCH", "STEP", "LOSS", "ETA", "WHY"]
    assert row.split()[:3] == [RUN, "train", "running"]
    assert row.split()[-3:] == ["40", "train", "0.5"]


def test_status_of_a_failed_run_gives_cause_and_next_step_and_is_itself_a_success(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world.submit(RUN, "raise SystemExit('no such class')", backoffLimit=0)
    world.wait(RUN)
    assert status.run(RUN, watch=True, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "phase     failed" in lines
    assert any(line.startswith("why ") and "no such class" in line for line in lines)
    assert any(line.startswith("next ") for line in lines)
    assert any(line.startswith("ATTEMPT") for line in lines)


def test_a_watch_prints_each_change_once_and_ends_with_the_run(
    world: Any, running: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_EVERY_S", 0.05)
    threading.Timer(0.3, (world.folder(running) / "go").touch).start()
    assert status.run(running, watch=True, as_json=True) == 0
    phases = [json.loads(line)["phase"] for line in capsys.readouterr().out.splitlines()]
    assert phases[0] == "running"
    assert phases[-1] == "succeeded"
    assert len(phases) <= 3


def test_status_lists_records_whose_run_is_gone_and_runs_without_a_record(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    records.save(world.record("b-train-bbbbbb"))
    world.submit(RUN, "pass")
    world.wait(RUN)
    records.forget(RUN)
    assert status.run(None, watch=False, as_json=True) == 0
    assert {each["run"]: each["phase"] for each in read(capsys)} == {
        RUN: "succeeded",
        "b-train-bbbbbb": "gone",
    }


def test_status_without_runs_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.run(None, watch=False, as_json=False) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "vidjobs submit" in told.err
    assert status.run(None, watch=True, as_json=True) == 0


def test_an_unknown_run_is_the_users_error() -> None:
    for command in (cancel.run, resume.run, delete.run, status.run):
        with pytest.raises(UserError, match="no run is called"):
            command("nothing")


def test_fetch_during_and_after_the_run(
    world: Any, running: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert fetch.run("checkpoints", RUN, out=out, best=True) == 0
    assert capsys.readouterr().out.splitlines() == [str(out / "checkpoints/epoch-000001.pt")]
    assert (out / "checkpoints/epoch-000001.pt").read_bytes() == b"\1" * 100000

    (world.folder(RUN) / "go").touch()
    world.wait(RUN)
    assert fetch.run("checkpoints", None, out=out, as_json=True) == 0
    told = read(capsys)
    assert told["run"] == RUN
    assert {Path(each["file"]).name: each["transferred"] for each in told["files"]} == {
        "epoch-000001.pt": 0,
        "epoch-000002.pt": 100000,
        "manifest.json": (out / "checkpoints/manifest.json").stat().st_size,
    }


def test_a_damaged_manifest_is_named_and_epochs_are_still_had(
    world: Any, running: str, tmp_path: Path
) -> None:
    manifest = world.folder(RUN) / "checkpoints/manifest.json"
    for text in ('{"last": ', "[" * 100_000):
        manifest.write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json on the volume is damaged"):
            fetch.run("checkpoints", RUN, out=tmp_path, best=True)
    assert fetch.run("checkpoints", RUN, out=tmp_path, epochs="2") == 0


def test_fetch_goes_into_a_folder_of_the_runs_name(
    running: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch.run("logs", RUN) == 0
    assert (tmp_path / RUN / "train.log").read_text() == "train Loss: 0.5 epoch=2 step=40\n"


def test_fetch_works_after_the_run_was_deleted(world: Any, tmp_path: Path) -> None:
    world.submit(
        RUN,
        "import pathlib, sys; p = pathlib.Path(sys.argv[2]); p.mkdir(); (p / 'train.log').write_text('x')",
    )
    world.wait(RUN)
    assert delete.run(RUN) == 0
    assert fetch.run("all", RUN, out=tmp_path) == 0
    assert (tmp_path / "train.log").read_text() == "x"
    assert delete.run(RUN, files=True, yes=True) == 0
    assert not world.folder(RUN).exists()
    with pytest.raises(UserError):
        fetch.run("all", RUN, out=tmp_path)


def test_cancel_and_resume_as_typed(
    world: Any, running: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cancel.run(RUN) == 0
    assert resume.run(RUN) == 0, "it waits for the cancel to be done"
    (world.folder(RUN) / "go").touch()
    assert len(world.wait(RUN).pods) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"vidjobs resume {RUN}" in told.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "code", "there"),
    [("n\n", 1, True), ("\n", 1, True), ("", 1, True), ("y\n", 0, False)],
)
def test_delete_asks_on_a_terminal(
    world: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, there: bool
) -> None:
    world.folder(RUN).mkdir(parents=True)
    records.save(world.record(RUN))
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert delete.run(RUN, files=True) == code
    assert world.folder(RUN).exists() is there


def test_delete_of_results_needs_a_yes_where_nobody_can_be_asked(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.save(world.record(RUN))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UserError) as caught:
        delete.run(RUN, files=True)
    assert "--yes" in caught.value.hint


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3700, "1h1m"), (7200, "2h"), (90061, "1d1h"), (-5, "0s")],
)
def test_ages_are_short(elapsed: int, text: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert age((now - timedelta(seconds=elapsed)).isoformat(), now) == text


def test_a_run_of_a_projects_own_cluster_is_known_in_every_directory(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The profile is looked for where the run was submitted, too."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "conf" / "clusters").mkdir(parents=True)
    (project / "conf" / "clusters" / "lab.yaml").write_text("backend: local\n")
    elsewhere.mkdir()
    world.backend.submit([world.job(RUN, "print('train Loss: 0.5 epoch=2 step=40')")])
    world.started.append(RUN)
    records.save(replace(world.record(RUN), cluster="lab", directory=str(project)))
    world.wait(RUN)
    monkeypatch.chdir(elsewhere)

    assert status.run(RUN, as_json=True) == 0
    assert read(capsys)["step"] == 40
    assert status.run(None, as_json=True) == 0
    assert [(each["run"], each["phase"]) for each in read(capsys)] == [(RUN, "succeeded")]
