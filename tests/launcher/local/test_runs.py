"""Runs on this machine, each a real process: what a cluster would do with the same Job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.backend_base import Phase
from launcher.backends.local import reader
from launcher.backends.local import state as state_of
from launcher.backends.local.backend import LocalBackend, connect
from launcher.backends.local.state import run_dir
from launcher.errors import UserError
from launcher.profiles import config_dir, load

# Counts its attempts in the run folder; SIGTERM writes a "checkpoint" and exits 75, as the trainer
# does.
TRAINER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2]); folder.mkdir(exist_ok=True)
(folder / "attempts").open("a").write(os.environ["VIDJOBS_POD"] + "\\n")
def stop(*_):
    print("stopping", flush=True)
    (folder / "checkpoint").write_text("step 7")
    print("checkpoint written", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("train Loss: 0.5 step=1", flush=True)
(folder / "ready").touch()
while not (folder / "go").exists(): time.sleep(0.01)
"""


def attempts(folder: Path) -> int:
    return len((folder / "attempts").read_text().split())


def test_it_runs_argv_env_and_conf_of_the_manifest(world: Any) -> None:
    script = """
import os, pathlib, sys
conf = pathlib.Path(os.environ["XDG_STATE_HOME"], "vidjobs/local/runs", "a-train-aaaaaa", "conf/conf.yaml").read_text()
print(sys.executable, conf.strip(), os.environ["GREETING"], "$(HOME) $x", os.environ["HOME"], sep="|")
"""
    env = [
        {"name": "GREETING", "value": "a $$(HOME) b"},
        {"name": "HOME", "value": "/vidjobs/workspace/home"},
    ]
    world.submit("a-train-aaaaaa", script, container={"env": env})
    assert world.wait("a-train-aaaaaa").phase is Phase.SUCCEEDED
    (line,) = world.log("a-train-aaaaaa")
    assert line.text.split("|") == [
        sys.executable,
        "name: a",
        "a $(HOME) b",
        "$(HOME) $x",
        os.environ["HOME"],
    ]


def test_failures_are_retried_in_new_pods_and_then_given_up(world: Any) -> None:
    world.submit("a-train-aaaaaa", "print('no'); raise SystemExit(70)")
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert [pod.exit_code for pod in status.pods] == [70, 70, 70]
    assert len({pod.name for pod in status.pods}) == 3
    assert all(pod.name.startswith("a-train-aaaaaa-") for pod in status.pods)
    assert "all 2 retries are used" in status.cause
    assert status.fix


def test_an_error_that_a_retry_cannot_mend_ends_the_run_at_once(world: Any) -> None:
    message = json.dumps(
        {"cause": "conf", "message": "train.lr is missing\nmore", "step": 3, "epoch": 1}
    )
    script = f"import os; open(os.environ['VIDJOBS_TERMINATION_LOG'], 'w').write({message!r}); raise SystemExit(64)"
    world.submit("a-train-aaaaaa", script)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert len(status.pods) == 1
    assert status.cause.endswith(": train.lr is missing")
    assert status.termination["step"] == 3


def test_a_retry_that_succeeds_is_a_success(world: Any) -> None:
    script = """
import pathlib, sys
marker = pathlib.Path(sys.argv[2]); again = marker.exists(); marker.mkdir(exist_ok=True)
sys.stdout.write("second" if again else "first")
sys.exit(0 if again else 75)
"""
    world.submit("a-train-aaaaaa", script)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.SUCCEEDED
    assert status.cause == ""
    assert [pod.phase for pod in status.pods] == [Phase.FAILED, Phase.SUCCEEDED]
    lines = world.log("a-train-aaaaaa", all_pods=True)
    assert [(line.text, line.terminated) for line in lines] == [("first", False), ("second", False)]
    assert [line.text for line in world.log("a-train-aaaaaa")] == ["second"]


def test_following_gives_every_line_of_every_attempt_once_and_in_order(world: Any) -> None:
    script = """
import os, sys, time
for i in range(200):
    os.write(1 + i % 2, f"{os.environ['VIDJOBS_POD']} {i}\\n".encode())
    if i % 50 == 0: time.sleep(0.02)
os.write(1, b"cut off")
sys.exit(75)
"""
    world.submit("a-train-aaaaaa", script)
    lines = world.log("a-train-aaaaaa", follow=True, all_pods=True)
    pods = [pod.name for pod in world.wait("a-train-aaaaaa").pods]
    expected = [text for pod in pods for text in (*(f"{pod} {i}" for i in range(200)), "cut off")]
    assert [line.text for line in lines] == expected
    assert all(len(line.time) == 30 and line.time.endswith("Z") for line in lines)
    assert [line.time for line in lines] == sorted(line.time for line in lines)


