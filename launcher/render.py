"""A JobSpec to the manifest that is sent. A value of the user's can change a value of the manifest, never its structure.

Each value enters the template quoted. To prove it, the template is rendered a second time with inert words in place of all
texts, both results are parsed, and the two trees must be the same but for those words, each standing for its own text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

import k8s_templates
from launcher import safe_yaml
from launcher.backend_base import Manifest
from launcher.errors import ConfError, Fault
from launcher.nodes import PORT
from launcher.spec import JobSpec, Mount, SecretKey

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(k8s_templates.__file__).parent
RUN_LABEL = "vidjobs/run"
CONF_ANNOTATION = "vidjobs/conf"
DIFF_ANNOTATION = "vidjobs/diff"
TRIALS_ANNOTATION = "vidjobs/trials"
TRIALS_FILE = "trials.jsonl"
MOST_CARRIED = 200_000  # bytes of conf and diff as annotations, of which an object may have 262,144
# Beside what JSON escapes: what YAML calls unprintable, its extra line ends, and all beyond the
# basic plane, which JSON would halve.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff\U00010000-\U0010ffff]")


def render(spec: JobSpec) -> list[Manifest]:
    """The manifests of one run: a Job; before it a ConfigMap for a diff too large for an annotation, a Service for several nodes."""
    size, most = _carried(spec), f"{MOST_CARRIED // 1000} KB travel with a Job"
    if size > MOST_CARRIED and spec.trials:
        hint = "vary less, or split the sweep"
        raise ConfError(
            [
                Fault(
                    path="sweep",
                    message=f"the conf and its trials have {size // 1000} KB; {most}",
                    hint=hint,
                )
            ]
        )
    if size > MOST_CARRIED:
        raise ConfError([Fault(path="", message=f"the conf has {size // 1000} KB; {most}")])
    job = fill("job.yaml.j2", context(spec))
    maps = [fill("config_map.yaml.j2", _apart(spec))] if _diff_map(spec) else []
    services = [fill("service.yaml.j2", _meeting(spec))] if spec.nodes > 1 else []
    return [*maps, *services, job]


def to_yaml(manifests: list[Manifest]) -> str:
    """The manifests as a person reads them, the same bytes for the same manifests; texts of several lines as blocks."""
    return "---\n".join(
        str(yaml.dump(each, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=160))
        for each in manifests
    )


@cache
def _dumper() -> Any:
    class Dumper(safe_yaml.DUMPER):  # type: ignore[misc]
        """Blocks for texts of several lines."""

        def ignore_aliases(self, _data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        style = (
            "|"
            if "\n" in value
            and not re.search(r"[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff]|\s\n|^\s", value)
            else None
        )
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def context(spec: JobSpec) -> dict[str, Any]:
    """What the templates read. Here, and only here, `$` is doubled where Kubernetes would expand `$(VAR)`: in args and env."""
    workspace = workspace_dir(spec)
    volumes = _claim_volumes(spec.mounts)
    staged = [mount for mount in spec.mounts if mount.stage_to]
    secrets = [_secret(name, key) for name, key in spec.secret_env]
    return {
        "run": spec.run,
        "namespace": spec.namespace,
        "image": spec.image,
        "labels": _pairs(_labels(spec)),
        "job_labels": _pairs(
            _labels(spec) | ({"kueue.x-k8s.io/queue-name": spec.queue} if spec.queue else {})
        ),
        "job_annotations": _pairs(spec.annotations),
        "pod_annotations": _pairs(
            {CONF_ANNOTATION: spec.conf_text}
            | ({TRIALS_ANNOTATION: spec.trials} if spec.trials else {})
            | ({DIFF_ANNOTATION: spec.code.diff} if spec.code.diff and not _diff_map(spec) else {})
        ),
        "has_diff": bool(spec.code.diff),
        "has_trials": bool(spec.trials),
        "diff_map": _diff_map(spec),
        "retries": spec.retries,
        "indexed": bool(spec.trials) or spec.shards > 1,
        "completions": spec.trials.count("\n") - 1 if spec.trials else spec.shards,
        "parallelism": spec.parallelism if spec.trials else spec.shards,
        "max_failed": spec.max_failed,
        "nodes": spec.nodes,
        "subdomain": spec.run if spec.nodes > 1 else "",
        "avoid_nodes": list(spec.avoid_nodes),
        "ttl_s": spec.ttl_s,
        "deadline_s": spec.deadline_s,
        "grace_s": spec.grace_s,
        "uid": spec.uid,
        "gid": spec.gid,
        "fs_group": spec.fs_group,
        "pull_secrets": list(spec.pull_secrets),
        "priority": spec.priority,
        "node_selector": _pairs(spec.node_selector),
        "node_affinity": [
            {"key": key, "allowed": list(values)} for key, values in spec.node_affinity
        ],
        "tolerations": [_pairs(toleration) for toleration in spec.tolerations],
        "init_containers": [*_code_container(spec), *_stage_container(spec, staged, volumes)],
        "command": _literal(list(spec.argv[:1])),
        "args": _literal(list(spec.argv[1:])),
        "working_dir": spec.code_dir if spec.code.kind != "image" else "",
        "env": _pairs(_literal(trainer_env(spec))),
        "secrets": secrets,
        "limits": _pairs(_limits(spec, gpu=True)),
        "mounts": [
            *_trainer_mounts(spec, volumes, workspace),
            {"volume": "shm", "path": "/dev/shm", "read_only": False},
        ],
        "claims": [{"volume": name, "claim": claim} for claim, name in volumes.items()],
        "scratch_volumes": ["workspace", *(f"stage-{index}" for index in range(len(staged)))],
        "shm": spec.resources.shm,
    }


def _diff_map(spec: JobSpec) -> str:
    """The ConfigMap that carries the diff; "" when an annotation does."""
    return (
        f"{spec.run}-code" if _carried(spec) + len(spec.code.diff.encode()) > MOST_CARRIED else ""
    )


def _carried(spec: JobSpec) -> int:
    """Bytes that always travel as annotations."""
    return len(spec.conf_text.encode()) + len(spec.trials.encode())


def _apart(spec: JobSpec) -> dict[str, Any]:
    return {
        "name": _diff_map(spec),
        "namespace": spec.namespace,
        "labels": _pairs(_labels(spec)),
        "diff": spec.code.diff,
    }


def _meeting(spec: JobSpec) -> dict[str, Any]:
    """The headless Service that gives pods a name to meet at."""
    return {
        "run": spec.run,
        "namespace": spec.namespace,
        "labels": _pairs(_labels(spec)),
        "port": PORT,
    }


def workspace_dir(spec: JobSpec) -> str:
    """The pod's writable place for code, home and caches, beside the folder of the conf."""
    return str(PurePosixPath(spec.conf_dir).parent / "workspace")


