"""SIGTERM is heard whenever it comes: also when what it raised was swallowed where it hit."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from trainer.errors import TryAgain
from trainer.stopping import Stop


def test_a_signal_raises_where_it_hits() -> None:
    with pytest.raises(TryAgain, match="getting ready"), Stop().listening():
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_swallows_it_only_puts_it_off_until_the_next_one_listens() -> None:
    """As a package that tries to import another one, and takes any exception for its absence."""
    with Stop().listening():
        with suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TryAgain, match="getting ready"), Stop().listening():
            pytest.fail("the work began all the same")


def test_a_patient_listener_only_remembers_it() -> None:
    with Stop().listening() as stop:
        with stop.patient():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
