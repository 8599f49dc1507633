"""Cluster profiles: what a cluster calls its GPUs, what its pods need, and whose rules hold there.

Looked up in `./conf/clusters`, then `$XDG_CONFIG_HOME/vidjobs/clusters`, then `launcher/clusters`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher import output
from launcher.conf.convert import convert
from launcher.conf.nodes import Node, plain
from launcher.conf.schema import TolerationConf, VolumeConf
from launcher.conf.yaml_source import read_file
from launcher.errors import ConfError, Fault, UserError, did_you_mean
from launcher.rules.model import Rule, problems

SHIPPED = Path(__file__).parent / "clusters"


@dataclass(frozen=True, kw_only=True)
class GpuType:
    """How one type of GPU is asked for."""

    resource: str = "nvidia.com/gpu"
    label_key: str = ""  # node label that selects the type; "" when the resource alone does
    label_value: str = ""


@dataclass(frozen=True, kw_only=True)
class Bands:
    """What share of its request a pod has to use, in percent; () where the site has no such rule."""

    gpu: tuple[int, ...] = ()  # (least,): mean utilisation since the pod's start
    cpu: tuple[int, ...] = ()  # (least, most) of the cores
    memory: tuple[int, ...] = ()  # (least, most)


@dataclass(frozen=True, kw_only=True)
class _UserConfig:
    """The keys of config.yaml."""

    cluster: str = ""  # a profile's name


@dataclass(frozen=True, kw_only=True)
class _ProfileFile:
    """The keys of a profile's file."""

    about: str = ""  # one line for `vidjobs clusters`
    backend: Literal["kube", "local"] = "kube"
    context: str = ""  # kubeconfig context; "" = the current one
    namespace: str = ""  # "" = the context's
    gpu_resource: str = "nvidia.com/gpu"
    # node label with the product's name, for types that have no resource of their own; "" = only
    # the types listed
    gpu_label: str = ""
    # type -> resource of its own, or "" when it is a value of gpu_label
    gpu_types: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[TolerationConf, ...] = ()
    storage_class: str = ""  # of new volumes; "" = the cluster's default
    volumes: tuple[VolumeConf, ...] = ()  # of confs that name none
    # other defaults of `job`: image, pull_secrets, queue, ...
    job: dict[str, Any] = field(default_factory=dict)
    # site rules of `vidjobs lint`; None: generic, on this machine none
    rules: Literal["generic", "nrp", ""] | None = None
    # more of them, in the form of launcher/rules/generic.yaml; also in ./conf/rules/*.yaml
    own_rules: tuple[Rule, ...] = ()
    ignore_rules: tuple[str, ...] = ()  # ids of rules that do not hold here
    bands: Bands = field(default_factory=Bands)  # of use, which `vidjobs status` judges
    directories: dict[str, str] = field(
        default_factory=dict
    )  # local only: claim -> directory, from the profile's own folder; "~" is your home
    # local only: delay before the first retry; it doubles (clusters start at 10 s)
    retry_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ClusterProfile:
    """One cluster, or this machine."""

    name: str
    backend: str = "kube"
    context: str = ""
    namespace: str = ""
    gpu_types: dict[str, GpuType] = field(default_factory=dict)
    gpu_resource: str = "nvidia.com/gpu"
    gpu_label: str = ""
    storage_class: str = ""
    rules: str = "generic"
    own_rules: tuple[Rule, ...] = ()
    ignore_rules: tuple[str, ...] = ()
    bands: Bands = field(default_factory=Bands)
    about: str = ""
    file: str = ""  # where it was read
    # claim -> absolute directory of this machine
    directories: dict[str, str] = field(default_factory=dict)
    retry_s: float = 1.0
    layer: dict[str, Any] = field(default_factory=dict)  # as a conf would write it

    def at(self, *, context: str, namespace: str) -> ClusterProfile:
        """The same cluster in another context and namespace."""
        return dataclasses.replace(self, context=context, namespace=namespace)

    def conf_layer(self) -> dict[str, Any]:
        """Values under every conf on this cluster."""
        return self.layer

    def gpu(self, name: str) -> GpuType | None:
        """How a GPU type is asked for; None when this cluster has no such type. Case does not matter.

        With a product label, a name that the profile does not list is taken as the label's value.
        """
        for known, kind in self.gpu_types.items():
            if known.lower() == name.lower():
                return kind
        return (
            GpuType(resource=self.gpu_resource, label_key=self.gpu_label, label_value=name)
            if self.gpu_label
            else None
        )


