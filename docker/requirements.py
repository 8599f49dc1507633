"""Print the packages that extras of a pyproject.toml name, one a line: `requirements.py FILE EXTRA...`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The requirements of `extras`, in the file's order; KeyError names an extra that the file lacks."""
    known: dict[str, list[str]] = tomllib.loads(pyproject.read_text())["project"][
        "optional-dependencies"
    ]
    return [requirement for extra in extras for requirement in known[extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
