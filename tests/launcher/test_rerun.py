"""A run of the same again: from the record alone, with the code of that day, and what cannot be the same is said."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from launcher import cli, recorded, records
from launcher.backend_base import Phase, PodStatus, RunStatus
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.local import reader
from launcher.backends.local.backend import LocalBackend
from launcher.code_pin import pin
from launcher.code_secrets import secrets_in
from launcher.commands import delete, diff, rerun, submit
from launcher.conf.schema import CodeConf
from launcher.diffing import Side, compare
from launcher.errors import ConfError, UserError
from launcher.plan import plan
from launcher.profiles import load
from launcher.records import RunRecord
from launcher.rerun import plan_again, to_avoid
from launcher.run_view import RunView, remember

TRAINER = """
import pathlib, sys
if sys.argv[1] == "check":
    print('{"faults": [], "defaults": {}}')
else:
    run = pathlib.Path(sys.argv[sys.argv.index("--run") + 1])
    run.mkdir(parents=True, exist_ok=True)
    (run / "said.txt").write_text(pathlib.Path("word.txt").read_text())
    (run / "metrics.jsonl").write_text('{"phase": "val", "loss": 0.5, "epoch": 1, "step": 2}\\n')
"""
CONF = """\
name: exp
train: {lr: 1e-3}
job: {resources: {gpus: 0}, volumes: [{claim: v, mount: /runs, as: runs}], retries: 0}
"""
DIGEST = "sha256:" + "ab" * 32


def git(folder: Path, *arguments: str) -> str:
    identity = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a trainer, pushed to a remote, and the working directory."""
    remote = tmp_path / "remote.git"
    remote.mkdir()
    git(remote, "init", "-q", "--bare")
    folder = tmp_path / "tree"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer/__main__.py").write_text(TRAINER)
    (folder / "trainer/__init__.py").touch()
    (folder / "word.txt").write_text("committed\n")
    (folder / "exp.yaml").write_text(CONF)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "all")
    git(folder, "remote", "add", "origin", str(remote))
    git(folder, "push", "-q", "-u", "origin", "main")
    monkeypatch.chdir(folder)
    return folder


def ended(run: str) -> str:
    """What a run of this machine wrote, once it has ended."""
    end = time.monotonic() + 20
    while not (status := reader.read_status(run)).phase.ended:
        assert time.monotonic() < end, status
        time.sleep(0.05)
    assert status.phase == "succeeded", status
    return (Path(records.find(run).runs_mount) / run / "said.txt").read_text()


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out.strip()


def test_the_code_of_that_day_runs_again_when_tree_and_job_are_gone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[], str]
) -> None:
    """The tree had a local change, was changed since, and has moved: the commit comes from its remote, the change from the record."""
    (tree / "word.txt").write_text("changed here\n")
    submit.run("train", Path("exp.yaml"), cluster="local")
    first = read()
    assert ended(first) == "changed here\n"
    assert delete.run(first) == 0
    (tree / "word.txt").write_text("changed since\n")
    tree.rename(tmp_path / "elsewhere")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    monkeypatch.setenv("VIDJOBS_TRAIN__LR", "5")

    assert rerun.run(first, name="again") == 0
    second = read()
    assert second.startswith("again-train-")
    assert ended(second) == "changed here\n"
    was, now = records.find(first), records.find(second)
    assert (now.conf_text, now.commit, recorded.diff(now), now.rerun_of) == (
        was.conf_text,
        was.commit,
        recorded.diff(was),
        first,
    )


@pytest.mark.parametrize("words", [["--dry-run"], ["--dry-run=client"], ["--dry-run", "server"]])
def test_a_dry_run_shows_what_would_be_sent_and_leaves_nothing(
    tree: Path, read: Callable[[], str], words: list[str]
) -> None:
    """As typed: `--dry-run` alone, or with the word that `submit` takes too."""
    submit.run("train", Path("exp.yaml"), cluster="local")
    first = read()
    assert cli.run(["rerun", first, *words]) == 0
    (job,) = yaml.safe_load_all(read())
    assert (job["kind"], job["metadata"]["name"] != first) == ("Job", True)
    assert [record.run for record in records.load_all()] == [first]


