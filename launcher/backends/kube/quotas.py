"""What a refusal by a quota means: a wait that ends when other runs do, or one that never will. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from launcher.conf.units import amount

_LISTS = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>.*), used: .*, limited: (?P<limited>.*)",
    re.DOTALL,
)


class Refusal(NamedTuple):
    """In one line each."""

    text: str
    fix: str


def refusal(message: str) -> Refusal:
    """Of a message that says "exceeded quota": it lists all that the quota limits and the pod asks for, the used-up and the rest."""
    never = _never(message)
    if never:
        text = f"the namespace's quota never allows it ({', '.join(never)})"
        return Refusal(
            text,
            "no other run holds it, so waiting is in vain: ask for less in job.resources, or for a larger quota",
        )
    return Refusal(
        "the namespace's quota is used up",
        "ask for less in job.resources, or wait until other runs free it",
    )


def _never(message: str) -> list[str]:
    """`requests.nvidia.com/gpu=2 of 1` for what one request alone asks too much of."""
    lists = _LISTS.search(message)
    if lists is None:
        return []
    requested, limited = _pairs(lists["requested"]), _pairs(lists["limited"])
    return [
        f"{key}={asked} of {limited[key]}"
        for key, asked in requested.items()
        if key in limited and amount(limited[key]) >= 0 and amount(asked) > amount(limited[key])
    ]


def _pairs(text: str) -> dict[str, str]:
    """`pods=1,requests.cpu=2` as a mapping."""
    found = (pair.strip().partition("=") for pair in text.split(","))
    return {key: value for key, equals, value in found if equals}
