"""Every conf of conf/: it resolves, has no fault and renders; and what it trains is really trained, on a tiny dataset of its own layout."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import trainer_check
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.local.backend import LocalBackend
from launcher.commands import conf as conf_command
from launcher.commands import lint as lint_command
from launcher.lint import lint
from launcher.plan import Plan, plan
from launcher.profiles import load
from trainer import check, config, signatures
from trainer.config import Config

CONF = Path(__file__).resolve().parents[2] / "conf"
CONFS = {str(path.relative_to(CONF).with_suffix("")): path for path in sorted(CONF.rglob("*.yaml"))}
CONFS = {name: path for name, path in CONFS.items() if path.parent.name not in ("base", "clusters")}


def verb_of(name: str) -> str:
    """What a conf is for: its folder, or its name, says when it is not training."""
    folder, _, own = name.rpartition("/")
    return "prepare" if folder == "prepare" else "fuse" if own.startswith("fuse") else "train"


# of confs that are trained here
SWEEPS = [name for name in CONFS if name.rpartition("/")[2].startswith("sweep_")]
TRAINED = [name for name in CONFS if verb_of(name) == "train" and name not in SWEEPS]


@functools.cache
def _plan(name: str, cluster: str) -> tuple[Plan, Any]:
    profile = load(cluster)
    backend = LocalBackend() if cluster == "local" else KubeBackend(profile)
    return plan(
        verb_of(name), CONFS[name], profile=profile, backend=backend, sets=["job.code=image"]
    ), profile


def _typed(made: Plan) -> tuple[Config, list[Any]]:
    """As the trainer reads it, and what it finds wrong."""
    typed, faults = config.parse(yaml.safe_load(made.experiment.flat_text))
    return typed, faults + check.check(typed, made.spec.verb)


@pytest.mark.parametrize("name", ["prepare/ucf101_frames", "two_stream/fuse"])
def test_what_a_conf_is_for_need_not_be_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`vidjobs lint` and `vidjobs conf` take no verb, and miss no model where none is trained."""
    assert lint_command.run(CONFS[name], cluster="local") == 0
    assert f"for `{verb_of(name)}`" in capsys.readouterr().err
    assert conf_command.run(CONFS[name], cluster="local") == 0
    assert yaml.safe_load(capsys.readouterr().out)


def test_there_are_confs_of_every_system() -> None:
    """The walks below are not empty."""
    folders = {name.rpartition("/")[0] for name in CONFS}
    assert folders >= {"", "tinyvirat", "two_stream", "efficient", "vmz", "c3d", "prepare"}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_trial_of_a_sweep_is_sound(name: str) -> None:
    """The trainer finds no fault with what any of them makes of the conf."""
    profile = load("nautilus")
    made = plan(
        "train",
        CONFS[name],
        profile=profile,
        backend=KubeBackend(profile),
        sets=("job.code=image",),
        sweep=True,
    )
    assert made.trials is not None
    assert trainer_check.check(made.experiment, "train", made.trials).faults == ()


@pytest.mark.parametrize("name", CONFS)
def test_every_conf_resolves_checks_lints_and_renders(name: str) -> None:
    """On a cluster and on this machine; the trainer has no fault to find and the site no error."""
    for cluster in ("nautilus", "local"):
        made, profile = _plan(name, cluster)
        assert _typed(made)[1] == []
        assert [
            each
            for each in lint(made.experiment, profile, made.manifests)
            if each.severity == "error"
        ] == []
        assert made.manifests[0]["metadata"]["name"].startswith(
            f"{made.experiment.name}-{verb_of(name)}-"
        )


def test_no_two_confs_make_runs_of_one_name() -> None:
    names = [made.experiment.name for made in (_plan(name, "local")[0] for name in CONFS)]
    assert sorted(set(names)) == sorted(names)


def test_every_network_with_classes_is_in_some_conf() -> None:
    """By `model.name`, or as a `--set` that a comment names."""
    words = {word for path in CONFS.values() for word in re.findall(r"\w+", path.read_text())}
    classifiers = {
        signature.name for signature in signatures.read().values() if signature.kind == "classifier"
    }
    assert classifiers - words == set()


def test_what_a_conf_says_of_frames_and_biases_is_what_was_published() -> None:
    """Numbers that a slip of a key would turn into a default."""
    inception = _typed(_plan("two_stream/inception_rgb", "local")[0])[0]
    assert (inception.train.bias_lr, inception.train.bias_decay, inception.train.milestones) == (
        2,
        False,
        (250000, 400000),
    )
    assert (inception.train.gamma, inception.train.milestone_unit, inception.train.max_steps) == (
        0.2,
        "steps",
        500000,
    )
    assert (inception.data.step, inception.data.val_step, inception.data.test_step) == (6, 36, 2)
    efficient = _typed(_plan("efficient/mobilenetv2", "local")[0])[0].train
    assert (efficient.lr, efficient.dampening, efficient.weight_decay, efficient.nesterov) == (
        0.01,
        0.9,
        1e-3,
        False,
    )
    hmdb51 = _typed(_plan("vmz/r2plus1d34_hmdb51", "local")[0])[0].train
    assert (hmdb51.lr, hmdb51.lr_scaling, hmdb51.epoch_size, hmdb51.milestones) == (
        2e-4,
        "linear",
        40000,
        (2, 4, 6),
    )
    assert (hmdb51.weight_decay, hmdb51.nesterov, hmdb51.epochs) == (5e-3, True, 8)
    assert _typed(_plan("c3d/ucf101", "local")[0])[0].train.lr_of == {"fc8": 10}
    assert _typed(_plan("c3d/leafdp_r2plus1d", "local")[0])[0].train.lr_of == {"linear": 10}


