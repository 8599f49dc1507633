"""The job image without building it: its package list, and its entrypoint as a plain shell script."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

EXTRAS = ("trainer", "video")


def packages_of_the_image(project: Path) -> set[str]:
    command = [
        sys.executable,
        str(project / "docker" / "requirements.py"),
        str(project / "pyproject.toml"),
        *EXTRAS,
    ]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {re.split(r"[<>=!~\[ ;]", line)[0].lower() for line in lines}


def imported_modules(package: Path) -> set[str]:
    """Top names of everything that the package imports, also inside functions."""
    names: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


def test_the_image_has_every_package_that_the_trainer_imports(project: Path) -> None:
    """The image installs the trainer's extras alone, so whatever the trainer imports must be named there."""
    foreign = imported_modules(project / "trainer") - set(sys.stdlib_module_names) - {"trainer"}
    owners = importlib.metadata.packages_distributions()
    listed = packages_of_the_image(project)

    missing = {
        name
        for name in foreign
        if not {owner.lower() for owner in owners.get(name, [name])} & listed
    }

    assert missing == set()


def test_an_unknown_extra_is_an_error(project: Path) -> None:
    """A misspelt extra must not give an image without packages."""
    command = [
        sys.executable,
        str(project / "docker" / "requirements.py"),
        str(project / "pyproject.toml"),
        "trainr",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "trainr" in done.stderr


def entrypoint(
    project: Path, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", project / "docker" / "entrypoint.sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )


def test_a_uid_without_a_home_gets_writable_places(project: Path, tmp_path: Path) -> None:
    """HOME and the compilers' caches lie where this uid may write; the command's exit code is kept."""
    show = 'touch "$HOME/x" && echo "$HOME $USER $TORCHINDUCTOR_CACHE_DIR $TRITON_CACHE_DIR" && umask && exit 76'
    done = entrypoint(project, "sh", "-c", show, HOME="/nonexistent", TMPDIR=str(tmp_path))

    home = tmp_path / f"vidjobs-{os.getuid()}"
    first, mask = done.stdout.splitlines()
    assert first.split()[0] == str(home)
    assert all(place.startswith(f"{home}/") for place in first.split()[2:])
    assert mask == "0002"
    assert done.returncode == 76


def test_a_home_that_works_is_kept(project: Path, tmp_path: Path) -> None:
    """What the pod or the user has set stays."""
    done = entrypoint(
        project,
        "sh",
        "-c",
        'echo "$HOME $TRITON_CACHE_DIR"',
        HOME=str(tmp_path),
        TRITON_CACHE_DIR="/elsewhere",
    )

    assert done.stdout.split() == [str(tmp_path), "/elsewhere"]


def test_no_command_explains_the_image(project: Path, tmp_path: Path) -> None:
    """`docker run IMAGE` says what the image is for."""
    done = entrypoint(project, "help", HOME=str(tmp_path))

    assert done.returncode == 0
    assert "python -m trainer train" in done.stdout
