"""Which rules hold on a cluster: those of its site, its profile's own, and those in ./conf/rules; and which of them a refusal names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import ConfError, Fault, did_you_mean
from launcher.profiles import ClusterProfile
from launcher.rules.model import Rule, read, shipped

_SITES: dict[str, tuple[str, ...]] = {"": (), "generic": ("generic",), "nrp": ("generic", "nrp")}
_ALL = ("generic", "nrp")


def of_profile(profile: ClusterProfile) -> tuple[Rule, ...]:
    """Every rule of the cluster, the site's first. ConfError for own rules that are wrong, or have the id of another."""
    sites = [rule for name in _SITES[profile.rules] for rule in shipped(name)]
    own = [*profile.own_rules, *(rule for path in _files() for rule in read(path))]
    known = {rule.id for rule in sites}
    for rule in own:
        if rule.id in known:
            raise ConfError(
                [
                    Fault(
                        path="rules",
                        message=f'"{rule.id}" is the id of another rule',
                        hint="give yours another id",
                    )
                ]
            )
        known.add(rule.id)
    for wanted in profile.ignore_rules:
        if wanted not in known:
            hint = did_you_mean(wanted, sorted(known)) or "`vidjobs lint --rules` lists them"
            raise ConfError(
                [
                    Fault(
                        path="ignore_rules",
                        message=f'there is no rule "{wanted}"',
                        hint=hint,
                        file=profile.file,
                    )
                ]
            )
    return tuple(rule for rule in (*sites, *own) if rule.id not in profile.ignore_rules)


def _files() -> list[Path]:
    return sorted((Path.cwd() / "conf" / "rules").glob("*.yaml"))


def named_by(message: str, rules: Sequence[Rule] = ()) -> Rule | None:
    """The rule that a refusal of the API server is about: by the site's own words, or by a rule's id. Shipped rules are always known."""
    known = [*rules, *(rule for site in _ALL for rule in shipped(site))]
    words = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", message))
    said = (rule for rule in known if any(re.search(pattern, message) for pattern in rule.says))
    return next(said, None) or max(
        (rule for rule in known if rule.id in words), key=lambda rule: len(rule.id), default=None
    )
