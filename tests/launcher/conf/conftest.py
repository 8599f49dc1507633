"""A conf in a folder of its own, resolved the way the commands do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.backends.kube.backend import KubeBackend
from launcher.conf.resolve import Experiment, resolve
from launcher.profiles import load

VOLUMES = "job: {image: i, code: image, volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /mnt/data, as: data}]}\n"
Resolve = Callable[..., Experiment]


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """`resolved("train: {...}", sets=[...], environ={...}, files={name: text})`: faults are in the result."""
    monkeypatch.chdir(tmp_path)

    def run(
        text: str = "",
        *,
        files: dict[str, str] | None = None,
        volumes: bool = True,
        **options: object,
    ) -> Experiment:
        for name, content in {
            **(files or {}),
            "exp.yaml": text + (VOLUMES if volumes else ""),
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        profile = load("generic")
        environ = options.pop("environ", {})
        return resolve(
            tmp_path / "exp.yaml",
            profile=profile,
            place=KubeBackend(profile).claim_path,
            environ=environ,
            **options,
        )  # type: ignore[arg-type]

    return run
