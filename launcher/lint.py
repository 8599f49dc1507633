"""Rules of sites and of good sense, checked offline on what would be sent. Each finding has an id, the reason, its source and the fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.conf.resolve import Experiment, key_path
from launcher.profiles import ClusterProfile
from launcher.rules.checks import CHECKS, Facts
from launcher.rules.judge import broken
from launcher.rules.model import Rule
from launcher.site_rules import of_profile

Manifest = Mapping[str, Any]
_NOTHING: Manifest = {"kind": "Job"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule that a conf breaks, and where."""

    rule: str
    severity: str  # "error": will be refused, or gets people banned; "warning"
    path: str
    message: str
    fix: str
    source: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return self._line(f"{self.severity} ")

    @property
    def told(self) -> str:
        """The same for a message that says by itself how severe it is."""
        return self._line("")

    def _line(self, severity: str) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        fix = f"; {self.fix}" if self.fix else ""
        source = f" [{self.source}]" if self.source else ""
        return f"{where}{severity}{self.rule}: {self.path} {self.message}{fix}{source}"


def lint(
    experiment: Experiment, profile: ClusterProfile, manifests: Sequence[Manifest]
) -> list[Finding]:
    """Every rule of the profile's site that the conf breaks, errors first. `manifests`: what would be sent. Nothing is contacted.

    Without manifests (a conf too faulty to be rendered) only the rules that look at the conf are asked.
    """
    rules = of_profile(profile)
    found: dict[tuple[str, str, str], Finding] = {}
    for manifest in manifests or [_NOTHING]:
        facts = Facts(manifest=manifest, profile=profile, experiment=experiment)
        for rule in rules if manifests else [rule for rule in rules if rule.check]:
            for finding in _findings(rule, facts):
                found.setdefault((finding.rule, finding.path, finding.message), finding)
    return sorted(found.values(), key=lambda each: each.severity)


def lint_manifest(manifest: Manifest, profile: ClusterProfile) -> list[Finding]:
    """The same of an object that no conf has made: a claim, a pod for a shell."""
    facts = Facts(manifest=manifest, profile=profile)
    found = [finding for rule in of_profile(profile) for finding in _findings(rule, facts)]
    return sorted(found, key=lambda each: each.severity)


def _findings(rule: Rule, facts: Facts) -> list[Finding]:
    if rule.check:
        said = CHECKS[rule.check](facts) if facts.manifest.get("kind") in rule.kinds else ""
        places = [("", rule.message.replace("{value}", said))] if said else []
    else:
        places = list(broken(rule, facts.manifest))
    return [_finding(rule, facts, path, message) for path, message in places]


def _finding(rule: Rule, facts: Facts, path: str, message: str) -> Finding:
    """At the conf's key that decides it, where the rule names one."""
    origin = facts.experiment.origin(key_path(rule.conf)) if facts.experiment else None
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        path=rule.conf or f"{facts.manifest.get('kind', '')} {path}".strip(),
        message=f"{message}: {rule.why}" if rule.why else message,
        fix=rule.fix,
        source=rule.source,
        file=origin.file if origin else "",
        line=origin.line if origin else 0,
    )
