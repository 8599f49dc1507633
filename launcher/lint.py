"""Rules of sites and of good sense, checked offline on a resolved conf. Each finding has an id, the reason, its source and the fix.

Some rules hold by construction and need no check: limits equal requests, `ttl` is always set, nothing sleeps in a Job.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher.conf.resolve import Experiment, key_path
from launcher.conf.schema import JobConf
from launcher.conf.units import amount
from launcher.profiles import ClusterProfile

_NRP = "https://nrp.ai/documentation/userdocs"
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW(OR)?D|API_?KEY|ACCESS_?KEY|CREDENTIAL|PRIVATE_?KEY", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\b(ghp|gho|ghs|github_pat|glpat|hf|sk|xox[abp])[-_][A-Za-z0-9_-]{16,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)
_NRP_PRIORITIES = ("", "opportunistic", "opportunistic2", "owner-no-preempt", "armada-default")
_NRP_TAINTS = ("nautilus.io/science-dmz", "nautilus.io/arm64", "nautilus.io/hardware", "nautilus.io/large-gpu", "nvidia.com/gpu")


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
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        fix = f"; {self.fix}" if self.fix else ""
        source = f" [{self.source}]" if self.source else ""
        return f"{where}{self.severity} {self.rule}: {self.path} {self.message}{fix}{source}"


@dataclass(frozen=True)
class _Facts:
    """What rules look at."""

    job: JobConf
    profile: ClusterProfile
    data_root: str
    parallelism: int

    @property
    def gpus(self) -> int:
        return self.job.resources.gpus * self.job.nodes * self.parallelism

    @property
    def gpu_resources(self) -> set[str]:
        """Resource names of the wanted GPU types."""
        kinds = [self.profile.gpu(name) for name in self.job.resources.gpu_type]
        return {kind.resource.removeprefix("nvidia.com/") for kind in kinds if kind is not None}


@dataclass(frozen=True, kw_only=True)
class _Rule:
    id: str
    path: str
    broken: Callable[[_Facts], str]  # what is wrong, with the value; "" when nothing is
    fix: str
    source: str
    severity: str = "warning"


def lint(experiment: Experiment, profile: ClusterProfile) -> list[Finding]:
    """Every rule of the profile's site that the conf breaks, errors first. Nothing is contacted."""
    data = experiment.trainer.get("data")
    root = str(data.get("root", "")) if isinstance(data, dict) else ""
    parallelism = experiment.sweep.parallelism if experiment.sweep else 1
    facts = _Facts(experiment.job, profile, root, parallelism)
    found = [_finding(experiment, rule, rule.broken(facts)) for site in _SITES[profile.rules] for rule in site]
    return sorted((each for each in found if each.message), key=lambda each: each.severity)


def _finding(experiment: Experiment, rule: _Rule, message: str) -> Finding:
    origin = experiment.origin(key_path(rule.path))
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        path=rule.path,
        message=message,
        fix=rule.fix,
        source=rule.source,
        file=origin.file,
        line=origin.line,
    )


def _secret_literals(facts: _Facts) -> str:
    names = [name for name, value in facts.job.env.items() if (value and _SECRET_NAME.search(name)) or _SECRET_VALUE.search(value)]
    return f"holds what looks like a secret: {', '.join(names)}; everybody who may read Jobs reads it" if names else ""


def _unlisted_gpus(facts: _Facts) -> str:
    known = [name.lower() for name in facts.profile.gpu_types]
    strange = [name for name in facts.job.resources.gpu_type if known and name.lower() not in known]
    return (
        f"{', '.join(strange)} is not among the types known of {facts.profile.name}; no such node means Pending for ever" if strange else ""
    )


def _no_digest(facts: _Facts) -> str:
    image = facts.job.image
    return f'"{image}" is a name that can be moved: a retry may run another image' if image and "@sha256:" not in image else ""


def _data_outside(facts: _Facts) -> str:
    places = [volume.stage_to or volume.mount for volume in facts.job.volumes]
    root = PurePosixPath(facts.data_root or "/")
    if not facts.data_root.startswith("/") or any(root.is_relative_to(place) for place in places):
        return ""
    return f'"{facts.data_root}" lies on none of the volumes ({", ".join(places)})'


def _gated(facts: _Facts) -> str:
    gated = facts.gpu_resources & {"h100", "h200", "gh200"}
    if not gated or facts.job.priority.startswith("opportunistic"):
        return ""
    return f"asks for {', '.join(sorted(gated))}, of which a namespace may have none"


def _a100(facts: _Facts) -> str:
    return "asks for a100, of which a namespace has none until it is granted some" if "a100" in facts.gpu_resources else ""


def _priority(facts: _Facts) -> str:
    return f'"{facts.job.priority}" is refused by a quota' if facts.job.priority not in _NRP_PRIORITIES else ""