def load(name: str, *, near: str = "") -> ClusterProfile:
    """The profile called `name`. `near`: a directory whose own `conf/clusters` comes first.

    UserError when there is none, ConfError when its file is wrong.
    """
    if re.fullmatch(r"[A-Za-z0-9][-._A-Za-z0-9]*", name):
        for folder in [*([Path(near, "conf", "clusters")] if near else []), *_folders()]:
            path = folder / f"{name}.yaml"
            if path.is_file():
                return _read(path)
    known = available()
    raise UserError(
        f'no cluster profile is called "{name}"',
        hint=did_you_mean(name, known) or f"known: {', '.join(known)}",
    )


def available() -> list[str]:
    """Names of all profiles, sorted; one of ours is hidden by one of yours with the same name."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def choose(name: str | None = None) -> ClusterProfile:
    """`--cluster`, else VIDJOBS_CLUSTER, else `cluster:` of the user's config, else this machine, and says so."""
    chosen = name or os.environ.get("VIDJOBS_CLUSTER") or configured()
    if chosen:
        return load(chosen)
    output.note(
        f"no cluster is configured: using this machine (`vidjobs init --cluster NAME` or --cluster; known: {', '.join(available())})"
    )
    return load("local")


def config_dir() -> Path:
    """`$XDG_CONFIG_HOME/vidjobs`, by default `~/.config/vidjobs`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vidjobs"


def configured() -> str:
    """`cluster:` of the user's config; "" when there is none."""
    path = config_dir() / "config.yaml"
    if not path.is_file():
        return ""
    node, faults = read_file(path, "user config")
    if node is None:
        raise ConfError(faults)
    config, more = convert(node, _UserConfig, ())
    if faults or more or config is None:
        raise ConfError([*faults, *more])
    return config.cluster


def _folders() -> list[Path]:
    return [Path.cwd() / "conf" / "clusters", config_dir() / "clusters", SHIPPED]


def _read(path: Path) -> ClusterProfile:
    node, faults = read_file(path, "cluster profile")
    if node is None:
        raise ConfError(faults)
    file, more = convert(node, _ProfileFile, ())
    if faults or more or file is None:
        raise ConfError([*faults, *more])
    if wrong := problems(file.own_rules, node, key="own_rules") + _band_problems(file.bands, node):
        raise ConfError(wrong)
    return ClusterProfile(
        name=path.stem,
        backend=file.backend,
        context=file.context,
        namespace=file.namespace,
        gpu_types={
            name: _gpu_type(file, name, resource) for name, resource in file.gpu_types.items()
        },
        gpu_resource=file.gpu_resource,
        gpu_label=file.gpu_label,
        storage_class=file.storage_class,
        rules=("" if file.backend == "local" else "generic") if file.rules is None else file.rules,
        own_rules=file.own_rules,
        ignore_rules=file.ignore_rules,
        bands=file.bands,
        about=file.about,
        file=str(path),
        directories={
            claim: str((path.parent / Path(folder).expanduser()).resolve())
            for claim, folder in file.directories.items()
        },
        retry_s=file.retry_s,
        layer=_layer(node, file),
    )


def _band_problems(bands: Bands, node: Node) -> list[Fault]:
    wrong = {"gpu": len(bands.gpu) > 1} | {
        key: len(pair) not in (0, 2) or list(pair) != sorted(pair)
        for key, pair in _pairs(bands).items()
    }
    form = {"gpu": "gpu: 40", "cpu": "cpu: [20, 200]", "memory": "memory: [20, 150]"}
    file, line = node.origin.file, node.value["bands"].origin.line if "bands" in node.value else 0
    return [
        Fault(path=f"bands.{key}", message="is no band", hint=form[key], file=file, line=line)
        for key, bad in wrong.items()
        if bad
    ]


def _pairs(bands: Bands) -> dict[str, tuple[int, ...]]:
    return {"cpu": bands.cpu, "memory": bands.memory}


def _gpu_type(file: _ProfileFile, name: str, resource: str) -> GpuType:
    if resource:
        return GpuType(resource=resource)
    return GpuType(resource=file.gpu_resource, label_key=file.gpu_label, label_value=name)


def _layer(node: Node, file: _ProfileFile) -> dict[str, Any]:
    """Tolerations, volumes and `job:` of the file, as the `job` section of a conf."""
    written = {
        key: plain(node.value[key]) for key in ("tolerations", "volumes") if key in node.value
    }
    job = {**file.job, **written}
    return {"job": job} if job else {}
