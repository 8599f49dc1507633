"""A submit that does not reach the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher import records
from launcher.commands import submit
from launcher.errors import ClusterError

_CONF = """\
name: exp
data: {name: tinyvirat, root: /data, frames: 16, size: 32}
model: {name: i3d, mode: 16x32}
job: {image: registry.example/v:1, code: image, resources: {gpus: 0}, volumes: [{claim: v, mount: /runs, as: runs}]}
"""


def test_a_run_that_was_surely_not_created_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody answers at the server's address: neither a record, nor a word that the run may exist."""
    server = {"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "n"}}
    login = {
        "clusters": [server],
        "contexts": [context],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "current-context": "c",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(login))
    (tmp_path / "exp.yaml").write_text(_CONF)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match="cannot connect"):
        submit.run("train", Path("exp.yaml"), cluster="generic")
    assert records.load_all() == []
    assert "may have been created" not in capsys.readouterr().err
