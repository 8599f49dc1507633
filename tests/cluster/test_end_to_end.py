"""The whole path on a real Kubernetes: volume, submit, logs, status, fetch, eval, and code from a git server."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import git_server
import images
import numpy as np
import pytest
import yaml
from researcher import get, kubectl
from training_lab import CLASSES, EPOCHS, Lab

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Trained:
    run: str
    losses: list[str]  # what `logs -f --grep Loss` printed


@pytest.fixture(scope="module")
def trained(lab: Lab) -> Trained:
    """A finished training, followed from the moment it was submitted. Its branch has moved on before the pod could check it out."""
    run = lab.submit("train", lab.conf("tiny"))
    assert lab.git.publish("vidjobs", images.PROJECT) != lab.commit
    lines = lab.researcher.vidjobs(
        "logs", run, "--follow", "--grep", "Loss", seconds=240
    ).splitlines()
    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    return Trained(run, lines)


def test_a_doctor_with_the_printed_role_finds_every_right(lab: Lab) -> None:
    """The Role of `vidjobs rbac` is what `vidjobs doctor` asks for, and it does not reach secrets."""
    lab.researcher.vidjobs("doctor")

    assert not lab.researcher.may("get", "secrets")
    assert not lab.researcher.may("list", "nodes")


def test_losses_are_followed_from_pending_to_the_end(lab: Lab, trained: Trained) -> None:
    """Every step's and every epoch's line comes once, in order, though the follow began before there was a container."""
    steps = [
        int(match[1])
        for line in trained.losses
        if (match := re.match(r"train Loss: \S+ .*\bstep=(\d+)", line))
    ]
    epochs = [
        int(match[1])
        for line in trained.losses
        if (match := re.match(r"val +Loss: \S+ .*\bepoch=(\d+)", line))
    ]

    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= EPOCHS
    assert epochs == list(range(1, EPOCHS + 1))


def test_the_pod_ran_the_commit_that_was_pinned_at_submit(lab: Lab, trained: Trained) -> None:
    """The branch moved on after the submit; the run and its records stay with what it was then."""
    out = lab.folder / "provenance"
    lab.researcher.vidjobs("fetch", "provenance.json", trained.run, "--out", str(out))

    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["commit"] == lab.commit
    assert provenance["image"] == lab.image
    (pod,) = lab.researcher.pods(trained.run)
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_status_names_the_missing_gpus(lab: Lab) -> None:
    """Nine GPUs where there are four: pending, and the scheduler's reason in one line."""
    run = lab.submit("train", lab.conf("greedy"), "--set", "job.resources.gpus=9")

    status = lab.wait_for(
        run, lambda status: "Insufficient nvidia.com/gpu" in status["cause"], seconds=60
    )

    assert status["phase"] == "pending"
    assert status["fix"]
    assert "\n" not in status["cause"]
    lab.researcher.vidjobs("delete", run, "--yes")


def test_checkpoints_come_back_whole_after_the_end(lab: Lab, trained: Trained) -> None:
    """With the pod gone a helper fetches them, each has the manifest's checksum, and the helper does not stay."""
    out = lab.folder / "fetched"
    lab.researcher.vidjobs("fetch", "checkpoints", trained.run, "--out", str(out))

    manifest = json.loads((out / "checkpoints" / "manifest.json").read_text())
    weights = {
        name: entry for name, entry in manifest["files"].items() if entry["kind"] == "weights"
    }
    assert len(weights) == EPOCHS
    for name, entry in weights.items():
        assert (
            hashlib.sha256((out / "checkpoints" / name).read_bytes()).hexdigest() == entry["sha256"]
        )
    running = [
        pod
        for pod in get("pods", f"--namespace={lab.researcher.namespace}")["items"]
        if pod["status"]["phase"] == "Running"
    ]
    assert [
        pod["metadata"]["name"] for pod in running if not pod["metadata"].get("deletionTimestamp")
    ] == []


def test_eval_starts_from_the_best_checkpoint_of_another_run(lab: Lab, trained: Trained) -> None:
    """`--from RUN@best` on the same volume; the predictions that come back have a row for each test clip."""
    run = lab.submit("eval", "tiny.yaml", "--from", f"{trained.run}@best")
    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    out = lab.folder / "eval"
    lab.researcher.vidjobs("fetch", "predictions", run, "--out", str(out))

    folder = out / "predictions"
    logits, probabilities = (
        np.load(folder / f"{name}.npy") for name in ("logits", "probabilities")
    )
    assert logits.shape == np.load(folder / "actuals.npy").shape == (12, CLASSES)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)
    assert np.load(folder / "confusion.npy").shape == (CLASSES, 2, 2)
    with (folder / "f1_by_class.csv").open() as table:
        assert len(list(csv.DictReader(table))) >= CLASSES


