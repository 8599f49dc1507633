"""What conditions cannot say: small predicates that rules name. Each gives what is wrong, or "". Pure but for script files it reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from launcher.conf.units import amount
from launcher.rules import shell
from launcher.rules.paths import pod_spec

if TYPE_CHECKING:
    from launcher.conf.resolve import Experiment
    from launcher.profiles import ClusterProfile

_SCRIPT = re.compile(r"[\w./-]+\.(?:sh|bash)\b")
_INSTALLS = re.compile(
    r"\b(?:pip3?|uv pip|conda|mamba|micromamba)\s+(?:\S+\s+)*?(?:install|create)\b"
)
_PLACES = re.compile(
    r"^(?:PIP_(?:TARGET|PREFIX|ROOT|SRC)|PYTHONUSERBASE|CONDA_(?:ENVS_PATH|ENVS_DIRS|PKGS_DIRS|PREFIX)|VIRTUAL_ENV|HOME)$"
)
# of a storage class -> of a node's label
_REGIONS = {"central": "central", "south-east": "southeast", "east": "east", "pacific": "west"}
_ONE_NODE = re.compile(r"rook-ceph-block|linstor|ceph-rbd")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What predicates look at. Without an experiment the manifest is nobody's conf (a claim, a helper pod)."""

    manifest: Mapping[str, Any]
    profile: ClusterProfile
    experiment: Experiment | None = None

    @property
    def pod(self) -> Mapping[str, Any]:
        found = pod_spec(self.manifest)
        return found.value if found else {}

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.pod.get("initContainers", []), *self.pod.get("containers", [])]

    @property
    def pods_at_once(self) -> int:
        return int(self.manifest.get("spec", {}).get("parallelism") or 1)


def _scripts(facts: Facts) -> Iterator[tuple[str, str]]:
    """(where, script) of every command, of scripts on this machine that commands or variables name, and of variables."""
    for container in facts.containers:
        words = [
            str(word).replace("$$", "$")
            for word in [*container.get("command", []), *container.get("args", [])]
        ]
        variables = {
            str(each["name"]): str(each["value"])
            for each in container.get("env", [])
            if each.get("value")
        }
        yield f'container "{container.get("name", "")}"', shell.inner_script(words)
        for name, value in variables.items():
            if re.search(r"\b(?:sleep|tail)\b", value):
                yield f"variable {name}", value
        for text in (*words, *variables.values()):
            for path in _SCRIPT.findall(text) if len(text) < 4096 else []:
                if (file := Path(path)).is_file() and file.stat().st_size < 1 << 20:
                    yield path, file.read_text(encoding="utf-8", errors="replace")


def sleeps(facts: Facts) -> str:
    for where, script in _scripts(facts):
        if found := shell.idles(script):
            return f"{where} idles: {found}"
    return ""


def installs_on_claims(facts: Facts) -> str:
    """pip, conda and home folders that lie on a claim."""
    claims = {
        str(each["name"])
        for each in facts.pod.get("volumes", [])
        if "persistentVolumeClaim" in each
    }
    for container in facts.containers:
        mounts = [
            PurePosixPath(each["mountPath"])
            for each in container.get("volumeMounts", [])
            if each["name"] in claims
        ]
        for each in container.get("env", []):
            value = str(each.get("value", ""))
            if (
                _PLACES.match(each["name"])
                and value.startswith("/")
                and any(PurePosixPath(value).is_relative_to(at) for at in mounts)
            ):
                return f"sets {each['name']} to {value}, which lies on a claim"
        texts = [
            shell.inner_script(
                [str(word) for word in [*container.get("command", []), *container.get("args", [])]]
            )
        ]
        texts += [str(each.get("value", "")) for each in container.get("env", [])]
        for text in texts:
            if _INSTALLS.search(text) and any(
                re.search(rf"{re.escape(str(at))}(/|\b)", text) for at in mounts
            ):
                return f'installs packages on a claim: "{_INSTALLS.search(text)[0]} ..."'  # type: ignore[index]
    return ""


