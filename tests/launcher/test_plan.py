"""From a conf to what is sent and remembered, with the real backends (nothing is contacted)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from launcher import records
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.local.backend import LocalBackend
from launcher.errors import ConfError, UserError
from launcher.plan import Plan, plan
from launcher.profiles import load

CONF = """\
name: exp
data: {root: "${data}/T"}
train: {lr: 1e-3}
job:
  image: registry.example/v:1
  code: image
  volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /mnt/source, as: data, stage_to: /mnt/data, unpack: true}]
"""


def _kube(
    conf: Path,
    verb: str = "train",
    *,
    cluster: str = "nautilus",
    sets: tuple[str, ...] = (),
    source: str | None = None,
) -> Plan:
    profile = load(cluster)
    return plan(verb, conf, profile=profile, backend=KubeBackend(profile), sets=sets, source=source)


def _local(
    conf: Path, verb: str = "train", *, sets: tuple[str, ...] = (), source: str | None = None
) -> Plan:
    return plan(verb, conf, profile=load("local"), backend=LocalBackend(), sets=sets, source=source)


def test_a_run_is_named_after_conf_and_verb(conf: Path) -> None:
    """And two submits never share a name."""
    names = {_kube(conf).spec.run for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"exp-train-[a-z0-9]{6}", name) for name in names)


def test_argv_conf_and_places_on_a_cluster(conf: Path) -> None:
    """The contract with the trainer."""
    spec = _kube(conf).spec
    assert spec.argv == (
        "python",
        "-m",
        "trainer",
        "train",
        "--conf",
        "/vidjobs/conf/conf.yaml",
        "--run",
        f"/runs/{spec.run}",
    )
    assert yaml.safe_load(spec.conf_text) == {
        "data": {"root": "/mnt/data/T"},
        "train": {"lr": 0.001},
    }
    assert [(mount.mount, mount.stage_to, mount.unpack) for mount in spec.mounts] == [
        ("/runs", "", False),
        ("/mnt/source", "/mnt/data", True),
    ]


def test_on_this_machine_claims_are_folders_and_nothing_is_staged(conf: Path) -> None:
    """The same conf; every path of the manifest is a directory of this machine. Planning makes none of them."""
    made = _local(conf)
    state = records.state_dir()
    assert made.spec.runs_mount == str(state / "local" / "volumes" / "v")
    assert yaml.safe_load(made.spec.conf_text)["data"]["root"] == str(
        state / "local" / "volumes" / "d" / "T"
    )
    assert all(not mount.stage_to and not mount.unpack for mount in made.spec.mounts)
    assert "initContainers" not in made.manifests[0]["spec"]["template"]["spec"]
    assert not state.exists()


def test_gpu_types_become_a_resource_and_labels(conf: Path) -> None:
    """Two ways, by type."""
    labelled = _kube(conf, sets=("job.resources={gpus: 1, gpu_type: [NVIDIA-A10, Tesla-T4]}",)).spec
    assert labelled.resources.gpu_resource == "nvidia.com/gpu"
    assert labelled.node_affinity == (("nvidia.com/gpu.product", ("NVIDIA-A10", "Tesla-T4")),)
    special = _kube(conf, sets=("job.resources={gpus: 1, gpu_type: A100}",)).spec
    assert (special.resources.gpu_resource, special.node_affinity) == ("nvidia.com/a100", ())


def test_types_of_two_resources_are_refused_and_named_in_groups(conf: Path) -> None:
    """No single request could ask for them."""
    with pytest.raises(
        ConfError, match=r"these types are 2: nvidia\.com/gpu: Tesla-T4; nvidia\.com/a40: A40"
    ):
        _kube(conf, sets=("job.resources={gpus: 1, gpu_type: [Tesla-T4, A40]}",))
    _local(conf, sets=("job.resources={gpus: 1, gpu_type: [Tesla-T4, A40]}",))


def test_a_cluster_needs_an_image_and_this_machine_does_not(conf: Path) -> None:
    """One conf for both."""
    with pytest.raises(ConfError, match=r"job\.image: is missing"):
        _kube(conf, sets=("job.image=null",))
    assert _local(conf, sets=("job.image=null",)).spec.image == ""


def test_a_sweep_is_ignored_and_said_so(conf: Path) -> None:
    """Plain submit runs one."""
    made = _kube(conf, sets=("sweep.grid={train.lr: [1, 2]}",))
    assert len(made.manifests) == 1
    assert "sweep" in made.warnings[0]


def test_the_record_has_what_later_verbs_need(conf: Path) -> None:
    """It survives saving and loading, and finds the folder."""
    record = _kube(conf).record
    records.save(record)
    assert records.find(record.run[:12]) == record
    assert (record.verb, record.runs_claim, record.runs_mount, record.directory) == (
        "train",
        "v",
        "/runs",
        str(Path.cwd()),
    )
    assert str(record.paths.root) == f"/runs/{record.run}"
    assert record.created.endswith("Z")


def test_faults_of_pinning_stand_where_the_code_is_named(conf: Path) -> None:
    """File and line, as all others."""
    conf.write_text(conf.read_text().replace("code: image", "code: worktree"))
    with pytest.raises(ConfError, match=r"exp\.yaml:6: job\.code: .* is no git checkout"):
        _kube(conf)


def _finished(conf: Path) -> str:
    """A record of a run on this machine with checkpoints of epochs 1 to 3."""
    made = _local(conf)
    records.save(made.record)
    folder = Path(made.spec.runs_mount) / made.spec.run / "checkpoints"
    folder.mkdir(parents=True)
    files = {
        f"epoch-{epoch:06d}.pt": {
            "kind": "weights",
            "epoch": epoch,
            "step": epoch,
            "size": 1,
            "sha256": "0",
        }
        for epoch in (1, 2, 3)
    }
    manifest = {
        "format": 1,
        "last": "epoch-000003.pt",
        "best": "epoch-000002.pt",
        "select": "f1_macro",
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return made.spec.run


@pytest.mark.parametrize(("at", "file"), [("@best", 2), ("@last", 3), ("@1", 1), ("", 2)])
def test_from_a_run_is_a_path_in_the_conf(conf: Path, at: str, file: int) -> None:
    """Settled at submit: a later best does not change what a retry starts from."""
    run = _finished(conf)
    made = _local(conf, "eval", source=f"{run}{at}", sets=("model.init=other",))
    expected = f"{made.spec.runs_mount}/{run}/checkpoints/epoch-{file:06d}.pt"
    assert yaml.safe_load(made.spec.conf_text)["model"]["init"] == expected


def test_test_takes_the_folder_and_the_epochs(conf: Path) -> None:
    """All of them, or the one that is named."""
    run = _finished(conf)
    whole = yaml.safe_load(_local(conf, "test", source=run).spec.conf_text)["test"]
    assert whole == {"checkpoints": f"{_local(conf).spec.runs_mount}/{run}/checkpoints"}
    assert (
        yaml.safe_load(_local(conf, "test", source=f"{run}@best").spec.conf_text)["test"]["epochs"]
        == "2"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [("@7", 'no checkpoint "7"'), ("@bets", 'no checkpoint "bets"'), ("@../x", "no checkpoint")],
)
def test_a_checkpoint_that_is_not_there_is_an_error_that_names_those_that_are(
    conf: Path, source: str, said: str
) -> None:
    """Epochs 1 to 3."""
    run = _finished(conf)
    with pytest.raises(UserError, match=said) as caught:
        _local(conf, "eval", source=run + source)
    assert "epochs 1 to 3" in caught.value.hint or "best" in caught.value.hint


def test_a_run_on_another_volume_cannot_be_started_from(conf: Path) -> None:
    """The new pod would not see it."""
    run = _finished(conf)
    with pytest.raises(UserError, match="lies on claim"):
        _kube(conf, "eval", source=f"{run}@best")


def test_a_run_without_checkpoints_says_so(conf: Path) -> None:
    """Not a missing file."""
    made = _local(conf)
    records.save(made.record)
    with pytest.raises(UserError, match="no checkpoint yet"):
        _local(conf, "eval", source=made.spec.run)


def test_a_webhook_is_a_variable_literal_or_from_a_secret(conf: Path) -> None:
    """And only one of both."""
    assert (
        _kube(conf, sets=("job.webhook.url=https://h.example/x",)).spec.env["VIDJOBS_WEBHOOK"]
        == "https://h.example/x"
    )
    made = _kube(conf, sets=("job.webhook.secret=hook",))
    assert [(env, key.secret, key.key) for env, key in made.spec.secret_env] == [
        ("VIDJOBS_WEBHOOK", "hook", "url")
    ]
    for wrong in (
        ("job.webhook.url=h.example",),
        ("job.webhook.url=https://h.example", "job.webhook.secret=hook"),
        ("job.webhook.key=x",),
    ):
        with pytest.raises(ConfError, match="webhook"):
            _kube(conf, sets=wrong)