def test_what_cannot_be_the_same_on_this_machine_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image is used here; without a checkout there is no commit, and so no change of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.yaml").write_text(CONF.replace("job: {", "job: {image: some/image:1, "))
    profile = load("local")
    first = plan("train", Path("exp.yaml"), profile=profile, backend=LocalBackend()).record
    _, notes = plan_again(first, profile=profile, backend=LocalBackend())
    assert notes == ["the code was under no version control: this directory's is used as it is"]


def test_diff_names_each_difference_and_what_is_missing(
    tree: Path, read: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run and a changed one: conf, code with the patch, results; then of one whose folder has gone."""
    submit.run("train", Path("exp.yaml"), cluster="local")
    a = read()
    ended(a)
    assert diff.run(a, a, as_json=True) == 0
    same = json.loads(read())
    assert (same["conf"], same["code"], same["image"], same["environment"]) == ([], [], [], [])

    (tree / "word.txt").write_text("changed here\n")
    submit.run(
        "train",
        Path("exp.yaml"),
        cluster="local",
        sets=["train.lr=2e-3", "job.resources.memory=8Gi"],
    )
    b = read()
    ended(b)
    for run, package in ((a, "1.0"), (b, "2.0")):
        folder = Path(records.find(run).runs_mount) / run
        (folder / "provenance.json").write_text(
            json.dumps({"packages": {"torch": package, "numpy": "2"}, "gpu": "none"})
        )
    objects = git(tree, "count-objects")
    assert diff.run(a, b, as_json=True) == 0
    told = json.loads(read())
    assert told["conf"] == [
        {"key": "job.resources.memory", "a": "16Gi", "b": "8Gi"},
        {"key": "train.lr", "a": 0.001, "b": 0.002},
    ]
    assert [each["key"] for each in told["code"]] == ["local changes"]
    assert "-committed\n+changed here" in told["patch"]
    assert git(tree, "count-objects") == objects, "the repository is only read"
    assert told["environment"] == [{"key": "package torch", "a": "1.0", "b": "2.0"}]
    assert told["results"] == [{"key": "last val Loss", "a": 0.5, "b": 0.5}]
    assert told["missing"] == []

    delete.run(a, files=False)
    (Path(records.find(a).runs_mount) / a).rename(tree.parent / "gone")
    assert diff.run(a, b) == 0
    shown = capsys.readouterr()
    assert "train.lr" in shown.out
    assert f"{a}: its folder is empty or gone" in shown.err


def test_a_commit_that_is_nowhere_any_more_is_told(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tree, "remote", "remove", "origin")
    profile = load("local")
    made = plan("train", tree / "exp.yaml", profile=profile, backend=_local())
    tree.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="neither in"):
        plan_again(made.record, profile=profile, backend=_local())


def _local():  # type: ignore[no-untyped-def]
    from launcher.backends.local.backend import LocalBackend

    return LocalBackend()


@pytest.fixture
def kube_record(tree: Path) -> RunRecord:
    """The record of a run on a cluster, of an image known by its tag, with a local change."""
    (tree / "word.txt").write_text("changed here\n")
    profile = load("generic")
    sets = [
        "job.image=registry.example/a/v:1",
        f"job.code.repo={tree.parent / 'remote.git'}",
        "job.env.A=1",
    ]
    return plan(
        "train", tree / "exp.yaml", profile=profile, backend=KubeBackend(profile), sets=sets
    ).record


def again(record: RunRecord, *sets: str, name: str | None = None):  # type: ignore[no-untyped-def]
    profile = load(record.cluster)
    return plan_again(record, profile=profile, backend=KubeBackend(profile), sets=sets, name=name)


def test_all_but_the_name_is_the_same_on_a_cluster(
    kube_record: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Manifests are equal once the new name stands for the old one; neither cwd nor environment count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDJOBS_JOB__RETRIES", "3")
    made, notes = again(kube_record)
    assert json.dumps(made.manifests).replace(made.spec.run, kube_record.run) == json.dumps(
        kube_record.manifests
    )
    assert [note for note in notes if "may have been moved" in note]


def test_a_sweep_is_run_again_with_all_its_trials(tree: Path) -> None:
    profile = load("generic")
    sets = ["job.image=registry.example/a/v:1", "job.code=image"]
    (tree / "sweep.yaml").write_text(
        f"{CONF}sweep: {{grid: {{train.lr: [1, 2, 3]}}, where: 'train.lr != 2'}}\n"
    )
    record = plan(
        "train",
        tree / "sweep.yaml",
        profile=profile,
        backend=KubeBackend(profile),
        sets=sets,
        sweep=True,
    ).record
    made, _ = again(record)
    assert json.dumps(made.manifests).replace(made.spec.run, record.run) == json.dumps(
        record.manifests
    )
    assert made.trials
    assert len(made.trials) == 2


def test_the_digest_that_ran_is_run_again(kube_record: RunRecord) -> None:
    records.save(kube_record)
    noted = records.note(kube_record, image_id=f"registry.example/a/v@{DIGEST}", blamed={})
    assert records.note(noted, image_id="other@" + DIGEST, blamed={}) == noted, (
        "the first word stays"
    )
    made, notes = again(records.find(kube_record.run))
    assert made.spec.image == f"registry.example/a/v@{DIGEST}"
    assert not notes
    told = compare(
        Side(record=noted, data=None),
        Side(record=dataclasses.replace(noted, image_id=""), data=None),
        None,
    )
    assert told.image == [], "what is known of one run alone is no difference"
    told = compare(
        Side(record=noted, data=None),
        Side(record=dataclasses.replace(noted, image_id="x@sha256:" + "cd" * 32), data=None),
        None,
    )
    assert [each.key for each in told.image] == ["ran"]
    loaded = dataclasses.replace(kube_record, image_id=DIGEST)
    assert recorded.image(loaded) == "registry.example/a/v:1", (
        "an image loaded by hand has a digest that no registry knows"
    )


def test_nodes_that_failed_again_and_again_are_avoided(kube_record: RunRecord) -> None:
    """Beside those that the conf avoids; not when the user says which; what was seen of the pods outlives them."""
    records.save(kube_record)
    attempts = tuple(
        PodStatus(name=name, phase=Phase.FAILED, node="gpu-7", exit_code=139) for name in ("a", "b")
    )
    failed = remember(
        kube_record, RunStatus(run=kube_record.run, phase=Phase.FAILED, pods=attempts)
    )
    assert failed.blamed == {"gpu-7": 2}
    gone = remember(records.find(failed.run), RunStatus(run=failed.run, phase=Phase.GONE))
    assert gone.blamed == {"gpu-7": 2}
    view = RunView(
        run=gone.run,
        record=gone,
        status=RunStatus(run=gone.run, phase=Phase.GONE),
        cluster="generic",
    )
    assert view.as_json()["blamed"] == {"gpu-7": 2}

    first, _ = again(gone)
    assert first.spec.avoid_nodes == ("gpu-7",)
    assert to_avoid(gone, ()) == {"gpu-7": 2}
    second, _ = again(dataclasses.replace(first.record, blamed={"gpu-7": 2, "gpu-9": 3}))
    assert second.spec.avoid_nodes == ("gpu-7", "gpu-9")
    free, _ = again(second.record, "job.avoid_nodes=[]")
    assert free.spec.avoid_nodes == ()

    elsewhere = (*attempts, PodStatus(name="c", phase=Phase.FAILED, node="gpu-8", exit_code=139))
    assert (
        remember(gone, RunStatus(run=gone.run, phase=Phase.FAILED, pods=elsewhere)).blamed == {}
    ), "it fails on any node"
    here = dataclasses.replace(kube_record, backend="local")
    assert (
        remember(here, RunStatus(run=here.run, phase=Phase.FAILED, pods=attempts)).blamed == {}
    ), "there is no other machine"


def test_settings_of_every_section_may_be_changed(kube_record: RunRecord) -> None:
    made, _ = again(
        kube_record, "train.lr=2e-3", "job.resources.memory=8Gi", "job.image=other:2", name="b"
    )
    assert made.spec.name == "b"
    assert "lr: 0.002" in made.spec.conf_text
    assert (made.spec.resources.memory, made.spec.image) == ("8Gi", "other:2")
    assert made.spec.code == recorded.code(kube_record)


def test_a_record_without_a_whole_conf_is_refused(kube_record: RunRecord) -> None:
    with pytest.raises(UserError, match="older vidjobs"):
        again(dataclasses.replace(kube_record, whole_conf=""))


def test_a_secret_in_local_changes_stays_here(tree: Path) -> None:
    """Refused where it would travel, not recorded where the tree runs as it is; a file that is named goes."""
    (tree / ".env").write_text("A=1\n")
    with pytest.raises(
        ConfError, match=r"looks like a secret.*\.env \(its name\).*job\.code\.allow"
    ):
        pin(CodeConf(), local=False, cwd=tree)
    assert "+A=1" in pin(CodeConf(allow=(".env",)), local=False, cwd=tree).diff
    found = pin(CodeConf(), local=True, cwd=tree)
    assert (found.diff, found.unrecorded) == ("", "they hold what looks like a secret")


def _added(path: str, text: str) -> str:
    return (
        f"diff --git a/{path} b/{path}\nnew file mode 100644\nindex 0..1\n"
        f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,2 @@\n+x = 1\n+{text}\n"
    )


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("a.py", "token = '" + "ghp_" + "a1" * 18 + "'", "a.py:2 (GitHub token)"),
        ("a.py", "HF = " + "hf_" + "Ab" * 17, "a.py:2 (Hugging Face token)"),
        ("a.py", "AK" + "IA" + "ABCD" * 4, "a.py:2 (AWS access key)"),
        ("a.py", "aws_secret_access_key = " + "a/" * 20, "a.py:2 (AWS access key)"),
        ("k/x", "-----BEGIN RSA " + "PRIVATE KEY-----", "k/x:2 (private key)"),
        ("b/.env", "A=1", "b/.env (its name)"),
        ("id_ed25519", "x", "id_ed25519 (its name)"),
        ("certs/a b.pem", "x", "certs/a b.pem (its name)"),
    ],
)
def test_what_looks_like_a_secret_is_found_by_name_and_content(
    path: str, text: str, found: str
) -> None:
    assert secrets_in(_added(path, text)) == [found]
    assert secrets_in(_added(path, text), ["certs/*", path]) == []


def test_what_only_resembles_a_secret_or_goes_away_is_not() -> None:
    harmless = [
        "hf_hub_download(repo)",
        "sk-learn",
        "AKIA",
        "monkey.pem_file",
        "task-identifier-of-a-long-and-winding-name-in-kebab",
    ]
    assert (
        secrets_in("".join(_added(f"{number}.py", text) for number, text in enumerate(harmless)))
        == []
    )
    assert secrets_in(_added(".env.example", "A=")) == []
    gone = (
        "diff --git a/.env b/.env\ndeleted file mode 100644\nindex 1..0\n--- a/.env\n+++ /dev/null\n@@ -1 +0,0 @@\n-A=ghp_"
        + "a" * 36
        + "\n"
    )
    assert secrets_in(gone) == []
