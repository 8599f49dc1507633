"""One conf file to one experiment: layers merged, references substituted, `job` and `sweep` typed, the rest handed to the trainer.

All faults are collected; `resolve` never stops at the first.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from launcher import safe_yaml
from launcher.conf.checks import is_claim, job_problems, name_problem
from launcher.conf.convert import convert, fault_at, key_of, unknown_key
from launcher.conf.layers import environment_layer, file_layer, given_layer, set_layer
from launcher.conf.nodes import KeyPath, Node, Origin, find, from_plain, merge, plain, without_nulls
from launcher.conf.references import substitute
from launcher.conf.schema import TRAINER_SECTIONS, JobConf, SweepConf, VolumeConf
from launcher.conf.units import Seconds
from launcher.errors import ConfError, Fault

SECTIONS = ("name", "job", "sweep", *TRAINER_SECTIONS)


class Profile(Protocol):
    """What of a cluster profile is a layer of a conf."""

    @property
    def name(self) -> str: ...

    def conf_layer(self) -> dict[str, Any]:
        """Values under every conf on this cluster, as a conf would write them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A resolved conf. With faults, the places that have them hold defaults."""

    path: Path
    name: str
    job: JobConf
    sweep: SweepConf | None
    tree: Node  # everything, with origins
    faults: tuple[Fault, ...] = ()
    trainer: dict[str, Any] = field(default_factory=dict)  # the flat conf

    @property
    def flat_text(self) -> str:
        """The conf as the trainer reads it: its own sections, resolved."""
        return _text(self.trainer)

    @property
    def whole_text(self) -> str:
        """All sections resolved, as a conf file that needs no other layer."""
        return _text(_bare(plain(self.tree)))

    def origin(self, path: KeyPath) -> Origin:
        """Where a key path was written, or the nearest one above it; at worst the conf file itself."""
        for length in range(len(path), 0, -1):
            node = find(self.tree, path[:length])
            if node is not None and node.origin.file:
                return node.origin
        return Origin("file", str(self.path))

    def sound(self) -> Experiment:
        """Itself, or ConfError with every fault."""
        if self.faults:
            raise ConfError(self.faults)
        return self


Place = Callable[[str, str], str]  # (claim, mount) -> where the trainer sees it: Backend.claim_path


def resolve(
    path: Path,
    *,
    profile: Profile,
    place: Place,
    sets: Sequence[str] = (),
    given: Sequence[tuple[Origin, Mapping[str, Any]]] = (),
    environ: Mapping[str, str] | None = None,
) -> Experiment:
    """Read `path` and all its layers. `given`: what --name and --from set, last of all."""
    tree, faults = _merged(
        path, profile, sets=sets, given=given, environ=os.environ if environ is None else environ
    )
    tree, volumes = _early_volumes(tree)
    tree, more = substitute(tree, places(volumes, place))
    faults += more
    name, job, sweep, more = _own_sections(tree)
    faults += more
    trainer = {key: plain(tree.value[key]) for key in TRAINER_SECTIONS if key in tree.value}
    for key, node in tree.value.items():
        if key not in SECTIONS:
            faults.append(unknown_key(node, (key,), SECTIONS))
    return Experiment(
        path=path,
        name=name,
        job=job,
        sweep=sweep,
        tree=tree,
        faults=tuple(dict.fromkeys(faults)),
        trainer=trainer,
    )


def places(volumes: Sequence[VolumeConf], place: Place) -> dict[str, str]:
    """What ${runs} and ${data} stand for. A claim that cannot be one is told as a fault later; no backend is asked where it is."""
    return {
        volume.as_: seen_at(volume, place) if is_claim(volume.claim) else volume.mount
        for volume in volumes
        if volume.as_
    }


def seen_at(volume: VolumeConf, place: Place) -> str:
    """Where the trainer finds a volume's files.

    A place other than the mount is a directory of this machine already: staging it would copy for nothing.
    """
    where = place(volume.claim, volume.mount)
    return volume.stage_to if volume.stage_to and where == volume.mount else where


def _merged(
    path: Path,
    profile: Profile,
    *,
    sets: Sequence[str],
    given: Sequence[tuple[Origin, Mapping[str, Any]]],
    environ: Mapping[str, str],
) -> tuple[Node, list[Fault]]:
    from_file, faults = file_layer(path)
    from_environment, more = environment_layer(environ)
    from_sets, most = set_layer(sets)
    default_name = path.stem.lower().replace("_", "-").replace(".", "-")
    tree = from_plain({"name": default_name, "job": _defaults()}, Origin("default"))
    layers = [
        from_plain(
            profile.conf_layer(), Origin("cluster profile", f"cluster profile {profile.name}")
        ),
        from_file,
        from_environment,
        from_sets,
    ]
    for layer in (*layers, *(given_layer(values, origin) for origin, values in given)):
        tree = merge(tree, layer)
    return without_nulls(tree), [*faults, *more, *most]


def _bare(value: Any) -> Any:
    """Amounts, which are numbers and texts of classes of their own, as YAML writes them."""
    if isinstance(value, dict):
        return {key: _bare(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(child) for child in value]
    return next(
        (
            kind(value)
            for kind in (str, float, int)
            if isinstance(value, kind) and not isinstance(value, bool)
        ),
        value,
    )


def _text(conf: dict[str, Any]) -> str:
    text = _dump(conf, allow_unicode=True)
    same = safe_yaml.load(text) == conf
    # PyYAML does not quote U+0085 and its like so that they survive
    return text if same else _dump(conf, allow_unicode=False)


def _dump(conf: dict[str, Any], *, allow_unicode: bool) -> str:
    return str(
        yaml.dump(
            conf, Dumper=safe_yaml.DUMPER, sort_keys=False, allow_unicode=allow_unicode, width=1000
        )
    )


def _defaults() -> dict[str, Any]:
    """`job` as a conf would write it when it said nothing."""
    as_written = {
        key_of(each): _written(getattr(JobConf(), each.name))
        for each in dataclasses.fields(JobConf)
    }
    return {key: value for key, value in as_written.items() if value is not None} | {
        "code": "worktree"
    }


def _written(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value) if isinstance(value, Seconds) else value


def _early_volumes(tree: Node) -> tuple[Node, tuple[VolumeConf, ...]]:
    """The volumes that can be read, before references are: these give ${runs} and ${data}. Their faults come later."""
    node = find(tree, ("job", "volumes"))
    if node is None or not isinstance(node.value, list):
        return tree, ()
    found = [
        convert(item, VolumeConf, ("job", "volumes", index))
        for index, item in enumerate(node.value)
    ]
    return tree, tuple(volume for volume, _ in found if volume is not None)


def _own_sections(tree: Node) -> tuple[str, JobConf, SweepConf | None, list[Fault]]:
    name_node = tree.value["name"]
    message, hint = name_problem(name_node.text)
    faults = [fault_at(name_node, ("name",), message, hint)] if message else []
    job_node = tree.value["job"]
    job, more = convert(_with_code_kind(job_node), JobConf, ("job",))
    faults += more
    if job is not None:
        faults += [_problem(tree, problem) for problem in job_problems(job)]
    sweep = None
    if "sweep" in tree.value:
        sweep, more = convert(tree.value["sweep"], SweepConf, ("sweep",))
        faults += more
    return name_node.text, job or JobConf(), sweep, faults


def _with_code_kind(job: Node) -> Node:
    """`code: worktree` and `code: {repo: ...}` as the one form that CodeConf has."""
    code = job.value.get("code") if isinstance(job.value, dict) else None
    if code is None:
        return job
    if isinstance(code.value, dict):
        code = Node({"kind": Node("repo", code.origin, "repo")} | code.value, code.origin)
    elif isinstance(code.value, str):
        code = Node({"kind": code}, code.origin)
    return Node(job.value | {"code": code}, job.origin)


def _problem(tree: Node, problem: tuple[str, str, str]) -> Fault:
    """A problem with the place of its value, or of the nearest key above it."""
    where, message, hint = problem
    path = key_path(f"job.{where}")
    for length in range(len(path), 0, -1):
        node = find(tree, path[:length])
        if node is not None:
            return dataclasses.replace(
                fault_at(node, path[:length], message, hint), path=f"job.{where}"
            )
    return Fault(path=f"job.{where}", message=message, hint=hint)


def key_path(text: str) -> KeyPath:
    """ "job.volumes[0].claim" -> ("job", "volumes", 0, "claim")."""
    keys: list[str | int] = []
    for part in text.split("."):
        name, *indices = part.replace("]", "").split("[")
        keys += [name, *(int(index) for index in indices if index.isdigit())]
    return tuple(key for key in keys if key != "")
