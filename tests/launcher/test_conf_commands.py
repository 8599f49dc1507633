"""conf, init, clusters, models and submit, as a person types them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from launcher import completing, records
from launcher.backend_base import Manifest, RunStatus
from launcher.backends.local.backend import LocalBackend
from launcher.commands import clusters, conf, init, lint, models, render, submit
from launcher.errors import AdmissionError, ClusterError, ConfError, UserError
from launcher.profiles import configured
from launcher.records import RunRecord

CONF = """\
name: exp
data: {root: "${data}/T", size: 112}
model: {name: i3d, mode: 32x112}
train: {lr: 1e-3}
job: {code: image, volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /mnt/data, as: data}]}
"""


@pytest.fixture
def exp(conf: Path) -> Path:
    """The conf, as typed in its directory."""
    return Path(conf.name)


def test_conf_prints_numbers_and_the_trainer_s_defaults(
    exp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but YAML on stdout."""
    assert conf.run(exp, cluster="generic", sets=["train.batch=2"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["train"]["lr"], shown["train"]["batch"], shown["train"]["optimizer"]) == (
        0.001,
        2,
        "adam",
    )
    assert shown["data"]["root"] == "/mnt/data/T"


def test_explain_says_where_each_value_comes_from(
    exp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and line, option, variable, default of either program."""
    monkeypatch.setenv("VIDJOBS_TRAIN__SEED", "9")
    assert conf.run(exp, cluster="generic", sets=["train.batch=2"], explain=True) == 0
    said = {
        line.split()[0]: line.split(maxsplit=2)[2]
        for line in capsys.readouterr().out.splitlines()
        if len(line.split()) > 2
    }
    assert said["train.lr"] == "file exp.yaml:4"
    assert said["train.batch"] == "--set train.batch"
    assert said["train.seed"] == "environment VIDJOBS_TRAIN__SEED"
    assert said["train.optimizer"] == "trainer default"
    assert said["job.retries"] == "default"


def test_conf_for_programs(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document; with --explain every setting with its origin."""
    assert conf.run(exp, cluster="generic", explain=True, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"name", "job", "sweep", "conf", "settings"}
    setting = next(each for each in document["settings"] if each["path"] == "train.lr")
    assert setting == {
        "path": "train.lr",
        "value": 0.001,
        "layer": "file",
        "file": "exp.yaml",
        "line": 4,
    }


def test_the_rules_of_a_cluster_do_not_judge_what_runs_on_this_machine(
    exp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing travels to that site."""
    sets = ["job.resources={gpus: 1, gpu_type: H100}", "job.env.MY_TOKEN=x", "job.image=v:1"]
    with pytest.raises(ConfError, match="nrp-gated-gpu"):
        submit.run("train", exp, cluster="nautilus", sets=sets, dry_run="client")
    assert (
        submit.run("train", exp, cluster="nautilus", backend="local", sets=sets, dry_run="client")
        == 0
    )
    assert capsys.readouterr().err == ""


def test_faults_of_both_programs_come_together(exp: Path) -> None:
    """One message, one exit code."""
    exp.write_text(CONF.replace("lr: 1e-3", "lr: fast").replace("name: exp", "nmae: exp"))
    with pytest.raises(ConfError) as caught:
        conf.run(exp, cluster="generic")
    assert {fault.path for fault in caught.value.faults} == {"nmae", "train.lr"}


def test_a_conf_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(ConfError, match=r"none\.yaml: cannot read it"):
        conf.run(tmp_path / "none.yaml", cluster="generic")
    (tmp_path / "some.yaml").touch()
    with pytest.raises(
        ConfError,
        match=r'some\.yml: cannot read it: No such file or directory \(did you mean "some\.yaml"\?\)',
    ):
        conf.run(tmp_path / "some.yml", cluster="generic")


def test_an_option_that_is_wrong_is_named_once(exp: Path) -> None:
    with pytest.raises(
        ConfError,
        match=r'^--name: "A" cannot .*\n--set train\.epoch: unknown key \(did you mean "epochs"\?\)$',
    ) as caught:
        submit.run("train", exp, cluster="local", sets=["train.epoch=2"], name="A")
    assert [fault.path for fault in caught.value.faults] == ["name", "train.epoch"]


def test_init_writes_a_conf_that_lint_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the choice of the cluster; what is there stays unless forced."""
    monkeypatch.chdir(tmp_path)
    assert init.run(cluster="nautilus") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "experiment.yaml"
    assert lint.run(Path("experiment.yaml"), sets=["job.image=v:1@sha256:0"]) == 0
    (tmp_path / "experiment.yaml").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        init.run()
    assert (tmp_path / "experiment.yaml").read_text() == "mine"
    assert init.run(force=True) == 0


def test_init_changes_the_cluster_and_leaves_a_conf_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody needs --force, which would cost the conf, to choose another cluster."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.yaml").write_text("mine")
    assert init.run(cluster="nautilus") == 0
    assert init.run(cluster="generic") == 0
    told = capsys.readouterr()
    assert "it was nautilus" in told.err
    assert "stays as it is" in told.err
    assert configured() == "generic"
    assert (tmp_path / "experiment.yaml").read_text() == "mine"
    with pytest.raises(UserError, match="no cluster profile"):
        init.run(cluster="nowhere")
    assert configured() == "generic"


def test_clusters_and_models_list_what_a_conf_can_name(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for programs."""
    assert clusters.run() == 0
    assert "nautilus" in capsys.readouterr().out
    assert clusters.run(as_json=True) == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)} >= {
        "local",
        "generic",
        "nautilus",
        "kube-one",
    }
    assert models.run() == 0
    assert "transformer_resizer_i3d" in capsys.readouterr().out
    assert models.run(as_json=True) == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)} >= {"i3d", "resizer_i3d"}


def test_one_model_with_its_published_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """What to write in the conf stands beside each; a name that is not there gets the nearest one."""
    assert models.run("mobilenetv2_3d") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mobilenetv2_3d  (classifier)")
    assert "kinetics_mobilenetv2_1.0x_RGB_16_best.pth" in shown
    assert "model.init: " in shown
    assert models.run("mobilenetv2_3d", as_json=True) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {"file", "classes", "normalise", "init"} <= set(row["published"][0])
    with pytest.raises(UserError, match=r"no model 'mobilnetv2_3d' \(did you mean"):
        models.run("mobilnetv2_3d")
    assert "mobilenetv2_3d" in completing.models("mobile")


def test_dry_run_prints_the_manifest_and_leaves_nothing(
    exp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even a record."""
    assert submit.run("train", exp, cluster="local", dry_run="client") == 0
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "Job"
    assert not records.state_dir().exists()


def test_what_is_rendered_is_the_same_bytes_until_something_changes(
    exp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the name, so that two renderings can be compared, and two experiments applied side by side."""

    def shown(*sets: str) -> str:
        assert (
            render.run("train", exp, cluster="generic", sets=["job.image=v:1@sha256:0", *sets]) == 0
        )
        return capsys.readouterr().out

    assert shown() == shown()
    assert (
        submit.run(
            "train", exp, cluster="generic", sets=["job.image=v:1@sha256:0"], dry_run="client"
        )
        == 0
    )
    assert capsys.readouterr().out == shown()
    names = {
        yaml.safe_load(shown(change))["metadata"]["name"]
        for change in ("train.lr=2e-3", "job.retries=1", "name=exp")
    }
    assert len(names) == 3
    assert all(re.fullmatch("exp-train-[a-z0-9]{6}", name) for name in names)


def test_submit_refuses_what_the_site_would_refuse(exp: Path) -> None:
    """Before anything is sent; conf, trainer and site together."""
    exp.write_text(CONF.replace("job: {", "job: {image: v, env: {API_TOKEN: x}, "))
    with pytest.raises(ConfError, match="secret-in-env"):
        submit.run("train", exp, cluster="generic", dry_run="client")


class _Failing(LocalBackend):
    """A backend whose submit ends badly, before or after the objects exist."""

    def __init__(self, error: BaseException, *, created: bool) -> None:
        super().__init__()
        self.error, self.created = error, created

    def submit(self, *_manifests: Sequence[Manifest], **_options: bool) -> None:
        raise self.error

    def status(self, record: RunRecord) -> RunStatus:
        if self.created:
            raise ClusterError("no answer")
        return super().status(record)


@pytest.mark.parametrize(
    ("error", "created", "known"),
    [
        (AdmissionError("quota"), False, False),
        (ClusterError("connection reset"), False, False),
        (ClusterError("connection reset"), True, True),
        (KeyboardInterrupt(), True, True),
    ],
)
def test_a_submit_that_fails_leaves_a_record_only_where_the_run_may_exist(
    exp: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, created: bool, known: bool
) -> None:
    """Nothing is left half known."""
    monkeypatch.setattr(submit, "for_profile", lambda *_: _Failing(error, created=created))
    with pytest.raises(type(error)):
        submit.run("train", exp, cluster="local")
    assert bool(records.load_all()) == known


def test_watching_a_dry_run_makes_no_sense(exp: Path) -> None:
    """Said, not guessed."""
    with pytest.raises(UserError, match="--dry-run starts none"):
        submit.run("train", exp, watch=True, dry_run="client")