SMALL = {
    "train.epochs": 1, "train.max_steps": 2, "train.batch": 2, "train.accumulate": 1, "train.log_every": 1, "train.checkpoint_steps": 0,
    "train.lr": 1e-5,  # two clips at the published rates can blow a fresh network up
    "model.init": "", "model.init_head": "keep", "data.val_step": 0, "data.val_clips": 1, "data.test_step": 12,
    "compute.device": "cpu", "compute.workers": 0, "compute.threads": 1, "job.code": "image", "job.retries": 0,
}  # fmt: skip
I3D = {"model.mode": "16x32", "data.frames": 16, "data.size": 32}
LESS: dict[str, dict[str, Any]] = {  # by network
    "i3d": I3D,
    "resizer_i3d": {**I3D, "data.size": 16},
    "stn_resizer_i3d": {**I3D, "data.size": 16},
    "transformer_resizer_i3d": {**I3D, "data.size": 16, "sweep": None},
    "inception_v3": {"data.size": 75, "data.resize": "short:96"},
    "vgg16": {"model.hidden": 16},
    "resnet3d": {"model.depth": 18},
    "resnext3d": {"model.depth": 50},
    "csn": {"model.depth": 26, "data.jitter": None},
    "r2plus1d": {"model.depth": 18},
}
# networks that take one size, or whose size stands above
FIXED = ("c3d", "c3d_bn", "c3d_vmz", "vgg16", "inception_v3")


def overrides(name: str) -> list[str]:
    """What makes two quick steps of a conf, as `--set` takes it: key=value, in YAML."""
    typed, _ = _typed(_plan(name, "local")[0])
    small = {} if typed.model.name in FIXED else {"data.frames": 8, "data.size": 32}
    settings = {**SMALL, **small, **LESS.get(typed.model.name, {})}
    if typed.train.schedule == "step":
        settings["train.epoch_size"] = min(typed.train.epoch_size, 4)
    texts = {
        key: yaml.safe_dump(value).removesuffix("...\n").strip() for key, value in settings.items()
    }
    return [f"{key}={text}" for key, text in texts.items()]


class Lines:
    """Trainings two at a time, started before the test that asks for one."""

    def __init__(self, place: Path, data: Path) -> None:
        self._place, self._data = place, data
        self._pool = ThreadPoolExecutor(2)
        self._ended: dict[str, Future[subprocess.CompletedProcess[str]]] = {}

    def start(self, name: str) -> None:
        self._ended[name] = self._pool.submit(self._run, name)

    def of(self, name: str) -> subprocess.CompletedProcess[str]:
        return self._ended[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _run(self, name: str) -> subprocess.CompletedProcess[str]:
        """`vidjobs submit train CONF --cluster local --watch`, with a state folder of its own whose claims are the made datasets."""
        state = self._place / name.replace("/", "-")
        volumes = state / "vidjobs" / "local" / "volumes"
        volumes.mkdir(parents=True)
        for claim in ("video-data", "virat-vr-small", "demo-data"):
            (volumes / claim).symlink_to(self._data, target_is_directory=True)
        sets = [word for override in overrides(name) for word in ("--set", override)]
        command = [
            sys.executable,
            "-m",
            "launcher",
            "submit",
            "train",
            str(CONFS[name]),
            "--cluster",
            "local",
            "--watch",
            *sets,
        ]
        env = {
            **os.environ,
            "XDG_STATE_HOME": str(state),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(CONF.parent),
        }
        done = subprocess.run(
            command,
            env=env,
            cwd=CONF.parent,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        if done.returncode == 0:
            assert list(volumes.glob("*/*/checkpoints/epoch-000001.pt")), done.stdout
            shutil.rmtree(state)  # up to a gigabyte
        return done


@pytest.fixture(scope="module")
def trainings(
    request: pytest.FixtureRequest, layouts: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lines]:
    lines = Lines(tmp_path_factory.mktemp("confs"), layouts.everything())
    for item in request.session.items:
        called = getattr(item, "callspec", None)
        if (
            called is not None
            and item.path == Path(__file__)
            and "trainings" in getattr(item, "fixturenames", ())
        ):
            lines.start(called.params["name"])
    yield lines
    lines.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_conf_trains_on_a_tiny_dataset_of_its_layout(trainings: Lines, name: str) -> None:
    """Two steps, a validation and a checkpoint, as a run of this machine."""
    done = trainings.of(name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^train Loss: \d+\.\d+", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert re.search(r"^val  Loss: \d+\.\d+", done.stdout, re.MULTILINE), done.stdout + done.stderr
