"""Reads the rendered Job the way a kubelet would: which containers run, with which argv, env and files, and when a failure is final."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.backend_base import Manifest
from launcher.errors import ClusterError, UserError
from launcher.render import TRIALS_ANNOTATION

TRAINER = "trainer"
_OWN = frozenset({"HOME", "USER", "LOGNAME", "PATH"})  # this machine's stay
_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass(frozen=True, kw_only=True)
class PodIdentity:
    """What the downward API tells a pod about itself."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """One process to start."""

    argv: tuple[str, ...]
    env: Mapping[str, str]  # on top of the user's environment
    folder: str  # working directory; "" = the run's own folder


@dataclass(frozen=True)
class LocalJob:
    """The Job among the manifests, and the ConfigMaps beside it."""

    manifest: Manifest
    config_maps: Mapping[str, Mapping[str, str]]

    @property
    def run(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def pod_spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.manifest["spec"]["template"]["spec"]
        return spec

    @property
    def trainer(self) -> Mapping[str, Any]:
        return next(
            container for container in self.pod_spec["containers"] if container["name"] == TRAINER
        )

    @property
    def code_container(self) -> Mapping[str, Any] | None:
        """The init container that checks the code out, if there is one."""
        return next(
            (
                container
                for container in self.pod_spec.get("initContainers", ())
                if container["name"] == "code"
            ),
            None,
        )

    @property
    def folder(self) -> str:
        """The trainer's working directory."""
        return str(self.trainer.get("workingDir", ""))

    @property
    def run_folder(self) -> Path | None:
        """The value of `--run` in the trainer's argv."""
        words = [
            expand(word, {})
            for word in (*self.trainer.get("command", ()), *self.trainer.get("args", ()))
        ]
        return Path(words[words.index("--run") + 1]) if "--run" in words[:-1] else None

    @property
    def retries(self) -> int:
        """Of each pod that has an index; a group of nodes shares the Job's, which is that of all nodes together."""
        spec = self.manifest["spec"]
        return int(spec.get("backoffLimitPerIndex", int(spec.get("backoffLimit", 6)) // self.nodes))

    @property
    def indexed(self) -> bool:
        """Pods that each have an index of their own: trials of a sweep, shards, or nodes."""
        return bool(self.manifest["spec"].get("completionMode") == "Indexed")

    @property
    def completions(self) -> int:
        """How many of them; 1 for nearly all jobs."""
        return int(self.manifest["spec"].get("completions", 1))

    @property
    def nodes(self) -> int:
        """Pods that train together: all run at once, and none without the others."""
        return (
            self.completions
            if self.indexed and "backoffLimitPerIndex" not in self.manifest["spec"]
            else 1
        )

    @property
    def trials(self) -> bool:
        """Whether they are trials of a sweep."""
        return TRIALS_ANNOTATION in self.manifest["spec"]["template"].get("metadata", {}).get(
            "annotations", {}
        )

    @property
    def at_once(self) -> int:
        """How many run beside each other: trials as the conf says; shards one after the other, since each uses all cores."""
        return (
            int(self.manifest["spec"].get("parallelism", 1)) if self.trials or self.nodes > 1 else 1
        )

    @property
    def max_failed(self) -> int:
        """More that failed for good than this end the job."""
        return int(self.manifest["spec"].get("maxFailedIndexes", self.completions))

    @property
    def deadline_s(self) -> float | None:
        value = self.manifest["spec"].get("activeDeadlineSeconds")
        return None if value is None else float(value)

    @property
    def grace_s(self) -> float:
        return float(self.pod_spec.get("terminationGracePeriodSeconds", 30))

    def failure_action(self, container: str, code: int) -> str:
        """What the podFailurePolicy says of this exit, by the first rule that matches: "FailJob", "FailIndex", "Ignore" or "Count"."""
        for rule in self.manifest["spec"].get("podFailurePolicy", {}).get("rules", ()):
            codes = rule.get("onExitCodes")
            if not codes or codes.get("containerName", container) != container:
                continue  # conditions like DisruptionTarget are set by a cluster only
            if (code in codes["values"]) == (codes["operator"] == "In"):
                return str(rule["action"])
        return "Count"

    def command(
        self, container: Mapping[str, Any], pod: PodIdentity, secrets: Mapping[str, str], root: Path
    ) -> Command:
        """The process of a container; `root` is the run's own folder. ClusterError when the manifest asks for what is not here."""
        env = self._env(container, pod, secrets)
        argv = [
            expand(word, env)
            for word in (*container.get("command", ()), *container.get("args", ()))
        ]
        if not argv:
            raise ClusterError(
                f'container "{container["name"]}" names no command; on this machine there is no image to have one'
            )
        if argv[0] in ("python", "python3"):
            argv[0] = sys.executable
        if container is self.trainer:
            env = self._at_home(env, root)
        return Command(argv=tuple(argv), env=env, folder=str(container.get("workingDir", "")))

    def files(self, pod: PodIdentity) -> dict[Path, str]:
        """Text files that the pod would see through downward API and ConfigMap volumes, by their paths."""
        mounts = {
            mount["name"]: Path(mount["mountPath"])
            for mount in self.trainer.get("volumeMounts", ())
        }
        found: dict[Path, str] = {}
        for volume in self.pod_spec.get("volumes", ()):
            if volume["name"] not in mounts:
                continue
            folder = mounts[volume["name"]]
            for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
                found.update(
                    {folder / path: text for path, text in self._texts(source, pod).items()}
                )
        return found

    def containers(self, root: Path) -> list[Mapping[str, Any]]:
        """What runs here, in order: `code` only when the trainer works in the run's own workspace below `root`; data is used in place."""
        checkout = self.code_container if Path(self.folder).is_relative_to(root) else None
        return [container for container in (checkout, self.trainer) if container]

    def secrets(self, root: Path) -> dict[str, str]:
        """Environment variable -> "secret/key" of every one that `containers` need."""
        needed: dict[str, str] = {}
        for container in self.containers(root):
            for entry in container.get("env", ()):
                key = entry.get("valueFrom", {}).get("secretKeyRef")
                if key and not key.get("optional"):
                    needed[entry["name"]] = f"{key['name']}/{key['key']}"
        return needed

    def _texts(self, source: Mapping[str, Any], pod: PodIdentity) -> dict[str, str]:
        if "downwardAPI" in source:
            items = source["downwardAPI"]["items"]
            return {
                item["path"]: self._field(item["fieldRef"]["fieldPath"], pod)
                for item in items
                if "fieldRef" in item
            }
        if "configMap" in source:
            data = self.config_maps.get(source["configMap"]["name"], {})
            items = source["configMap"].get("items") or [{"key": key, "path": key} for key in data]
            return {item["path"]: data[item["key"]] for item in items}
        return {}

    def _env(
        self, container: Mapping[str, Any], pod: PodIdentity, secrets: Mapping[str, str]
    ) -> dict[str, str]:
        env: dict[str, str] = {}
        for entry in container.get("env", ()):
            name, source = entry["name"], entry.get("valueFrom", {})
            if "fieldRef" in source:
                env[name] = self._field(source["fieldRef"]["fieldPath"], pod)
            elif "resourceFieldRef" in source:
                env[name] = str(
                    container.get("resources", {})
                    .get("limits", {})
                    .get(source["resourceFieldRef"]["resource"][7:], "")
                )
            elif "secretKeyRef" in source:
                env.update({name: secrets[name]} if name in secrets else {})
            elif "configMapKeyRef" in source:
                env[name] = self.config_maps[source["configMapKeyRef"]["name"]][
                    source["configMapKeyRef"]["key"]
                ]
            else:
                env[name] = expand(str(entry.get("value", "")), env)
        return env

    def _field(self, path: str, pod: PodIdentity) -> str:
        meta = self.manifest["spec"]["template"].get("metadata", {})
        node = platform.node()
        known = {
            "metadata.name": pod.name,
            "metadata.uid": pod.uid,
            "metadata.namespace": str(self.manifest["metadata"].get("namespace", "")),
            "spec.nodeName": node,
            "spec.serviceAccountName": "",
            "status.podIP": "127.0.0.1",
            "status.hostIP": "127.0.0.1",
        }
        entry = re.fullmatch(r"metadata\.(annotations|labels)\['(.*)'\]", path)
        if entry:
            return str(meta.get(entry[1], {}).get(entry[2], ""))
        if path not in known:
            raise ClusterError(
                f'the local backend cannot fill in "{path}", which the manifest asks for'
            )
        return known[path]

    def _at_home(self, env: Mapping[str, str], root: Path) -> dict[str, str]:
        """Without the places that a pod must be given and this machine has: HOME, and all in the pod's empty folders but the code."""
        scratch = {
            volume["name"] for volume in self.pod_spec.get("volumes", ()) if "emptyDir" in volume
        }
        paths = [
            Path(mount["mountPath"])
            for mount in self.trainer.get("volumeMounts", ())
            if mount["name"] in scratch
        ]
        gone = [str(path) for path in paths if path.is_relative_to(root) or not path.is_dir()]
        code = [self.folder] if self.folder else []
        return {
            name: value
            for name, value in env.items()
            if name not in _OWN and (not _below(value, gone) or _below(value, code))
        }


def read_job(manifests: Sequence[Manifest]) -> LocalJob:
    """The job among what `render` made. UserError when there is none, or when it has several pods that do not know their numbers."""
    jobs = [manifest for manifest in manifests if manifest.get("kind") == "Job"]
    if len(jobs) != 1:
        raise UserError(f"{len(jobs)} Jobs were rendered, the local backend runs exactly one")
    spec = jobs[0]["spec"]
    if spec.get("completionMode") != "Indexed" and (
        spec.get("completions", 1) != 1 or spec.get("parallelism", 1) not in (0, 1)
    ):
        raise UserError(
            "the local backend runs one pod at a time, and this Job has several",
            hint="submit it to a cluster",
        )
    maps = {
        manifest["metadata"]["name"]: manifest.get("data", {})
        for manifest in manifests
        if manifest.get("kind") == "ConfigMap"
    }
    return LocalJob(manifest=jobs[0], config_maps=maps)


def expand(text: str, env: Mapping[str, str]) -> str:
    """Kubernetes' own rules for `args` and `env`: `$$` is a dollar, `$(NAME)` the variable, and stays as it is when unknown."""
    return _REFERENCE.sub(lambda hit: "$" if hit[0] == "$$" else env.get(hit[1], hit[0]), text)


def _below(value: str, folders: Sequence[str]) -> bool:
    """True when `value` is a path in one of the folders."""
    if not value.startswith("/"):
        return False
    path = PurePosixPath(value)
    return any(path.is_relative_to(folder) for folder in folders)
