"""From a verb and a conf to all that a submit sends and remembers. Nothing is created here."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher import nodes
from launcher.backend_base import Backend, Manifest
from launcher.code_pin import pin
from launcher.conf.nodes import Origin
from launcher.conf.resolve import Experiment, key_path, resolve, seen_at
from launcher.conf.schema import JobConf, SweepConf, TolerationConf, VolumeConf
from launcher.errors import ConfError, Fault
from launcher.profiles import ClusterProfile
from launcher.recorded import fields_of
from launcher.records import RunRecord
from launcher.render import TRIALS_FILE, render
from launcher.spec import CodePin, JobSpec, Mount, Resources, SecretKey
from launcher.sweep import Trials, expand
from launcher.version import VERSION

WEBHOOK = "VIDJOBS_WEBHOOK"  # the variable that the trainer reads
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no look-alikes
_NAME_LETTERS = 6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that could be submitted."""

    spec: JobSpec
    manifests: list[Manifest]
    record: RunRecord
    experiment: Experiment
    trials: Trials | None = None  # of a sweep
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Again:
    """An earlier run that a new one repeats."""

    code: CodePin | None  # None: what the conf says now


def read(
    conf: Path,
    *,
    profile: ClusterProfile,
    backend: Backend,
    sets: Sequence[str] = (),
    name: str | None = None,
    given: Sequence[tuple[Origin, Mapping[str, Any]]] = (),
    environ: Mapping[str, str] | None = None,
) -> Experiment:
    """The conf with all its layers for this cluster; its faults are in it. `environ`: instead of this process's environment."""
    named = [(Origin("--name", "--name"), {"name": name})] if name is not None else []
    return resolve(
        conf,
        profile=profile,
        place=backend.claim_path,
        sets=sets,
        given=[*named, *given],
        environ=environ,
    )


def plan(
    verb: str,
    conf: Path,
    *,
    profile: ClusterProfile,
    backend: Backend,
    sets: Sequence[str] = (),
    source: str | None = None,
    name: str | None = None,
    shards: int | None = None,
    sweep: bool = False,
    again: Again | None = None,
    stable: bool = False,
) -> Plan:
    """Everything about the run, its code pinned. `source` is --from. ConfError with every fault, UserError for a bad source.

    With `sweep` it is all trials of the conf's `sweep:`; else that section is ignored, with a warning. With `again` the code is
    that of an earlier run, and neither the environment nor, but for `sets`, the day changes anything. `stable`: the same conf, code
    and cluster always give the same run's name, and with it the same manifests; for what is shown and not sent.
    """
    environ: Mapping[str, str] | None = {} if again else None
    sets = [*sets, *([f"prepare.shards={shards}"] if shards is not None else [])]
    experiment = read(conf, profile=profile, backend=backend, sets=sets, name=name, environ=environ)
    if source is not None and not experiment.faults:
        from launcher.checkpoint_source import values_from

        values = values_from(
            source, verb, runs=_runs_volume(experiment.job), backend=backend, sets=sets
        )
        given = [(Origin("--from", f"--from {source}"), values)]
        experiment = read(conf, profile=profile, backend=backend, sets=sets, name=name, given=given)
    faults = [
        *experiment.faults,
        *cluster_faults(experiment, profile, backend),
        *_shard_faults(verb, experiment, shards),
    ]
    trials, more = _trials(verb, experiment) if sweep else (None, [])
    if faults + more:
        raise ConfError(faults + more)
    code = again.code if again and again.code else _pinned(experiment, backend)
    letters = (
        _letters_of(
            verb, profile.name, experiment.whole_text, repr(code), trials.text if trials else ""
        )
        if stable
        else _drawn()
    )
    spec = job_spec(verb, experiment, profile, backend, letters=letters, code=code, trials=trials)
    manifests = render(spec)
    record = _record(spec, manifests, experiment, profile=profile, backend=backend)
    warnings = () if trials else tuple(_warnings(experiment))
    return Plan(
        spec=spec,
        manifests=manifests,
        record=record,
        experiment=experiment,
        trials=trials,
        warnings=warnings,
    )


