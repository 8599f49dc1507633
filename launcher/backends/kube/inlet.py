"""Write access to a claim: a helper pod on the right node, and in it a receiver for each connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files as package_files

from launcher.backend_base import Channel, Inlet
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.duplex import Duplex, program_command
from launcher.backends.kube.helper_pod import CONTAINER, HelperSpec, helper_pod

MOUNT = "/volume"


class PodInlet:
    """Makes the helper pod when it is first needed, and another when that one is over (after an hour) or gone."""

    def __init__(
        self, client: KubeClient, spec: Callable[[], HelperSpec], stack: contextlib.ExitStack
    ) -> None:
        self._client = client
        self._spec = spec
        self._stack = stack
        self._pod = ""

    @contextlib.contextmanager
    def connect(self, folder: str, only: str) -> Iterator[Channel]:
        request = {"top": MOUNT, "folder": folder, "only": only}
        duplex = Duplex(
            self._client, self._running(), CONTAINER, program_command(_program(), request)
        )
        with contextlib.closing(duplex):
            yield duplex

    def _running(self) -> str:
        pod = self._client.find("Pod", self._pod) if self._pod else None
        if (
            pod is None
            or pod["metadata"].get("deletionTimestamp")
            or pod_of.container_state(pod, CONTAINER) != "running"
        ):
            self._stack.close()
            self._pod = self._stack.enter_context(helper_pod(self._client, self._spec()))
        return self._pod


@contextlib.contextmanager
def claim_inlet(client: KubeClient, spec: Callable[[], HelperSpec]) -> Iterator[Inlet]:
    """`spec` is asked for each helper pod: the claim's node may be another by then."""
    with contextlib.ExitStack() as stack:
        yield PodInlet(client, spec, stack)


@cache
def _program() -> str:
    return package_files("launcher").joinpath("receiving.py").read_text()