def test_a_conf_or_data_error_is_not_retried(lab: Lab) -> None:
    """64 and 65 fail the Job at its first pod, and `status` says what the trainer said."""
    # code that does not know a setting which this launcher's own trainer accepts
    older = lab.folder / "older-code"
    shutil.copytree(
        images.PROJECT / "trainer", older / "trainer", ignore=shutil.ignore_patterns("__pycache__")
    )
    config = older / "trainer" / "config.py"
    config.write_text(
        config.read_text().replace("    split_seed: int", "    seed_of_the_split: int")
    )
    lab.git.publish("older", older)
    job = {"code": {"repo": lab.git.url("older"), "ref": "main"}}
    data = {
        "name": "tinyvirat",
        "root": "${data}/TinyVIRAT",
        "frames": 8,
        "size": 32,
        "split_seed": 3,
    }
    expected = {
        lab.submit("train", lab.conf("unknown-key", data=data, job=job)): (64, "split_seed"),
        lab.submit("train", lab.conf("no-data", data=data | {"root": "${data}/Missing"})): (
            65,
            "/data/Missing",
        ),
    }

    for run, (code, word) in expected.items():
        status = lab.wait_for(run, lambda status: status["phase"] == "failed")
        (pod,) = status["pods"]
        assert pod["exit_code"] == code
        assert word in status["cause"]


def test_a_private_repository_opens_with_a_secret(lab: Lab, tmp_path: Path) -> None:
    """The token comes from a Secret through GIT_ASKPASS: it is in no manifest, no log and no URL."""
    token = secrets.token_hex(16)
    (lab.folder / ".gitconfig").write_text("[credential]\n\thelper = store\n")
    place = f"--namespace={lab.researcher.namespace}"
    kubectl("create", "secret", "generic", "git", f"--from-literal=token={token}", place)
    with git_server.serve(tmp_path, token=token) as private:
        private.publish("private", images.PROJECT)
        url = private.url("private")
        (lab.folder / ".git-credentials").write_text(
            url.replace("http://", f"http://me:{token}@").rsplit("/", 1)[0] + "\n"
        )
        code = {"repo": url, "ref": "main", "token": {"secret": "git", "key": "token"}}
        run = lab.submit("prepare", lab.conf("private", job={"code": code}))
        lab.wait_for(run, lambda status: status["phase"] == "succeeded")
        log = lab.researcher.vidjobs("logs", run)

    pods = lab.researcher.pods(run)
    assert token not in json.dumps(pods) + json.dumps(get("job", run, place)) + log
    assert not any(token in request for request in private.requests)
    assert any(request.endswith(" 401") for request in private.requests)


def test_a_changed_worktree_runs_as_it_was_at_submit(lab: Lab, tmp_path: Path) -> None:
    """`code: worktree`: the commit that the remote has plus the local diff, a new file included, and later edits do not count."""
    here = tmp_path / "checkout"
    git_server.git("clone", "--quiet", lab.git.url("vidjobs"), here)
    (here / "trainer" / "__init__.py").write_text("from trainer import greeting\n")
    (here / "trainer" / "greeting.py").write_text('print("hello from the worktree")\n')
    shutil.copy(lab.folder / lab.conf("worktree", job={"code": "worktree"}), here)
    person = dataclasses.replace(lab.researcher, folder=here)
    (run,) = person.vidjobs("submit", "prepare", "worktree.yaml").split()
    (here / "trainer" / "greeting.py").write_text("raise SystemExit(1)\n")

    lab.wait_for(run, lambda status: status["phase"] == "succeeded")

    assert "hello from the worktree" in lab.researcher.vidjobs("logs", run)


def test_staged_data_is_read_from_local_disk(lab: Lab) -> None:
    """`stage_to` copies the claim before the trainer starts, without the file system's own lost+found."""
    volumes = [
        {"claim": "runs", "mount": "/runs", "as": "runs"},
        {"claim": "data", "mount": "/source", "as": "data", "stage_to": "/staged"},
    ]
    run = lab.submit("prepare", lab.conf("staged", job={"volumes": volumes}))

    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    out = lab.folder / "staged"
    lab.researcher.vidjobs("fetch", "*.*", run, "--out", str(out))

    assert yaml.safe_load((out / "conf.yaml").read_text())["data"]["root"] == "/staged/TinyVIRAT"
    assert json.loads((out / "prepare.json").read_text())


def test_a_server_side_dry_run_asks_and_leaves_nothing(lab: Lab) -> None:
    """`--dry-run=server` has the API server judge the Job; no Job and no record of a run stay."""
    before = lab.researcher.json("status")

    lab.researcher.vidjobs("submit", "train", lab.conf("dry"), "--dry-run=server")

    assert lab.researcher.json("status") == before
    jobs = get("jobs", f"--namespace={lab.researcher.namespace}")["items"]
    assert not [job for job in jobs if job["metadata"]["name"].startswith("dry-")]
