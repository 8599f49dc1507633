"""Whether a manifest breaks a rule. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from launcher.conf.units import amount
from launcher.rules.model import Condition, Rule
from launcher.rules.paths import Place, find

_MOST_SHOWN = 3


def broken(rule: Rule, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, message) of each place of the manifest that breaks the rule; rules with a `check` are not judged here."""
    if manifest.get("kind") not in rule.kinds:
        return
    for at in rule.at:
        for here in find(at, manifest, Place("", manifest)):
            if all(_wrong(one, manifest, here, some=True) is None for one in rule.when):
                wrong = [
                    place
                    for one in rule.require
                    if (found := _wrong(one, manifest, here, some=False)) is not None
                    for place in found
                ]
                if wrong:
                    yield (
                        wrong[0].path,
                        rule.message.replace("{value}", _shown(wrong)).replace(
                            "{name}", _name(here)
                        ),
                    )


def _name(here: Place) -> str:
    return str(here.value.get("name", "")) if isinstance(here.value, Mapping) else ""


def _shown(wrong: Sequence[Place]) -> str:
    """The values; a mapping by the place where it stands."""
    texts = dict.fromkeys(
        place.path.rpartition(".")[2]
        if isinstance(place.value, (dict, list))
        else _text(place.value)
        for place in wrong
    )
    more = len(texts) - _MOST_SHOWN
    return ", ".join(list(texts)[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _wrong(
    one: Condition, manifest: Mapping[str, Any], here: Place, *, some: bool
) -> list[Place] | None:
    """The places that fail the condition; None when it holds. With `some`, what says something of a value wants one to be there."""
    places = find(one.path, manifest, here)
    if one.exists is not None and bool(places) is not one.exists:
        return places or [Place(f"{here.path}.{one.path}".strip("."), "missing")]
    if (
        some
        and not places
        and any(
            each is not None
            for each in (one.equals, one.one_of, one.matches, one.at_most, one.at_least)
        )
    ):
        return []
    failed = [place for place in places if not _holds(one, place.value, manifest, here)]
    return failed or None


def _holds(one: Condition, value: Any, manifest: Mapping[str, Any], here: Place) -> bool:
    text = _text(value)
    number = amount(text) * _factor(one.times, manifest, here)
    return (
        (one.equals is None or text == one.equals)
        and (one.one_of is None or text in one.one_of)
        and (one.none_of is None or text not in one.none_of)
        and (one.matches is None or re.search(one.matches, text) is not None)
        and (one.not_matches is None or re.search(one.not_matches, text) is None)
        and (one.at_most is None or number <= amount(one.at_most))
        and (one.at_least is None or number >= amount(one.at_least))
        and (one.within_percent is None or _within(amount(text), one, manifest, here))
    )


def _within(number: Decimal, one: Condition, manifest: Mapping[str, Any], here: Place) -> bool:
    bases = [amount(_text(place.value)) for place in find(one.of, manifest, here)]
    return all(base <= number <= base * (100 + (one.within_percent or 0)) / 100 for base in bases)


def _factor(path: str, manifest: Mapping[str, Any], here: Place) -> Decimal:
    found = find(path, manifest, here) if path else []
    return amount(_text(found[0].value)) if found else Decimal(1)


def _text(value: Any) -> str:
    """As a manifest writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
