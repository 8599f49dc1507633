"""Pods that each have an index of their own, trials of a sweep or shards of a prepare: what each does, and what all of them come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from launcher.backend_base import IndexStatus, Phase

_SHOWN = 8  # numbers named in one line


def summary(word: str, total: int, indexes: Mapping[int, IndexStatus]) -> str:
    """`31 of 45 trials done, 4 run, 2 failed (3, 17)`"""
    done, running = of_phase(indexes, Phase.SUCCEEDED), of_phase(indexes, Phase.RUNNING)
    failed = of_phase(indexes, Phase.FAILED)
    parts = [f"{len(done)} of {total} {word} done"]
    parts += [f"{len(running)} run"] if running else []
    parts += [f"{len(failed)} failed ({named(failed)})"] if failed else []
    return ", ".join(parts)


def failure(word: str, total: int, indexes: Mapping[int, IndexStatus]) -> str:
    """`2 of 45 trials failed (3, 17), the last: ...`"""
    failed = of_phase(indexes, Phase.FAILED)
    last = indexes[failed[-1]].cause if failed else ""
    return f"{len(failed)} of {total} {word} failed ({named(failed)})" + (
        f", the last: {last}" if last else ""
    )


def of_phase(indexes: Mapping[int, IndexStatus], phase: Phase) -> list[int]:
    """The numbers of those, ascending."""
    return sorted(number for number, status in indexes.items() if status.phase is phase)


def named(numbers: Iterable[int]) -> str:
    """`3, 17`; of many the first ones."""
    listed = list(numbers)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(map(str, listed[:_SHOWN])) + more


def parse_ranges(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5], as Kubernetes writes completedIndexes."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
