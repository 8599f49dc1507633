"""Who may import whom (also checked by import-linter in `make lint`): seen from running processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def modules(folder: Path) -> list[str]:
    return sorted(
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if path.name != "__main__.py"
    )


def loaded_after(names: list[str]) -> set[str]:
    code = f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_whole_launcher_loads_without_what_its_verbs_import_themselves(project: Path) -> None:
    loaded = loaded_after(
        [name.removesuffix(".__init__") for name in modules(project / "launcher")]
    )

    assert not loaded & {
        "torch",
        "torchvision",
        "numpy",
        "sklearn",
        "trainer",
        "kubernetes",
        "jinja2",
        "PIL",
    }


@pytest.mark.slow
def test_the_whole_trainer_loads_without_the_launcher(project: Path) -> None:
    loaded = loaded_after([name.removesuffix(".__init__") for name in modules(project / "trainer")])

    assert not loaded & {"launcher", "kubernetes", "typer"}


def test_only_packages_with_code_are_packages(project: Path) -> None:
    """An `__init__.py` in docker, conf or tests would shadow other people's packages."""
    assert not [
        path
        for name in ("docker", "conf", "tests")
        for path in (project / name).rglob("__init__.py")
    ]
