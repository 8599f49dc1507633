"""The command as a process: exit codes, one message on stderr, results alone on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import errors

CONF = """\
data: {name: tinyvirat, root: "${data}/TinyVIRAT", frames: 16, size: 32}
model: {name: i3d, mode: 16x32}
"""


def vidjobs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_every_verb() -> None:
    done = vidjobs("--help")

    listed = {
        line.split()[0]
        for line in done.stdout.splitlines()
        if line.startswith("  ") and line.split()
    }
    assert done.returncode == 0
    assert {
        *(
            "submit",
            "render",
            "conf",
            "lint",
            "status",
            "logs",
            "fetch",
            "cancel",
            "resume",
            "delete",
        ),
        *("volume", "report", "doctor", "rbac", "init", "clusters", "models", "completion"),
        *("push", "rerun", "diff", "shell", "tensorboard"),
    } <= listed


@pytest.mark.parametrize("arguments", [[], ["sweep"], ["volume"]])
def test_nothing_more_than_a_groups_name_asks_for_help(arguments: list[str]) -> None:
    done = vidjobs(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: vidjobs")


def test_a_kubeconfig_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    done = vidjobs("volume", "ls", "--cluster", "generic")
    assert done.returncode == 5
    assert "no usable kubeconfig: /nowhere/kubeconfig does not exist" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sumbit"], "submit"),
        (["submit", "trian", "x.yaml"], 'did you mean "train"'),
        (["submit", "train"], "CONF"),
        (["status", "nosuchrun"], 'no run is called "nosuchrun"'),
        (["status", "--nosuch"], "--nosuch"),
        (["completion", "tcsh"], "bash, zsh or fish"),
        (["submit", "train", "x.yaml", "--dry-run=maybe"], "--dry-run"),
    ],
)
def test_a_typing_error_is_exit_1_with_a_hint(arguments: list[str], says: str) -> None:
    done = vidjobs(*arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_refuses_is_the_persons_to_mend_and_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "exp.yaml").write_text(CONF)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    done = vidjobs("submit", "train", str(tmp_path / "exp.yaml"), "--cluster", "local")

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/file/vidjobs/runs: Not a directory" in done.stderr
    assert "XDG_STATE_HOME" in done.stderr
    assert "bug" not in done.stderr


def test_what_nobody_foresaw_is_a_bug_with_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    broken = "from launcher.commands import clusters; clusters.available = None"
    script = f"import sys; {broken}; from launcher import cli; sys.exit(cli.run(['clusters']))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    (report,) = tmp_path.glob("vidjobs-bug-*.log")
    assert done.returncode == 3
    assert str(report) in done.stderr
    assert "Traceback" in report.read_text()


def test_completion_prints_a_script_that_bash_accepts() -> None:
    script = vidjobs("completion", "bash").stdout

    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "_VIDJOBS_COMPLETE" in script


def test_help_imports_nothing_heavy() -> None:
    """`vidjobs --help` answers at once: nothing of the cluster or the trainer is loaded for it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "launcher", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = {
        line.rsplit("|", 1)[-1].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "typer" in loaded
    assert not loaded & {
        "torch",
        "numpy",
        "kubernetes",
        "jinja2",
        "trainer",
        "yaml",
        "urllib3",
        "PIL",
    }


def test_each_family_of_errors_has_its_exit_code() -> None:
    codes = {kind.__name__: kind.exit_code for kind in errors.VidjobsError.__subclasses__()}

    assert codes == {"UserError": 1, "ConfError": 2, "JobFailed": 4, "ClusterError": 5}


def test_a_reader_that_leaves_is_no_error() -> None:
    """`vidjobs ... | head -1` ends quietly with exit code 0."""
    command = f"{sys.executable} -m launcher models --json | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("0\n", "")


def test_messages_that_nobody_reads_do_not_change_the_outcome(tmp_path: Path) -> None:
    """`vidjobs ... 2>&1 | head -1`."""
    # gone long before the first message
    command = f"{sys.executable} -m launcher init 2> >(true); echo $?"
    environment = os.environ | {"PYTHONPATH": str(Path(errors.__file__).parents[1])}

    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "experiment.yaml\n0\n"