def job_spec(
    verb: str,
    experiment: Experiment,
    profile: ClusterProfile,
    backend: Backend,
    *,
    letters: str,
    code: CodePin,
    trials: Trials | None = None,
) -> JobSpec:
    """The conf's job as the templates want it, under a name that ends with `letters`."""
    job, sweep = experiment.job, experiment.sweep or SweepConf()
    run = f"{experiment.name}-{verb}-{letters}"
    conf_text = experiment.flat_text
    conf_dir = backend.conf_dir(run)
    runs_mount = seen_at(_runs_volume(job), backend.claim_path)
    resource, affinity = gpu_request(job, profile)
    argv = ["python", "-m", "trainer", verb]
    argv += ["--conf", f"{conf_dir}/conf.yaml", "--run", f"{runs_mount}/{run}"]
    if trials:
        argv += ["--trials", f"{conf_dir}/{TRIALS_FILE}"]
    return JobSpec(
        run=run,
        verb=verb,
        name=experiment.name,
        namespace=profile.namespace,
        image=job.image,
        argv=tuple(argv),
        conf_text=conf_text,
        conf_dir=conf_dir,
        code=code,
        code_dir=backend.code_dir(run, code),
        mounts=tuple(_mount(volume, backend) for volume in job.volumes),
        runs_mount=runs_mount,
        resources=_resources(job, resource),
        node_affinity=affinity,
        node_selector=dict(job.node_selector),
        tolerations=tuple(_toleration(each) for each in job.tolerations),
        env=dict(job.env) | ({WEBHOOK: job.webhook.url} if job.webhook and job.webhook.url else {}),
        secret_env=_secret_env(job),
        pull_secrets=job.pull_secrets,
        priority=job.priority,
        queue=job.queue,
        uid=job.user.uid,
        gid=job.user.gid,
        fs_group=job.user.fs_group,
        retries=job.retries,
        nodes=job.nodes,
        join_s=int(job.join_timeout),
        avoid_nodes=job.avoid_nodes,
        shards=_shards(verb, experiment),
        trials=trials.text if trials else "",
        parallelism=min(sweep.parallelism, len(trials)) if trials else 1,
        max_failed=sweep.max_failed if trials else None,
        deadline_s=None if job.deadline is None else int(job.deadline),
        grace_s=int(job.grace),
        ttl_s=int(job.ttl),
        annotations=_annotations(conf_text, code),
    )


def _drawn() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(_NAME_LETTERS))


def _letters_of(*texts: str) -> str:
    """Letters that follow from the texts alone."""
    digest = hashlib.sha256("\0".join(texts).encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:_NAME_LETTERS])


def gpu_request(
    job: JobConf, profile: ClusterProfile
) -> tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """The resource that the wanted GPU types have in common, and the labels that select them. `lint` refuses what has none."""
    kinds = [kind for kind in map(profile.gpu, job.resources.gpu_type) if kind is not None]
    resource = kinds[0].resource if kinds else profile.gpu_resource
    labels: dict[str, list[str]] = {}
    for kind in kinds:
        if kind.label_key:
            labels.setdefault(kind.label_key, []).append(kind.label_value)
    return resource, tuple((key, tuple(values)) for key, values in labels.items())


def gpu_faults(experiment: Experiment, profile: ClusterProfile) -> list[Fault]:
    """GPU types that this cluster has not, and lists that no one request can ask for."""
    origin = experiment.origin(("job", "resources", "gpu_type"))
    groups: dict[str, list[str]] = {}
    faults = []
    for wanted in experiment.job.resources.gpu_type:
        kind = profile.gpu(wanted)
        if kind is None:
            message, hint = (
                f'cluster "{profile.name}" has no GPU type "{wanted}"',
                f"known: {', '.join(profile.gpu_types) or 'none'}",
            )
            faults.append(
                Fault(
                    path="job.resources.gpu_type",
                    message=message,
                    hint=hint,
                    file=origin.file,
                    line=origin.line,
                )
            )
        else:
            groups.setdefault(kind.resource, []).append(wanted)
    if len(groups) > 1:
        named = "; ".join(f"{resource}: {', '.join(types)}" for resource, types in groups.items())
        message = f"a pod asks for one resource, and these types are {len(groups)}: {named}"
        faults.append(
            Fault(
                path="job.resources.gpu_type",
                message=message,
                hint="keep one group",
                file=origin.file,
                line=origin.line,
            )
        )
    return faults


def cluster_faults(
    experiment: Experiment, profile: ClusterProfile, backend: Backend
) -> list[Fault]:
    """What is wrong with the conf on this backend only."""
    if backend.name == "local":
        return []
    faults = gpu_faults(experiment, profile)
    if not experiment.job.image:
        origin = experiment.origin(("job", "image"))
        hint = "job: {image: registry/name:tag@sha256:...}, or `job:` in the cluster profile"
        faults.append(
            Fault(
                path="job.image",
                message="is missing: pods need an image",
                hint=hint,
                file=origin.file,
                line=origin.line,
            )
        )
    return faults


def _shards(verb: str, experiment: Experiment) -> int:
    """Pods that share a `prepare`; 1 also for one shard run by hand (`prepare.shard`). What is no number is the trainer's to refuse."""
    section = experiment.trainer.get("prepare")
    if verb != "prepare" or not isinstance(section, dict) or str(section.get("shard", -1)) != "-1":
        return 1
    wanted = str(section.get("shards", 1))
    return int(wanted) if wanted.isdecimal() else 1