def _too_many_on_a_node(facts: _Facts) -> str:
    return f"is {facts.job.resources.gpus}; a pod gets at most 8" if facts.job.resources.gpus > 8 else ""


def _many_gpus(facts: _Facts) -> str:
    return f"{facts.gpus} GPUs at once" if facts.gpus > 50 else ""


def _scratch(facts: _Facts) -> str:
    wanted = facts.job.resources.scratch
    return f"is {wanted}; pods with more than 50Gi of local disk may be evicted" if amount(wanted) > amount("50Gi") else ""


def _taints(facts: _Facts) -> str:
    wrong = [each.key or "(every taint)" for each in facts.job.tolerations if each.key not in _NRP_TAINTS]
    return f"tolerates {', '.join(wrong)}; reservations, system and broken nodes are not for users" if wrong else ""


_KUBERNETES = "https://kubernetes.io/docs/concepts"
_GENERIC = (
    _Rule(
        id="secret-in-env",
        severity="error",
        path="job.env",
        broken=_secret_literals,
        fix="job.secrets: [{env: NAME, secret: SECRET, key: KEY}]",
        source=f"{_KUBERNETES}/configuration/secret/",
    ),
    _Rule(
        id="gpu-type-unknown",
        path="job.resources.gpu_type",
        broken=_unlisted_gpus,
        fix="`kubectl get nodes -L nvidia.com/gpu.product` shows the names; add it to the cluster profile",
        source="the cluster profile",
    ),
    _Rule(
        id="image-digest",
        path="job.image",
        broken=_no_digest,
        fix="append @sha256:...",
        source=f"{_KUBERNETES}/containers/images/",
    ),
    _Rule(
        id="data-outside",
        path="data.root",
        broken=_data_outside,
        fix='a volume with `as: data`, and root: "${data}/..."',
        source="vidjobs: what a pod sees is what is mounted",
    ),
    _Rule(
        id="no-retries",
        path="job.retries",
        broken=lambda facts: "is 0: one bad node ends the run" if facts.job.retries == 0 else "",
        fix="retries: 5; runs resume from their last checkpoint, and errors of conf or data are not retried",
        source=f"{_KUBERNETES}/workloads/controllers/job/",
    ),
    _Rule(
        id="short-grace",
        path="job.grace",
        broken=lambda facts: f"is {facts.job.grace} s; a checkpoint may not be written in time" if facts.job.grace < 30 else "",
        fix="grace: 120s",
        source=f"{_KUBERNETES}/workloads/pods/pod-lifecycle/",
    ),
    _Rule(
        id="short-ttl",
        path="job.ttl",
        broken=lambda facts: f"is {facts.job.ttl} s; the Job's logs go with it" if facts.job.ttl < 3600 else "",
        fix="ttl: 7d",
        source=f"{_KUBERNETES}/workloads/controllers/ttlafterfinished/",
    ),
)
_NRP_RULES = (
    _Rule(
        id="nrp-gated-gpu",
        severity="error",
        path="job.resources.gpu_type",
        broken=_gated,
        fix="priority: opportunistic (may be preempted at any time), or another type",
        source=f"{_NRP}/running/gpu-pods/",
    ),
    _Rule(
        id="nrp-a100",
        path="job.resources.gpu_type",
        broken=_a100,
        fix="fill in the A100 form first, or take another type",
        source=f"{_NRP}/running/gpu-pods/",
    ),
    _Rule(
        id="nrp-priority",
        severity="error",
        path="job.priority",
        broken=_priority,
        fix=f"one of {', '.join(_NRP_PRIORITIES[1:])}, or leave it out",
        source=f"{_NRP}/running/scheduling/",
    ),
    _Rule(
        id="nrp-gpus-per-pod",
        severity="error",
        path="job.resources.gpus",
        broken=_too_many_on_a_node,
        fix="gpus: 8 or fewer",
        source=f"{_NRP}/start/policies/",
    ),
    _Rule(
        id="nrp-many-gpus",
        path="job.resources.gpus",
        broken=_many_gpus,
        fix="present the plan in Nautilus Support first, or lower sweep.parallelism",
        source=f"{_NRP}/start/policies/",
    ),
    _Rule(
        id="nrp-scratch",
        path="job.resources.scratch",
        broken=_scratch,
        fix="50Gi or less; leave large data on its volume",
        source=f"{_NRP}/storage/local/",
    ),
    _Rule(
        id="nrp-tolerations",
        severity="error",
        path="job.tolerations",
        broken=_taints,
        fix=f"only {', '.join(_NRP_TAINTS)}",
        source=f"{_NRP}/running/special/",
    ),
)
_SITES: dict[str, tuple[tuple[_Rule, ...], ...]] = {"": (), "generic": (_GENERIC,), "nrp": (_GENERIC, _NRP_RULES)}
