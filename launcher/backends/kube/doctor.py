"""(being written)"""

from __future__ import annotations

from launcher.backend_base import Finding
from launcher.backends.kube.client import KubeClient


def examine(client: KubeClient) -> list[Finding]:
    return [Finding(what="server", ok=True, detail=client.version())]
