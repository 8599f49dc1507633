"""Several logs followed as one: time order whatever arrives first, nobody held back by a silent one, memory bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backend_base import LogLine
from launcher.backends.kube import side_by_side
from launcher.backends.kube.side_by_side import SideBySide
from launcher.errors import ClusterError

Log = Callable[[], Iterator[LogLine]]


def line(pod: int, second: float, text: str = "") -> LogLine:
    return LogLine(pod=str(pod), text=text or f"{pod} {second}", time=f"{second:012.3f}")


def merged(*logs: Log) -> Iterator[LogLine]:
    return SideBySide(logs, threading.Event(), time.time).lines()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 50), max_size=20), min_size=1, max_size=5))
def test_whoever_comes_first_the_lines_are_in_time_order(times: list[list[int]]) -> None:
    """Lines of one pod stay in its order, each once."""
    logs = [
        [line(pod, second, f"{pod}.{number}") for number, second in enumerate(sorted(seconds))]
        for pod, seconds in enumerate(times)
    ]
    shown = list(merged(*((lambda log=log: iter(log)) for log in logs)))
    assert [each.time for each in shown] == sorted(each.time for log in logs for each in log)
    for pod, log in enumerate(logs):
        assert [each for each in shown if each.pod == str(pod)] == log


def test_a_long_past_is_merged_by_bounded_memory() -> None:
    """One pod's log comes at once, the other's connection takes a while."""
    read = [0]

    def fast() -> Iterator[LogLine]:
        for number in range(5000):
            read[0] = number
            yield line(0, number)

    def slow() -> Iterator[LogLine]:
        time.sleep(0.3)
        assert read[0] <= side_by_side._AHEAD
        for number in range(5000):
            yield line(1, number + 0.5)

    shown = [each.time for each in merged(fast, slow)]
    assert shown == sorted(shown)
    assert len(shown) == 10_000


def test_a_silent_pod_holds_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "QUIET_S", 0.2)
    wake = threading.Event()

    def silent() -> Iterator[LogLine]:
        wake.wait(20)
        yield line(1, 3)

    began = time.monotonic()
    shown = []
    for each in merged(lambda: iter([line(0, 1), line(0, 2)]), silent):
        shown.append(each.text)
        if len(shown) == 2:
            assert time.monotonic() - began < 10
            wake.set()
    assert shown == ["0 1", "0 2", "1 3"]


def test_a_pod_whose_beginning_is_heard_of_late_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both began at once; that one of them runs is known later, when it has been quiet for longer than others are waited for."""
    monkeypatch.setattr(side_by_side, "QUIET_S", 0.1)
    monkeypatch.setattr(side_by_side, "BEGIN_S", 1.5)
    written = [stamp(number) for number in range(6)]

    def known_at_once() -> Iterator[LogLine]:
        yield from (
            LogLine(pod="0", text=str(number), time=written[number]) for number in (1, 3, 5)
        )

    def known_late() -> Iterator[LogLine]:
        time.sleep(0.5)
        yield from (
            LogLine(pod="1", text=str(number), time=written[number]) for number in (0, 2, 4)
        )

    assert [each.text for each in merged(known_at_once, known_late)] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
    ]


def stamp(later: int) -> str:
    return (datetime.now(UTC) + timedelta(milliseconds=later)).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def test_a_line_without_a_time_stays_behind_the_one_before_it() -> None:
    first = [line(0, 1), LogLine(pod="0", text="lost", kind="gap"), line(0, 5)]
    assert [each.text for each in merged(lambda: iter(first), lambda: iter([line(1, 3)]))] == [
        "0 1",
        "lost",
        "1 3",
        "0 5",
    ]


def test_pods_that_come_later_are_followed_too() -> None:
    def logs() -> Iterator[Log]:
        yield lambda: iter([line(0, 1)])
        time.sleep(0.1)
        yield lambda: iter([line(1, 2)])

    assert [each.text for each in SideBySide(logs(), threading.Event(), time.time).lines()] == [
        "0 1",
        "1 2",
    ]


@pytest.mark.parametrize("where", ["of a log", "of the list of pods"])
def test_an_error_ends_all(where: str) -> None:
    def broken() -> Iterator[LogLine]:
        raise ClusterError("forbidden")
        yield line(0, 0)

    def logs() -> Iterator[Log]:
        yield lambda: iter([line(0, 1)])
        if where == "of a log":
            yield broken
        else:
            raise ClusterError("forbidden")

    with pytest.raises(ClusterError, match="forbidden"):
        list(SideBySide(logs(), threading.Event(), time.time).lines())


def test_no_pod_at_all() -> None:
    assert list(merged()) == []