def trainer_env(spec: JobSpec) -> dict[str, str]:
    """The trainer's environment as it will see it; what the conf sets wins over places for caches."""
    home = f"{workspace_dir(spec)}/home"
    places = {
        "HOME": home,  # a bare uid has none, and many packages ask for these
        "USER": "vidjobs",
        "TORCHINDUCTOR_CACHE_DIR": f"{home}/.cache/torchinductor",
        "TRITON_CACHE_DIR": f"{home}/.cache/triton",
        "PYTHONUNBUFFERED": "1",
    }
    facts = {
        "VIDJOBS_RUN": spec.run,
        "VIDJOBS_COMMIT": spec.code.commit,
        "VIDJOBS_DIFF_SHA256": hashlib.sha256(spec.code.diff.encode()).hexdigest()
        if spec.code.diff
        else "",
        "VIDJOBS_IMAGE": spec.image,
        "VIDJOBS_GRACE": str(spec.grace_s),
        "VIDJOBS_VERSION": spec.annotations.get("vidjobs/version", ""),
    }
    group = {
        "VIDJOBS_NODES": str(spec.nodes),
        # Kubernetes names pods of an Indexed Job JOB-INDEX
        "VIDJOBS_MEETING": f"{spec.run}-0.{spec.run}:{PORT}",
        "VIDJOBS_JOIN_TIMEOUT": str(spec.join_s),
    }
    return places | spec.env | facts | (group if spec.nodes > 1 else {})