def test_tail_and_since_choose_lines(world: Any) -> None:
    world.submit("a-train-aaaaaa", "[print(i) for i in range(10)]")
    world.wait("a-train-aaaaaa")
    assert [line.text for line in world.log("a-train-aaaaaa", tail=3)] == ["7", "8", "9"]
    assert [line.text for line in world.log("a-train-aaaaaa", tail=0)] == []
    assert len(world.log("a-train-aaaaaa", since_s=600)) == 10


def test_cancel_keeps_the_state_and_resume_goes_on(world: Any) -> None:
    record = world.submit("a-train-aaaaaa", TRAINER)
    folder = world.folder("a-train-aaaaaa")
    world.wait_for_file(folder / "ready")
    world.backend.cancel(record)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.CANCELLED
    assert (folder / "checkpoint").read_text() == "step 7"
    assert "vidjobs resume" in status.fix
    assert world.log("a-train-aaaaaa")[-1].text == "checkpoint written"
    with pytest.raises(UserError, match="does not run: it was cancelled"):
        world.backend.cancel(record)

    (folder / "go").touch()
    world.backend.resume(record)
    assert world.wait("a-train-aaaaaa").phase is Phase.SUCCEEDED
    assert attempts(folder) == 2
    with pytest.raises(UserError, match="cannot be resumed"):
        world.backend.resume(record)


def test_cancel_between_two_attempts_starts_no_other(world: Any) -> None:
    world.backend = LocalBackend(retry_base_s=60)
    record = world.submit("a-train-aaaaaa", "raise SystemExit(75)")
    status = world.wait("a-train-aaaaaa", lambda status: status.phase is Phase.RETRYING)
    assert "retry 1 of 2" in status.cause
    world.backend.cancel(record)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.CANCELLED
    assert len(status.pods) == 1


def test_a_run_that_was_never_started_is_told_and_can_be(world: Any) -> None:
    """`submit` was interrupted between its note and the supervisor's."""
    record = world.submit("a-train-aaaaaa", "pass")
    world.wait("a-train-aaaaaa")
    path = run_dir("a-train-aaaaaa").state
    state_of.save(state_of.State(run="a-train-aaaaaa"), path)
    assert world.backend.status(record).phase is Phase.PENDING, "it may start any moment"
    os.utime(path, (0, 0))
    status = world.backend.status(record)
    assert (status.phase, status.cause) == (
        Phase.FAILED,
        "it was never started: `submit` was interrupted",
    )
    world.backend.resume(record)
    assert world.wait("a-train-aaaaaa").phase is Phase.SUCCEEDED


def test_what_ignores_sigterm_is_killed_with_its_children_after_the_grace(world: Any) -> None:
    script = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[2]); folder.mkdir()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
(folder / "child.tmp").write_text(str(child.pid)); (folder / "child.tmp").rename(folder / "child")
time.sleep(60)
"""
    record = world.submit("a-train-aaaaaa", script, pod={"terminationGracePeriodSeconds": 0.3})
    world.wait_for_file(world.folder("a-train-aaaaaa") / "child")
    child = int((world.folder("a-train-aaaaaa") / "child").read_text())
    world.backend.cancel(record)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.CANCELLED
    assert status.pods[0].exit_code == 137
    assert "was killed" in status.cause
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_children_that_outlive_the_trainer_do_not_hold_the_run(world: Any) -> None:
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
    started = time.monotonic()
    world.submit("a-train-aaaaaa", script)
    assert world.wait("a-train-aaaaaa").phase is Phase.SUCCEEDED
    assert time.monotonic() - started < 10


def test_a_killed_supervisor_is_told_and_resume_goes_on(world: Any) -> None:
    record = world.submit("a-train-aaaaaa", TRAINER)
    folder = world.folder("a-train-aaaaaa")
    world.wait_for_file(folder / "ready")
    state = reader.read_state("a-train-aaaaaa")
    assert state is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert "was killed" in status.cause
    assert "vidjobs resume" in status.fix
    assert [line.text for line in world.log("a-train-aaaaaa", follow=True)] == [
        "train Loss: 0.5 step=1"
    ]
    # told by the kernel, and able to print although nobody reads
    world.wait_for_file(folder / "checkpoint")

    (folder / "go").touch()
    world.backend.resume(record)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.SUCCEEDED
    assert [pod.reason for pod in status.pods] == ["its supervisor was lost", "Completed"]
    assert not state.leader.alive, "the first trainer must not go on beside the second"


def test_a_reboot_is_told(world: Any) -> None:
    world.submit("a-train-aaaaaa", "pass")
    world.wait("a-train-aaaaaa")
    path = run_dir("a-train-aaaaaa").state
    raw = json.loads(path.read_text())
    raw["phase"] = "running"
    raw["supervisor"]["boot"] = "an earlier one"
    path.write_text(json.dumps(raw))
    status = world.backend.status(world.record("a-train-aaaaaa"))
    assert status.phase is Phase.FAILED
    assert "restarted" in status.cause


def test_the_deadline_stops_a_run_for_good(world: Any) -> None:
    world.submit("a-train-aaaaaa", TRAINER, activeDeadlineSeconds=1)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert "deadline of 1 s" in status.cause
    assert len(status.pods) == 1


def test_a_run_outlives_the_process_that_submitted_it(
    world: Any, tmp_path: Path, project: Path
) -> None:
    """The terminal may be closed: the supervisor has a session of its own."""
    job = tmp_path / "job.json"
    job.write_text(json.dumps(world.job("a-train-aaaaaa", TRAINER)))
    code = f"""
