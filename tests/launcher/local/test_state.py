"""What a supervisor noted of its run, also when it is damaged: the run can be gone on with, and no other is lost with it."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.backend_base import Phase
from launcher.backends.local import backend
from launcher.backends.local.state import run_dir
from launcher.errors import ClusterError


@pytest.mark.parametrize("content", ["", '{"run": "b-train-abcdef"}'])
def test_a_damaged_state_is_a_failed_run_that_can_be_resumed(world: Any, content: str) -> None:
    world.submit("a-train-abcdef", "print('done')")
    record = world.submit("b-train-abcdef", "print('done')")
    for run in world.started:
        world.wait(run)
    run_dir("b-train-abcdef").state.write_text(content)

    found = {status.run: status for status in world.backend.list_runs()}
    world.backend.resume(record)

    assert found["a-train-abcdef"].phase is Phase.SUCCEEDED
    assert found["b-train-abcdef"].phase is Phase.FAILED
    assert "damaged" in found["b-train-abcdef"].cause
    assert "vidjobs resume b-train-abcdef" in found["b-train-abcdef"].fix
    assert world.wait("b-train-abcdef").phase is Phase.SUCCEEDED


def test_a_run_has_one_supervisor(world: Any) -> None:
    """As when two terminals resume it."""
    record = world.submit("a-train-abcdef", "import time; time.sleep(60)")
    with pytest.raises(ClusterError, match="could not start: another supervisor runs this job"):
        backend._start(run_dir(record.run))