def _shard_faults(verb: str, experiment: Experiment, shards: int | None) -> list[Fault]:
    """Shards of what cannot be shared, or together with nodes: an Indexed Job is exactly one of nodes, trials and shards."""
    faults = []
    if shards is not None and verb != "prepare":
        message = f"only `prepare` is shared among pods, and this is `{verb}`"
        faults.append(
            Fault(
                path="prepare.shards", message=message, hint="leave --shards out", file="--shards"
            )
        )
    if _shards(verb, experiment) > 1 and experiment.job.nodes > 1:
        message = f"is {experiment.job.nodes}, and prepare.shards {_shards(verb, experiment)}: an Indexed Job is one of both"
        faults.append(
            located(
                experiment,
                Fault(
                    path="job.nodes",
                    message=message,
                    hint="job.nodes: 1; each shard is a pod of its own",
                ),
            )
        )
    else:
        faults += [located(experiment, fault) for fault in nodes.faults(verb, experiment.job)]
    return faults


def _trials(verb: str, experiment: Experiment) -> tuple[Trials | None, list[Fault]]:
    """The trials of the conf's sweep, and what is wrong with them: with each, and together with nodes or shards."""
    faults = []
    indexed = {"job.nodes": experiment.job.nodes, "prepare.shards": _shards(verb, experiment)}
    for path, count in indexed.items():
        if count > 1:
            message = f"is {count}, and this is a sweep: an Indexed Job is one of nodes, trials and shards"
            faults.append(located(experiment, Fault(path=path, message=message, hint=f"{path}: 1")))
    try:
        return expand(experiment), faults
    except ConfError as error:
        return None, [*faults, *error.faults]


def _pinned(experiment: Experiment, backend: Backend) -> CodePin:
    try:
        return pin(experiment.job.code, local=backend.name == "local", cwd=Path.cwd())
    except ConfError as error:
        raise ConfError([located(experiment, fault) for fault in error.faults]) from error


def located(experiment: Experiment, fault: Fault) -> Fault:
    """The fault with the place where its key was written."""
    origin = experiment.origin(key_path(fault.path))
    return dataclasses.replace(fault, file=origin.file, line=origin.line)


def _runs_volume(job: JobConf) -> VolumeConf:
    return next(volume for volume in job.volumes if volume.as_ == "runs")


def _mount(volume: VolumeConf, backend: Backend) -> Mount:
    where = backend.claim_path(volume.claim, volume.mount)
    staged = bool(volume.stage_to) and where == volume.mount
    return Mount(
        claim=volume.claim,
        mount=where,
        read_only=volume.read_only,
        stage_to=volume.stage_to if staged else "",
        unpack=volume.unpack and staged,
    )


def _secret_env(job: JobConf) -> tuple[tuple[str, SecretKey], ...]:
    named = [(each.env, SecretKey(secret=each.secret, key=each.key)) for each in job.secrets]
    hook = job.webhook
    return (
        *named,
        *([(WEBHOOK, SecretKey(secret=hook.secret, key=hook.key))] if hook and hook.secret else []),
    )


def _resources(job: JobConf, gpu_resource: str) -> Resources:
    wanted = job.resources
    sizes = {
        "cpu": str(wanted.cpu),
        "memory": str(wanted.memory),
        "shm": str(wanted.shm),
        "scratch": str(wanted.scratch),
    }
    return Resources(gpu_resource=gpu_resource, gpus=wanted.gpus, **sizes)


def _toleration(each: TolerationConf) -> dict[str, str]:
    return {key: value for key, value in dataclasses.asdict(each).items() if value}


def _annotations(conf_text: str, code: CodePin) -> dict[str, str]:
    found = {
        "vidjobs/version": VERSION,
        "vidjobs/conf-sha256": hashlib.sha256(conf_text.encode()).hexdigest(),
    }
    return found | ({"vidjobs/commit": code.commit} if code.commit else {})


def _record(
    spec: JobSpec,
    manifests: list[Manifest],
    experiment: Experiment,
    *,
    profile: ClusterProfile,
    backend: Backend,
) -> RunRecord:
    return RunRecord(
        run=spec.run,
        verb=spec.verb,
        name=spec.name,
        created=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        backend=backend.name,
        cluster=profile.name,
        context=profile.context,
        namespace=profile.namespace,
        directory=str(Path.cwd()),
        runs_claim=_runs_volume(experiment.job).claim,
        runs_mount=spec.runs_mount,
        image=spec.image,
        commit=spec.code.commit,
        code=fields_of(spec.code),
        conf_text=spec.conf_text,
        whole_conf=experiment.whole_text,
        manifests=manifests,
    )


def _warnings(experiment: Experiment) -> list[str]:
    if experiment.sweep is not None:
        return [
            "the conf has a `sweep:`, which `submit` ignores: one run of the conf as it stands (`vidjobs sweep submit` runs all trials)"
        ]
    return []
