"""The flat conf and the argv: what the launcher writes is what the trainer reads."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.backends.kube.backend import KubeBackend
from launcher.backends.local.backend import LocalBackend
from launcher.commands import conf as conf_command
from launcher.conf.resolve import Experiment
from launcher.conf.schema import TRAINER_SECTIONS
from launcher.plan import plan, read
from launcher.profiles import load
from launcher.render import TEMPLATES
from launcher.trainer_check import check
from trainer import check as trainer_side
from trainer import config, errors

_PROJECT = Path(__file__).resolve().parents[2]
_NAMES = (
    "quickstart",
    "tinyvirat/transformer_resizer",
    "two_stream/vgg_rgb",
    "efficient/mobilenetv2",
    "vmz/r2plus1d34_hmdb51_flow",
)
# test_every_conf.py walks all of them
CONFS = [_PROJECT / "conf" / f"{name}.yaml" for name in _NAMES]


def _read(path: Path, *sets: str, cluster: str = "nautilus") -> Experiment:
    profile = load(cluster)
    return read(path, profile=profile, backend=KubeBackend(profile), sets=sets)


def test_the_launcher_hands_on_exactly_the_trainer_s_sections() -> None:
    """A new section of the trainer is entered in the launcher's list too."""
    assert tuple(field.name for field in dataclasses.fields(config.Config)) == TRAINER_SECTIONS


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_what_conf_prints_is_a_flat_conf(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vidjobs conf X > flat.yaml` is what `python -m trainer check --conf flat.yaml` accepts, defaults filled in."""
    assert conf_command.run(path, cluster="nautilus") == 0
    (tmp_path / "flat.yaml").write_text(capsys.readouterr().out)
    shown, sent = (
        trainer_side.load(file, (), verb="train")
        for file in (tmp_path / "flat.yaml", _flat(path, tmp_path))
    )
    assert shown.model.options.items() >= sent.model.options.items()
    assert (
        dataclasses.replace(
            shown, model=dataclasses.replace(shown.model, options=sent.model.options)
        )
        == sent
    )


def _flat(path: Path, tmp_path: Path) -> Path:
    file = tmp_path / "sent.yaml"
    file.write_text(_read(path).flat_text)
    return file


def test_a_trainer_s_fault_is_found_at_the_file_and_line_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `extends`, from --set, and for a whole section."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("train:\n  batch: many\n")
    (tmp_path / "x.yaml").write_text(
        "extends: base.yaml\ndata: {root: /d}\nmodel:\n  name: i3d\n  mdoe: 32x112\n"
        "job: {code: image, volumes: [{claim: v, mount: /runs, as: runs}]}\n"
    )
    verdict = check(_read(Path("x.yaml"), "train.epochs=no", cluster="generic"))
    places = {fault.path: (fault.file, fault.line) for fault in verdict.faults}
    assert places["train.batch"] == ("base.yaml", 2)
    assert places["model.mdoe"] == ("x.yaml", 5)
    assert places["train.epochs"] == ("--set train.epochs", 0)


def test_the_trainer_refuses_what_only_the_launcher_reads(tmp_path: Path) -> None:
    """`extends`, `${...}` and `job` in a flat conf."""
    (tmp_path / "x.yaml").write_text('extends: y.yaml\ndata: {root: "${data}"}\njob: {}\n')
    with pytest.raises(errors.ConfFault) as caught:
        trainer_side.load(tmp_path / "x.yaml", (), verb="train")
    assert {fault.path for fault in caught.value.faults} >= {"extends", "data.root", "job"}


def test_the_trainer_takes_the_argv_that_the_launcher_writes(tmp_path: Path) -> None:
    """A conf with a fault, so that it ends at once: 64, and it speaks about the conf and not about the options."""
    made = plan(
        "train", CONFS[0], profile=load("local"), backend=LocalBackend(), sets=["job.code=image"]
    )
    conf = tmp_path / "conf.yaml"
    conf.write_text("train: {lr: fast}\n")
    argv = [str(conf) if word.endswith("/conf.yaml") else word for word in made.spec.argv]
    argv[argv.index("--run") + 1] = str(tmp_path / "run")
    env = {**os.environ, "PYTHONPATH": str(_PROJECT)}
    done = subprocess.run(
        [sys.executable, *argv[1:]],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == errors.ConfFault.exit_code, done.stderr
    assert "train.lr" in done.stderr + done.stdout


def test_the_job_fails_at_once_on_exactly_the_codes_that_no_retry_mends() -> None:
    """podFailurePolicy and trainer/errors.py name the same numbers; 75 and a bug's 70 count as retries.

    Of a sweep some end their trial and one the whole Job; without one all of them end the Job.
    """
    lists = re.findall(r"values: \[([\d, ]+)\]", (TEMPLATES / "job.yaml.j2").read_text())
    of_trial, of_all_trials, of_job = (
        {int(code) for code in listed.split(",")} for listed in lists
    )
    final = {
        error.exit_code
        for error in (errors.ConfFault, errors.DataError, errors.CannotWrite, errors.Diverged)
    }
    assert of_job == final
    assert of_trial | of_all_trials == final
    assert not of_trial & of_all_trials
    assert errors.TryAgain.exit_code not in final
