"""`vidjobs doctor`: a line a finding, and exit code 5 when the cluster cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.commands import doctor
from launcher.errors import ClusterError


def test_a_cluster_that_cannot_be_reached_is_one_finding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be checked here is still told; the way there ends the list, with the next step."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    assert doctor.run(cluster="generic", as_json=True) == ClusterError.exit_code
    findings = {each["what"]: each for each in json.loads(capsys.readouterr().out)}
    assert findings["packages"]["ok"]
    assert findings["clients"]["ok"]
    assert not findings["cluster"]["ok"]
    assert "KUBECONFIG" in findings["cluster"]["fix"]

    doctor.run(cluster="generic")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("no  cluster")
    assert "->" in last