def unlisted_gpus(facts: Facts) -> str:
    if facts.experiment is None:
        return ""
    known = [name.lower() for name in facts.profile.gpu_types]
    strange = [
        name
        for name in facts.experiment.job.resources.gpu_type
        if known and name.lower() not in known
    ]
    return (
        f"{', '.join(strange)} is not among the types known of {facts.profile.name}"
        if strange
        else ""
    )


def data_outside(facts: Facts) -> str:
    # which sees all of this machine
    if facts.experiment is None or facts.profile.backend == "local":
        return ""
    data = facts.experiment.trainer.get("data")
    written = str(data.get("root", "")) if isinstance(data, dict) else ""
    places = [volume.stage_to or volume.mount for volume in facts.experiment.job.volumes]
    if not written.startswith("/") or any(
        PurePosixPath(written).is_relative_to(place) for place in places
    ):
        return ""
    return f'"{written}" lies on none of the volumes ({", ".join(places)})'


def _processes_and_workers(facts: Facts) -> tuple[int, int] | None:
    """Trainer processes and data workers of each, as far as the conf tells; None for a training on the CPU, which takes all cores."""
    if facts.experiment is None or not facts.experiment.job.resources.gpus:
        return None
    compute = facts.experiment.trainer.get("compute")
    wanted = str(compute.get("workers", "auto")) if isinstance(compute, dict) else "auto"
    return facts.experiment.job.resources.gpus, int(wanted) if wanted.isdecimal() else 8


def too_many_cores(facts: Facts) -> str:
    """Cores of which the trainer cannot use the site's least share: one a process, one a data worker."""
    least, found = (facts.profile.bands.cpu or (0,))[0], _processes_and_workers(facts)
    if found is None or facts.experiment is None:
        return ""
    processes, workers = found
    asked, used = amount(str(facts.experiment.job.resources.cpu)), processes * (1 + workers)
    share = 100 * used / asked
    return (
        f"is {asked}, and the trainer keeps at most {used} busy: {share:.0f}%, below {least}%"
        if share < least
        else ""
    )


def too_much_memory(facts: Facts) -> str:
    """8 GiB a process and 2 GiB a data worker is more than trainings of this kind were seen to use."""
    least, found = (facts.profile.bands.memory or (0,))[0], _processes_and_workers(facts)
    if found is None or facts.experiment is None:
        return ""
    processes, workers = found
    wanted = facts.experiment.job.resources.memory
    used = processes * (8 + 2 * workers)
    share = 100 * used * 1024**3 / float(amount(str(wanted)))
    return (
        f"is {wanted}, and the trainer uses about {used}Gi at most: {share:.0f}%, below {least}%"
        if share < least
        else ""
    )


def one_node_class(facts: Facts) -> str:
    """Several pods at once on volumes of a class that one node mounts at a time."""
    storage = facts.profile.storage_class
    if facts.pods_at_once < 2 or not _ONE_NODE.search(storage):
        return ""
    return f"{facts.pods_at_once} pods at once mount claims, and the profile's class {storage} is mounted by one node at a time (RWO)"


def far_region(facts: Facts) -> str:
    """Pods held to another region than their storage's."""
    held = str(facts.pod.get("nodeSelector", {}).get("topology.kubernetes.io/region", "")).replace(
        "-", ""
    )
    storage = next(
        (ends for ends in _REGIONS if facts.profile.storage_class.endswith(f"-{ends}")), ""
    )
    if (
        not held
        or not storage
        or (held.endswith(_REGIONS[storage]) and not (storage == "east" and "south" in held))
    ):
        return ""
    selector = facts.pod["nodeSelector"]["topology.kubernetes.io/region"]
    return f"holds pods to {selector}, and the profile's storage class {facts.profile.storage_class} is far from there"


CHECKS: dict[str, Callable[[Facts], str]] = {
    "sleeps": sleeps,
    "installs_on_claims": installs_on_claims,
    "unlisted_gpus": unlisted_gpus,
    "data_outside": data_outside,
    "too_many_cores": too_many_cores,
    "too_much_memory": too_much_memory,
    "one_node_class": one_node_class,
    "far_region": far_region,
}
