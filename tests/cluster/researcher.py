"""The two people of a cluster test: who owns the cluster (kubectl), and who may use one namespace (vidjobs)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launcher

ACCOUNT = "researcher"


def kubectl(*arguments: str, text: str | None = None) -> str:
    """Stdout of kubectl with the cluster owner's KUBECONFIG; `text` goes to its stdin."""
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def get(*arguments: str) -> Any:
    """What `kubectl get ... -o json` says."""
    return json.loads(kubectl("get", *arguments, "--output=json"))


def evict(namespace: str, pod: str) -> None:
    """As draining a node does, or a preemption: SIGTERM, and the pod's condition says that it was a disruption."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
    }
    kubectl(
        "create",
        "--raw",
        f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction",
        "--filename=-",
        text=json.dumps(eviction),
    )


@contextmanager
def watched(namespace: str, pod: str) -> Iterator[Callable[[], Any]]:
    """A function that gives the newest state of a pod that was seen, also when the pod is gone by then."""
    command = ["kubectl", "get", "pod", pod, f"--namespace={namespace}", "--watch", "--output=json"]
    with (
        tempfile.NamedTemporaryFile("w") as told,
        subprocess.Popen(command, stdout=told) as process,
    ):

        def newest() -> Any:
            # one object after the other, each set in
            whole = ("\n" + Path(told.name).read_text()).rpartition("\n}\n")[0]
            return json.loads("{" + whole.rpartition("\n{\n")[2] + "}")

        try:
            yield newest
        finally:
            process.terminate()


@dataclass(frozen=True)
class Researcher:
    """A folder with conf files, and an environment whose kubeconfig holds namespace rights only."""

    folder: Path
    namespace: str
    environment: dict[str, str]

    def vidjobs(self, *arguments: str, code: int = 0, seconds: float = 120) -> str:
        """Stdout of `vidjobs ...`, which must end with exit code `code`."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        assert process.returncode == code, (
            f"vidjobs {' '.join(arguments)} gave {process.returncode}, not {code}\n{out[-3000:]}\n{err[-3000:]}"
        )
        return out

    def json(self, *arguments: str) -> Any:
        """What `vidjobs ... --json` says."""
        return json.loads(self.vidjobs(*arguments, "--json"))

    def start(self, *arguments: str, out: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        """`vidjobs ...` as a process of its own, its stderr a pipe."""
        command = [sys.executable, "-m", "launcher", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )

    def may(self, verb: str, resource: str) -> bool:
        """Whether the researcher's account has this right in its namespace."""
        question = ["kubectl", "auth", "can-i", verb, resource, f"--namespace={self.namespace}"]
        done = subprocess.run(
            question, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() in ("yes", "no"), done.stderr
        return done.stdout.strip() == "yes"

    def pods(self, run: str) -> list[Any]:
        """The run's pods as the owner sees them, oldest first."""
        found = get("pods", f"--namespace={self.namespace}", f"--selector=vidjobs/run={run}")[
            "items"
        ]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])


def arrive(folder: Path, namespace: str) -> Researcher:
    """Make `namespace` with Pod Security `restricted` enforced, and a researcher with exactly the Role that `vidjobs rbac` prints."""
    kubectl("create", "namespace", namespace)
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    environment = _environment(folder)
    newcomer = Researcher(folder, namespace, environment)
    kubectl("apply", f"--namespace={namespace}", "--filename=-", text=newcomer.vidjobs("rbac"))
    kubectl("create", "serviceaccount", ACCOUNT, f"--namespace={namespace}")
    for role in get("roles", f"--namespace={namespace}")["items"]:
        name = role["metadata"]["name"]
        subject = f"--serviceaccount={namespace}:{ACCOUNT}"
        kubectl(
            "create", "rolebinding", name, f"--role={name}", subject, f"--namespace={namespace}"
        )
    Path(environment["KUBECONFIG"]).write_text(_kubeconfig(namespace))
    return newcomer


def _environment(folder: Path) -> dict[str, str]:
    xdg = {f"XDG_{what}_HOME": str(folder / what.lower()) for what in ("STATE", "CONFIG", "CACHE")}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        # the package under test, wherever it is installed
        "PYTHONPATH": str(Path(launcher.__path__[0]).parent),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "VIDJOBS_CLUSTER": "kube-one",
        **xdg,
    }


def _kubeconfig(namespace: str) -> str:
    """A kubeconfig with a token of the service account and nothing of the owner's."""
    config = json.loads(
        kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json")
    )
    token = kubectl("create", "token", ACCOUNT, f"--namespace={namespace}", "--duration=4h").strip()
    config["users"] = [{"name": ACCOUNT, "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": ACCOUNT, "namespace": namespace}
    return json.dumps(config)