def _labels(spec: JobSpec) -> dict[str, str]:
    own = {
        RUN_LABEL: spec.run,
        "vidjobs/verb": spec.verb,
        "vidjobs/name": spec.name,
        "app.kubernetes.io/managed-by": "vidjobs",
    }
    return spec.labels | own


def _claim_volumes(mounts: tuple[Mount, ...]) -> dict[str, str]:
    """Claim -> name of its volume: a label of 63 characters, which a claim's name need not be."""
    names: dict[str, str] = {}
    for mount in mounts:
        plain = f"pvc-{mount.claim}"
        fits = len(plain) <= 63 and "." not in plain
        names.setdefault(mount.claim, plain if fits else f"claim-{len(names)}")
    return names


def _code_container(spec: JobSpec) -> list[dict[str, Any]]:
    if not spec.code.repo:  # baked in, or a working tree of this machine that is used as it is
        return []
    env = {
        "HOME": f"{workspace_dir(spec)}/home",
        "VIDJOBS_REPO": spec.code.repo,
        "VIDJOBS_REF": spec.code.ref,
        "VIDJOBS_COMMIT": spec.code.commit,
        "VIDJOBS_CODE_DIR": spec.code_dir,
        "VIDJOBS_DIFF": f"{spec.conf_dir}/code.diff" if spec.code.diff else "",
    }
    secrets = [_secret("VIDJOBS_GIT_TOKEN", spec.code.token)] if spec.code.token else []
    mounts = [_mount("workspace", workspace_dir(spec)), _mount("conf", spec.conf_dir)]
    return [_init("code", "checkout.sh", spec, env=env, secrets=secrets, mounts=mounts)]


def _stage_container(
    spec: JobSpec, staged: list[Mount], volumes: dict[str, str]
) -> list[dict[str, Any]]:
    if not staged:
        return []
    env = {"VIDJOBS_STAGES": str(len(staged))}
    mounts = []
    for index, mount in enumerate(staged):
        env |= {
            f"VIDJOBS_FROM_{index}": mount.mount,
            f"VIDJOBS_TO_{index}": mount.stage_to,
            f"VIDJOBS_UNPACK_{index}": "1" if mount.unpack else "",
        }
        mounts += [
            _mount(volumes[mount.claim], mount.mount, read_only=True),
            _mount(f"stage-{index}", mount.stage_to),
        ]
    return [_init("stage", "stage.sh", spec, env=env, secrets=[], mounts=mounts)]


def _init(
    name: str,
    script: str,
    spec: JobSpec,
    *,
    env: dict[str, str],
    secrets: list[dict[str, str]],
    mounts: list[dict[str, Any]],
) -> dict[str, Any]:
    text = (TEMPLATES / script).read_text(encoding="utf-8")
    return {
        "name": name,
        "command": _literal(["bash", "-c", text]),
        "env": _pairs(_literal(env)),
        "secrets": secrets,
        "mounts": mounts,
        "limits": _pairs(_limits(spec, gpu=False)),
    }


