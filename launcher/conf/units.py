"""Durations ("2d", "1d12h", "120s") and Kubernetes quantities ("16Gi", "500m"), read and checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TypeVar

from launcher.errors import UserError

T = TypeVar("T")
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:[0-9]+[wdhms])+")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")
_FACTOR = {"": Decimal(1), "m": Decimal("0.001")}
_FACTOR |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)}
_FACTOR |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


def of_option(option: str, parse: Callable[[str], T], text: str) -> T:
    """What a command's option says. UserError names the option and what was expected."""
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{option} {error}") from error


class Seconds(int):
    """A duration; in a conf "2d", "36h", "1d12h", "90m", "120s", or a whole number of seconds."""

    def __str__(self) -> str:
        """The shortest form with one unit: "7d", "120s" is "2m"."""
        unit = next(
            (
                letter
                for letter, size in _SECONDS.items()
                if letter != "w" and self and self % size == 0
            ),
            "s",
        )
        return f"{int(self) // _SECONDS[unit]}{unit}"

    @classmethod
    def parse(cls, text: str) -> Seconds:
        """ValueError says what was expected."""
        if text.isascii() and text.isdigit():
            return cls(text)
        if not _DURATION.fullmatch(text):
            raise ValueError(f'is "{text}", not a duration such as 2d, 1d12h, 90m or 120s')
        return cls(
            sum(
                int(number) * _SECONDS[unit]
                for number, unit in re.findall(r"([0-9]+)([wdhms])", text)
            )
        )


class Bytes(str):
    """A Kubernetes quantity of memory or disk, kept as it was written: "16Gi", "500M"."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Bytes:
        """ValueError says what was expected."""
        if match := re.fullmatch(r"([0-9.]+)([kKmMgGtT])i?[bB]", text):
            raise ValueError(f'is "{text}"; Kubernetes writes it {match[1]}{match[2].upper()}i')
        if _amount(text, "m") <= 0:
            raise ValueError(f'is "{text}", not a quantity above 0 such as 16Gi')
        return cls(text)


class Cores(str):
    """A Kubernetes quantity of processor time, kept as it was written: "8", "0.5", "500m"."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Cores:
        """ValueError says what was expected."""
        if not re.fullmatch(r"[0-9]+(\.[0-9]{1,3})?|[0-9]+m", text) or amount(text) <= 0:
            raise ValueError(f'is "{text}", not a number of cores above 0 such as 4, 0.5 or 500m')
        return cls(text)


def amount(quantity: str) -> Decimal:
    """The number that a checked quantity stands for: bytes, or cores."""
    return _amount(quantity, "")


def _amount(text: str, refused: str) -> Decimal:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _FACTOR or (refused and match[2] == refused):
        return Decimal(-1)
    return Decimal(match[1]) * _FACTOR[match[2]]
