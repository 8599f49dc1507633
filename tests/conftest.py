"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real logs, annotations, videos and the test cluster; a checkout stands alone, so tests that need them skip without."""
    folder = PROJECT.parent / "shared"
    if not (folder / "real").is_dir():
        pytest.skip(f"{folder} is not there: real inputs are not part of the project")
    return folder


@pytest.fixture(autouse=True)
def _private_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the state or settings of the person who runs it."""
    home = tmp_path_factory.mktemp("xdg")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("VIDJOBS_CLUSTER", raising=False)