def _trainer_mounts(
    spec: JobSpec, volumes: dict[str, str], workspace: str
) -> Iterator[dict[str, Any]]:
    stages = 0
    for mount in spec.mounts:
        if mount.stage_to:  # the trainer reads the copy only
            yield _mount(f"stage-{stages}", mount.stage_to)
            stages += 1
        else:
            yield _mount(volumes[mount.claim], mount.mount, read_only=mount.read_only)
    yield _mount("workspace", workspace)
    yield _mount("conf", spec.conf_dir)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    """A mapping whose keys a user may choose, as the templates read it."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _mount(volume: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"volume": volume, "path": path, "read_only": read_only}


def _secret(env: str, key: SecretKey) -> dict[str, str]:
    return {"env": env, "secret": key.secret, "key": key.key}


def _limits(spec: JobSpec, *, gpu: bool) -> dict[str, str]:
    """Limits, and requests that equal them. The first containers ask for the same but GPUs, so the pod asks for no more."""
    wanted = spec.resources
    limits = {"cpu": wanted.cpu, "memory": wanted.memory, "ephemeral-storage": wanted.scratch}
    return limits | ({wanted.gpu_resource: str(wanted.gpus)} if gpu and wanted.gpus else {})


def _literal(value: Any) -> Any:
    """Texts that Kubernetes will not expand: it reads `$$` as `$`."""
    if isinstance(value, list):
        return [item.replace("$", "$$") for item in value]
    return {key: text.replace("$", "$$") for key, text in value.items()}


def quoted(value: Any) -> str:
    """The filter `q`: a text or a whole number as one YAML scalar on one line, whatever it holds."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return _ESCAPED.sub(
            lambda match: f"\\U{ord(match[0]):08x}", json.dumps(value, ensure_ascii=False)
        )
    name = getattr(value, "_undefined_name", None)
    raise TypeError(
        f'the template asks for "{name}", which it was not given'
        if name
        else f"the template cannot write {value!r}"
    )


@cache
def _template(name: str) -> jinja2.Template:
    import jinja2  # here: it costs as much as the rest of `render`

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False,
        bytecode_cache=_compiled(),
    )  # fmt: skip
    environment.filters["q"] = quoted
    return environment.get_template(name)


def _compiled() -> jinja2.BytecodeCache | None:
    """Compiled templates in the person's own cache folder: compiling them takes a fifth of `render`. None where nothing can be kept."""
    import jinja2

    folder = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidjobs" / "templates"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # others' code is never run
        ours = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022
    except (OSError, RuntimeError):
        return None
    return (
        jinja2.FileSystemBytecodeCache(str(folder)) if ours and os.access(folder, os.W_OK) else None
    )


def fill(template: str, values: dict[str, Any]) -> Manifest:
    """Render, parse, and compare with the same template filled with inert words."""
    words: dict[str, str] = {}
    manifest: Manifest = safe_yaml.load(_template(template).render(values))
    skeleton = safe_yaml.load(_template(template).render(_inert(values, words)))
    wrong = _difference(skeleton, manifest, words, "")
    if wrong:
        raise AssertionError(f"a value changed the structure of the manifest at {wrong}")
    return manifest


def _inert(value: Any, words: dict[str, str]) -> Any:
    """The same containers, each text that is not empty a new harmless word. Keys of the context are the templates', never a user's."""
    if isinstance(value, dict):
        return {key: _inert(child, words) for key, child in value.items()}
    if isinstance(value, list):
        return [_inert(child, words) for child in value]
    if not isinstance(value, str) or not value:
        return value
    word = f"inert-word-{len(words)}"
    words[word] = value
    return word


def _difference(expected: Any, actual: Any, words: dict[str, str], where: str) -> str:
    """The first place where the trees differ by more than the texts that the words stand for; "" when there is none."""
    if isinstance(expected, dict) and isinstance(actual, dict) and len(expected) == len(actual):
        for (key, child), (actual_key, actual_child) in zip(
            expected.items(), actual.items(), strict=True
        ):
            wrong = _difference(key, actual_key, words, f"{where}.{key}") or _difference(
                child, actual_child, words, f"{where}.{key}"
            )
            if wrong:
                return wrong
        return ""
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        found = (
            _difference(child, other, words, f"{where}[{index}]")
            for index, (child, other) in enumerate(zip(expected, actual, strict=True))
        )
        return next((wrong for wrong in found if wrong), "")
    same = actual == (
        words.get(expected, expected) if isinstance(expected, str) else expected
    ) and not isinstance(expected, (dict, list))
    return "" if same and isinstance(actual, type(expected)) else where or "its top"
