"""Site rules as ValidatingAdmissionPolicies: what `vidjobs lint` says offline, said by an API server. One policy and binding a rule.

Rules with a `check` are small Python programs and have no policy; all others are written in CEL here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from launcher.rules.model import Condition, Rule
from launcher.rules.paths import Step, parse

_RESOURCES = {
    "Job": ("batch", "v1", "jobs"),
    "Pod": ("", "v1", "pods"),
    "PersistentVolumeClaim": ("", "v1", "persistentvolumeclaims"),
}
_POD = {"Job": "object.spec.template.spec", "Pod": "object.spec"}
Judge = Callable[[str], str]  # a CEL expression of a value -> a CEL expression of a truth


def expressible(rule: Rule, kind: str) -> bool:
    """Whether the rule is about this kind and needs no Python."""
    return not rule.check and kind in rule.kinds


def policies(rule: Rule, kind: str, namespace: str) -> list[dict[str, Any]]:
    """The rule's policy and its binding, for one namespace. It warns, so that one request tells the verdicts of all rules."""
    name = f"{namespace}-{kind.lower()}-{rule.id}"
    group, version, resource = _RESOURCES[kind]
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    matched = {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE"],
        "resources": [resource],
    }
    labels = {"vidjobs/test": namespace}
    message = f"{rule.id}: {rule.fix}".replace("\n", " ")
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [matched], **selector},
                "validations": [{"expression": expression(rule, kind), "message": message}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name, "labels": labels},
            "spec": {"policyName": name, "validationActions": ["Warn"], "matchResources": selector},
        },
    ]


def expression(rule: Rule, kind: str) -> str:
    """CEL that is true where the rule is kept."""

    def kept(here: str) -> str:
        wanted = " && ".join(_condition(one, kind, here, some=False) for one in rule.require)
        unless = " && ".join(_condition(one, kind, here, some=True) for one in rule.when)
        return f"(!({unless}) || ({wanted}))" if unless else f"({wanted})"

    return " && ".join(_all(at, kind, "object", kept) for at in rule.at)


def _condition(one: Condition, kind: str, here: str, *, some: bool) -> str:
    parts = []
    if one.exists is not None:
        there = _some(one.path, kind, here, lambda _: "true")
        parts.append(there if one.exists else f"!({there})")
    positive = any(
        each is not None
        for each in (one.equals, one.one_of, one.matches, one.at_most, one.at_least)
    )
    if some and positive:
        parts.append(_some(one.path, kind, here, lambda _: "true"))
    if judged := _judged(one, kind, here):
        parts.append(
            _all(one.path, kind, here, lambda value: " && ".join(each(value) for each in judged))
        )
    return "(" + " && ".join(parts) + ")"


def _judged(one: Condition, kind: str, here: str) -> list[Judge]:
    """One judge an operator."""
    times = f" * {_first(one.times, kind)}" if one.times else ""
    found: list[Judge] = []
    if one.equals is not None:
        found.append(lambda value: f"string({value}) == {_text(one.equals)}")
    if one.one_of is not None:
        found.append(lambda value: f"string({value}) in {_text(list(one.one_of or ()))}")
    if one.none_of is not None:
        found.append(lambda value: f"!(string({value}) in {_text(list(one.none_of or ()))})")
    if one.matches is not None:
        found.append(lambda value: f"string({value}).matches({_text(one.matches)})")
    if one.not_matches is not None:
        found.append(lambda value: f"!string({value}).matches({_text(one.not_matches)})")
    if one.at_most is not None:
        found.append(lambda value: f"{_number(value)}{times} <= {_number(_text(one.at_most))}")
    if one.at_least is not None:
        found.append(lambda value: f"{_number(value)}{times} >= {_number(_text(one.at_least))}")
    if one.within_percent is not None:
        found.append(
            lambda value: _all(
                one.of, kind, here, lambda base: _within(value, base, one.within_percent or 0)
            )
        )
    return found


def _within(value: str, base: str, percent: int) -> str:
    return f"{_number(base)} <= {_number(value)} && {_number(value)} <= {_number(base)} * {1 + percent / 100 + 1e-9}"


def _number(value: str) -> str:
    return f"quantity(string({value})).asApproximateFloat()"


def _text(value: Any) -> str:
    """CEL's literals of texts and lists of texts are JSON's."""
    return json.dumps(value)


def _first(path: str, kind: str) -> str:
    """A field's number, 1 where it is not there."""
    root, steps = parse(path)
    at = _root(root, kind, "object")
    parents = [
        at + "".join(f".{step.name}" for step in steps[: count + 1]) for count in range(len(steps))
    ]
    return f"(({' && '.join(f'has({each})' for each in parents)}) ? double({parents[-1]}) : 1.0)"


def _root(root: str, kind: str, here: str) -> str:
    return {"object": "object", "pod": _POD.get(kind, "object"), "": here}[root]


def _all(path: str, kind: str, here: str, judge: Judge) -> str:
    """True when the judge says so of every value at the path."""
    root, steps = parse(path)
    return _walk(_root(root, kind, here), steps, judge, every=True)


def _some(path: str, kind: str, here: str, judge: Judge) -> str:
    root, steps = parse(path)
    return _walk(_root(root, kind, here), steps, judge, every=False)


def _walk(value: str, steps: tuple[Step, ...], judge: Judge, *, every: bool) -> str:
    if not steps:
        return f"({judge(value)})"
    step, rest = steps[0], steps[1:]
    # new in its scope: inner values are longer
    name = f"v{value.count('[') + value.count('.') + len(rest)}x{len(value)}"
    if step.kind == "field":
        inner = _walk(f"{value}.{step.name}", rest, judge, every=every)
        there = f"has({value}.{step.name})"
        return f"(!{there} || {inner})" if every else f"({there} && {inner})"
    key = json.dumps(step.name)
    if step.kind == "key":
        inner = _walk(f"{value}[{key}]", rest, judge, every=every)
        return f"(!({key} in {value}) || {inner})" if every else f"({key} in {value} && {inner})"
    if step.kind == "keys":
        inner = _walk(f"{value}[{name}]", rest, judge, every=every)
        starts = f"{name}.startsWith({key})"
        return (
            f"{value}.all({name}, !{starts} || {inner})"
            if every
            else f"{value}.exists({name}, {starts} && {inner})"
        )
    return (
        f"{value}.{'all' if every else 'exists'}({name}, {_walk(name, rest, judge, every=every)})"
    )
