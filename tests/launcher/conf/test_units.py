"""Durations and Kubernetes quantities."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.conf.units import Bytes, Cores, Seconds, amount


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120s", 120), ("90m", 5400), ("36h", 129600), ("2d", 172800), ("1d12h", 129600), ("45", 45)],
)
def test_durations_are_seconds(text: str, seconds: int) -> None:
    """Each unit, sums of units, and bare seconds."""
    assert Seconds.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "2 d", "-1d", "d", "1.5h", "2days", "1h30", "٣s"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    """The message shows forms that work."""
    with pytest.raises(ValueError, match="2d, 1d12h"):
        Seconds.parse(text)


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_prints_as_one_that_reads_back(seconds: int) -> None:
    """str() and parse() are inverse."""
    assert Seconds.parse(str(Seconds(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("16Gi", 16 * 2**30), ("500M", 500 * 10**6), ("1.5Ki", 1536), ("1024", 1024)]
)
def test_sizes_keep_their_text_and_count_bytes(text: str, size: int) -> None:
    """The manifest gets what was written; comparisons get bytes."""
    assert Bytes.parse(text) == text
    assert amount(text) == size


@pytest.mark.parametrize("text", ["16 Gi", "16GB", "16gi", "0", "-1Gi", "500m", "1e3", "Gi", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    """`m` is legal for the API (thousandths of a byte) and always a mistake."""
    with pytest.raises(ValueError, match="is "):
        Bytes.parse(text)


def test_a_size_in_bytes_gets_the_form_that_kubernetes_writes() -> None:
    """16GB is what people type."""
    with pytest.raises(ValueError, match="16Gi"):
        Bytes.parse("16GB")


@pytest.mark.parametrize("text", ["8", "0.5", "500m"])
def test_cores(text: str) -> None:
    """The three usual forms."""
    assert Cores.parse(text) == text


@pytest.mark.parametrize("text", ["0", "8 cores", "-1", "1Gi", "0m", "0.0005"])
def test_what_is_no_number_of_cores_is_refused(text: str) -> None:
    """Thousandths are the least."""
    with pytest.raises(ValueError, match="cores"):
        Cores.parse(text)