import json; from pathlib import Path; from launcher.backends.local.backend import LocalBackend, connect
LocalBackend().submit([json.loads(Path({str(job)!r}).read_text())])
"""
    world.started.append("a-train-aaaaaa")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project, start_new_session=True)
    (world.folder("a-train-aaaaaa")).mkdir(exist_ok=True)
    (world.folder("a-train-aaaaaa") / "go").touch()
    assert world.wait("a-train-aaaaaa").phase is Phase.SUCCEEDED


def test_two_runs_at_the_same_time_do_not_disturb_each_other(world: Any) -> None:
    for run in ("a-train-aaaaaa", "a-train-bbbbbb"):
        world.submit(run, TRAINER)
    for run in ("a-train-aaaaaa", "a-train-bbbbbb"):
        world.wait_for_file(world.folder(run) / "ready")
    for run in ("a-train-aaaaaa", "a-train-bbbbbb"):
        (world.folder(run) / "go").touch()
        assert world.wait(run).phase is Phase.SUCCEEDED
        assert attempts(world.folder(run)) == 1
    assert [status.run for status in world.backend.list_runs()] == [
        "a-train-aaaaaa",
        "a-train-bbbbbb",
    ]


def test_the_same_name_cannot_be_submitted_twice(world: Any) -> None:
    world.submit("a-train-aaaaaa", "pass")
    with pytest.raises(UserError, match="exists"):
        world.backend.submit([world.job("a-train-aaaaaa", "pass")])


def test_dry_run_creates_nothing(world: Any) -> None:
    world.backend.submit([world.job("a-train-aaaaaa", "pass")], dry_run=True)
    assert world.backend.status(world.record("a-train-aaaaaa")).phase is Phase.GONE
    assert not world.runs.exists()


def test_a_secret_comes_from_the_environment_or_is_asked_for(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = [{"name": "WANDB_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}}]
    job = world.job(
        "a-train-aaaaaa", "import os; print(len(os.environ['WANDB_KEY']))", container={"env": env}
    )
    monkeypatch.delenv("WANDB_KEY", raising=False)
    with pytest.raises(UserError, match=r"WANDB_KEY \(secret wandb/key\)"):
        world.backend.submit([job])
    monkeypatch.setenv("WANDB_KEY", "hunter2")
    world.backend.submit([job])
    world.wait("a-train-aaaaaa")
    assert [line.text for line in world.log("a-train-aaaaaa")] == ["7"]
    assert not [
        path
        for path in run_dir("a-train-aaaaaa").root.rglob("*")
        if path.is_file() and b"hunter2" in path.read_bytes()
    ]


def test_a_claim_can_be_a_directory_of_the_users(world: Any, tmp_path: Path) -> None:
    """Named in the cluster profile, from the profile's own folder; it must exist, only the runs' own is made."""
    clusters = config_dir() / "clusters"
    clusters.mkdir(parents=True)
    (clusters / "mine.yaml").write_text(
        f"backend: local\ndirectories: {{data: ../../sets, runs: {tmp_path}/runs}}\n"
    )
    world.backend = connect(load("mine"))
    data = config_dir().parent / "sets"
    assert world.backend.claim_path("data", "/mnt/data") == str(data)
    assert world.backend.claim_path("other", "/x") == str(state_of.volume_dir("other"))

    job = world.job(
        "a-train-aaaaaa",
        f"import os; print(os.listdir({str(data)!r}))",
        container={
            "volumeMounts": [
                {"name": "d", "mountPath": str(data)},
                {"name": "r", "mountPath": f"{tmp_path}/runs"},
            ]
        },
    )
    job["spec"]["template"]["spec"]["containers"][0]["args"][-1] = f"{tmp_path}/runs/a-train-aaaaaa"
    with pytest.raises(UserError, match=r'claim "data" is mapped to .*sets, which does not exist'):
        world.backend.submit([job])
    data.mkdir()
    (data / "clip.mp4").touch()
    world.backend.submit([job])
    assert world.wait("a-train-aaaaaa").phase is Phase.SUCCEEDED
    assert world.log("a-train-aaaaaa")[0].text == "['clip.mp4']"
    assert (tmp_path / "runs").is_dir()


def test_several_pods_without_numbers_are_refused(world: Any) -> None:
    with pytest.raises(UserError, match="one pod at a time"):
        world.backend.submit([world.job("a-train-aaaaaa", "pass", completions=4, parallelism=4)])


def test_a_command_that_cannot_start_says_why(world: Any) -> None:
    world.submit(
        "a-train-aaaaaa",
        "",
        container={"command": ["/no/such/program"], "args": []},
        backoffLimit=0,
    )
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert "/no/such/program" in status.cause


def test_a_manifest_cannot_write_outside_of_its_run(world: Any, tmp_path: Path) -> None:
    mounts = [{"name": "conf", "mountPath": str(tmp_path / "elsewhere")}]
    world.submit("a-train-aaaaaa", "pass", container={"volumeMounts": mounts})
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert "outside" in status.cause
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "A", "a\n"])
def test_names_that_lead_elsewhere_are_refused(world: Any, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name"):
        world.backend.submit([world.job("a", "pass") | {"metadata": {"name": name}}])


def test_delete_stops_the_run_and_keeps_results_unless_told(world: Any) -> None:
    record = world.submit("a-train-aaaaaa", TRAINER)
    folder = world.folder("a-train-aaaaaa")
    world.wait_for_file(folder / "ready")
    world.backend.delete(record)
    assert world.backend.status(record).phase is Phase.GONE
    assert (folder / "checkpoint").exists()
    world.backend.delete(record, files=True)
    assert not folder.exists()


def test_code_is_checked_out_anew_for_each_attempt(world: Any) -> None:
    """With a ref the trainer works in a checkout below the run's own folder, made by the container `code`."""
    run = "a-train-aaaaaa"
    workspace = run_dir(run).workspace
    checkout = 'mkdir -p "$CODE" && cd "$CODE" && [ ! -e mark ] && touch mark && echo "print(\'pinned\'); raise SystemExit(75)" > main.py'
    env = [
        {"name": "CODE", "value": str(workspace / "code")},
        {"name": "HOME", "value": str(workspace / "home")},
    ]
    init = {"name": "code", "command": ["bash", "-c", checkout.replace("$", "$$")], "env": env}
    trainer = {"command": ["python"], "args": ["main.py"], "workingDir": str(workspace / "code")}
    world.submit(run, "", container=trainer, pod={"initContainers": [init]}, backoffLimit=1)
    status = world.wait(run)
    assert [pod.exit_code for pod in status.pods] == [75, 75]
    assert [line.text for line in world.log(run, all_pods=True)] == ["pinned", "pinned"]


def test_when_the_code_cannot_be_had_its_log_is_shown(world: Any) -> None:
    run = "a-train-aaaaaa"
    init = {"name": "code", "command": ["bash", "-c", "echo no such commit >&2; exit 64"]}
    trainer = {"workingDir": str(run_dir(run).workspace / "code")}
    world.submit(run, "pass", container=trainer, pod={"initContainers": [init]}, backoffLimit=0)
    status = world.wait(run)
    assert status.cause == "container code: exit code 64: no such commit"
    assert [(line.container, line.text) for line in world.log(run)] == [("code", "no such commit")]


def test_the_working_tree_is_used_unless_a_ref_is_given(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.spec import CodePin

    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert world.backend.code_dir("a", CodePin(kind="worktree")) == str(tmp_path)
    assert world.backend.code_dir("a", CodePin(kind="repo", ref="main")) == str(
        run_dir("a").workspace / "code"
    )
