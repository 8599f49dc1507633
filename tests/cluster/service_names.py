"""Whether pods find each other by the names of a headless Service; the one-node test cluster is made to answer for them.

Its CoreDNS answers NXDOMAIN to everything: `template` and `kubernetes` stand in one server block, and of those CoreDNS asks
`template` first, in whichever order they are written. A block of its own for the cluster's names comes before that.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from locks import sharing
from researcher import get, kubectl
from training_lab import Lab

PATIENCE = {"as it is": 5, "repaired": 60}  # seconds; a changed file is noticed within 45
ASK = """
import socket, sys, time
end = time.monotonic() + {seconds}
while True:
    try:
        sys.exit(print(socket.gethostbyname("one.peers")))
    except OSError:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.5)
"""
BLOCK = """\
cluster.local:53 {{
  bind {address}
  kubernetes cluster.local {{
    kubeconfig {kubeconfig}
  }}
  errors
}}
"""


@contextmanager
def answered(lab: Lab) -> Iterator[bool]:
    """Inside the block a pod has its name, if this cluster can: as it is, or with its Corefile mended, which is put back."""
    with sharing("service-names", alone=True):
        corefile = Path(os.environ["KUBECONFIG"].split(os.pathsep)[0]).with_name("Corefile")
        if _found(lab, "as it is"):
            yield True
        elif not corefile.exists() or not (mended := _mended(before := corefile.read_text())):
            yield False
        else:
            try:
                _answer_by(corefile, mended)
                yield _found(lab, "repaired")
            finally:
                _answer_by(corefile, before)


def _found(lab: Lab, how: str) -> bool:
    """Whether a pod of a headless Service finds itself by its name there; not in /etc/hosts, which has its whole name only."""
    place, name = f"--namespace={lab.researcher.namespace}", f"ask-{how.split()[0]}"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    ids = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "ask",
        "image": lab.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", ASK.format(seconds=PATIENCE[how])],
        "securityContext": security,
    }
    spec = {
        "restartPolicy": "Never",
        "hostname": "one",
        "subdomain": "peers",
        "securityContext": ids,
        "containers": [container],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"ask": "peers"}},
        "spec": spec,
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "peers"}}
    service["spec"] = {
        "clusterIP": "None",
        "selector": {"ask": "peers"},
        "publishNotReadyAddresses": True,
    }
    for thing in (service, pod):
        kubectl("apply", place, "--filename=-", text=json.dumps(thing))
    kubectl(
        "wait",
        place,
        f"pod/{name}",
        "--for=jsonpath={.status.containerStatuses[0].state.terminated.reason}",
        "--timeout=150s",
    )
    (asked,) = get("pod", name, place)["status"]["containerStatuses"]
    return bool(asked["state"]["terminated"]["exitCode"] == 0)


def _mended(text: str) -> str:
    """The Corefile with a block for the cluster's own names before all others; "" when it says not where to listen and whom to ask."""
    address, kubeconfig = (
        re.search(rf"^\s*{word} +(.+)$", text, re.MULTILINE) for word in ("bind", "kubeconfig")
    )
    return (
        BLOCK.format(address=address[1], kubeconfig=kubeconfig[1]) + text
        if address and kubeconfig
        else ""
    )


def _answer_by(corefile: Path, text: str) -> None:
    """The server notices within 45 s, or at once when it is told to."""
    corefile.write_text(text)
    pid = corefile.parent / "run" / "dns.pid"
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGUSR1)
