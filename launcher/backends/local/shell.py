"""A shell on this machine, in a run's folder and with its variables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import UserError
from launcher.records import RunRecord


class LocalShell:
    """See `Shell`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = env
        self.where = f"on this machine, in {folder}"

    def run(self, command: str | None) -> int:
        if not self._folder.is_dir():
            raise UserError(
                f"{self._folder} does not exist",
                hint="the run has written nothing yet, or its folder was deleted",
            )
        argv = [os.environ.get("SHELL") or "sh"] if command is None else ["sh", "-c", command]
        code = subprocess.run(
            argv, cwd=self._folder, env={**os.environ, **self._env}, check=False
        ).returncode
        return code if code >= 0 else 128 - code


def variables(record: RunRecord) -> dict[str, str]:
    """The trainer's variables as its manifest has them, but secrets."""
    for manifest in record.manifests:
        if manifest.get("kind") == "Job":
            trainer = manifest["spec"]["template"]["spec"]["containers"][0]
            return {
                str(one["name"]): str(one["value"]).replace("$$", "$")
                for one in trainer.get("env", [])
                if "value" in one
            }
    return {}
