"""What a site rule is: data. The shipped ones and a user's own are written alike, and read here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Literal

from launcher.conf.convert import convert, fault_at
from launcher.conf.nodes import Node, path_text
from launcher.conf.units import amount
from launcher.conf.yaml_source import read_file
from launcher.errors import ConfError, Fault, did_you_mean
from launcher.rules.checks import CHECKS
from launcher.rules.paths import parse

KINDS = ("Job", "Pod", "PersistentVolumeClaim", "ConfigMap", "Service")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that holds or not, of all values that a path leads to. All its operators must hold."""

    path: str = ""  # "" = the place itself
    exists: bool | None = None
    equals: str | None = None  # values are compared as text: true, 8, "8Gi"
    one_of: tuple[str, ...] | None = None
    none_of: tuple[str, ...] | None = None
    # a regular expression that is found in it (RE2's syntax: Python and CEL read it alike)
    matches: str | None = None
    not_matches: str | None = None
    at_most: str | None = None  # a number or a Kubernetes quantity
    at_least: str | None = None
    # it is at most so much above the value at `of`, and not below it
    within_percent: int | None = None
    of: str = ""
    # with at_most and at_least: a path whose first value it is multiplied with; 1 where there is
    # none
    times: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of a site. `check` names a predicate in Python, for what no condition can say (shipped rules only)."""

    id: str
    message: str  # what is wrong; {value} is the value, {name} the name of the item that holds it
    fix: str
    # "error": it will be refused, or gets people banned
    severity: Literal["error", "warning"] = "warning"
    why: str = ""
    source: str = ""  # URL of the page that says so
    kinds: tuple[str, ...] = ("Job",)
    at: tuple[str, ...] = ("object",)  # the places it looks at, one by one
    when: tuple[Condition, ...] = ()  # all must hold, of some value each, for the rule to look
    require: tuple[Condition, ...] = ()  # all must hold, of every value there is
    check: str = ""
    conf: str = ""  # the conf's key that decides it: findings show where that was written
    says: tuple[str, ...] = ()  # regular expressions: how the site itself says it when it refuses


@dataclass(frozen=True, kw_only=True)
class _RuleFile:
    rules: tuple[Rule, ...] = field(default=())


@cache
def shipped(site: str) -> tuple[Rule, ...]:
    """The rules in `launcher/rules/<site>.yaml`."""
    return read(Path(__file__).parent / f"{site}.yaml", own=False)


def read(path: Path, *, own: bool = True) -> tuple[Rule, ...]:
    """The rules in a file (`rules: [...]`). ConfError with every fault, each with its line."""
    node, faults = read_file(path, "rules")
    if node is None:
        raise ConfError(faults)
    file, more = convert(node, _RuleFile, ())
    if faults or more or file is None:
        raise ConfError([*faults, *more])
    if wrong := problems(file.rules, node, own=own):
        raise ConfError(wrong)
    return file.rules


def problems(
    rules: Sequence[Rule], node: Node, *, own: bool = True, key: str = "rules"
) -> list[Fault]:
    """What is wrong with rules beyond their form: paths, patterns, numbers, ids given twice. `node` holds them under `key`."""
    found: list[Fault] = []
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        where = (
            node.value[key].value[index]
            if isinstance(node.value[key].value, list)
            else node.value[key]
        )
        said = [
            *_rule_problems(rule, own=own),
            *(["has an id that another rule has, too"] if rule.id in seen else []),
        ]
        found += [fault_at(where, (key, index), f'"{rule.id}" {message}') for message in said]
        seen.add(rule.id)
    return found


def _rule_problems(rule: Rule, *, own: bool) -> list[str]:
    said = (
        []
        if re.fullmatch(r"[a-z0-9][a-z0-9-]*", rule.id)
        else ["has an id that is not lower-case words joined by -"]
    )
    if own and rule.check:
        said.append("has `check`, which only shipped rules have: write `require`")
    elif rule.check and rule.check not in CHECKS:
        said.append(f'names the check "{rule.check}": {did_you_mean(rule.check, list(CHECKS))}')
    for kind in rule.kinds:
        if kind not in KINDS:
            said.append(
                f'looks at "{kind}", which nothing sends: {did_you_mean(kind, KINDS) or "one of " + ", ".join(KINDS)}'
            )
    if not rule.check and not rule.require:
        said.append("requires nothing: give it `require: [{path: ..., one_of: [...]}]`")
    for text in (
        *rule.says,
        *(
            each
            for one in (*rule.when, *rule.require)
            for each in (one.matches, one.not_matches)
            if each
        ),
    ):
        said += _pattern_problem(text)
    for path in (
        *rule.at,
        *(each for one in (*rule.when, *rule.require) for each in (one.path, one.of, one.times)),
    ):
        said += _path_problem(path)
    return said + [
        words for one in (*rule.when, *rule.require) for words in _condition_problems(one)
    ]


def _pattern_problem(text: str) -> list[str]:
    try:
        re.compile(text)
    except re.error as error:
        return [f'has the pattern "{text}", which is none: {error}']
    return []


def _path_problem(text: str) -> list[str]:
    try:
        parse(text)
    except ValueError as error:
        return [f"has a path that {error}"]
    return []


def _condition_problems(one: Condition) -> list[str]:
    operators = [
        each.name
        for each in fields(one)
        if each.name not in ("path", "of", "times") and getattr(one, each.name) is not None
    ]
    said = (
        []
        if operators
        else [
            f'has a condition on "{path_text((one.path,))}" with no operator (exists, one_of, matches, at_most, ...)'
        ]
    )
    said += [
        f'has the bound "{text}", which is no number'
        for text in (one.at_most, one.at_least)
        if text is not None and amount(text) < 0
    ]
    return said + (
        ["has within_percent without `of`"] if one.within_percent is not None and not one.of else []
    )
