"""Creating a run's objects: all of them or none, and never twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from launcher.backend_base import Manifest
from launcher.backends.kube.client import KubeClient, Object
from launcher.errors import AdmissionError, ClusterError

_GONE_S = 180.0  # more than most trainers need to end


def try_all(client: KubeClient, manifests: Sequence[Manifest]) -> None:
    """Ask the server whether it would create each object, and the Job's pod. AdmissionError with its whole message when not.

    A namespace whose quota is used up at the moment refuses the pod too: a submitted Job would wait.
    """
    for manifest in manifests:
        client.create(manifest, dry_run=True)
        if manifest["kind"] == "Job":
            _try_pod(client, manifest, quota_matters=True)


def create_all(client: KubeClient, manifests: Sequence[Manifest]) -> None:
    """The objects that the Job needs first, the Job last; then the Job becomes their owner, so that they go with it."""
    jobs = [manifest for manifest in manifests if manifest["kind"] == "Job"]
    others = [manifest for manifest in manifests if manifest["kind"] != "Job"]
    try:
        for job in jobs:
            _try_pod(client, job, quota_matters=False)
    except ClusterError as error:
        error.begun = False
        raise
    with contextlib.ExitStack() as undo:
        owned = [_create_once(client, manifest, undo) for manifest in others]
        owners = [_create_once(client, job, undo) for job in jobs]
        for one in owned if owners else []:
            client.patch(
                one["kind"],
                one["metadata"]["name"],
                {"metadata": {"ownerReferences": [_owner(owners[0])]}},
            )
        undo.pop_all()


def begin_again(client: KubeClient, manifests: Sequence[Manifest]) -> None:
    """The same objects anew, once the Job that has failed and what it owned are gone, its last pod included.

    A refusal of the pod is found before anything is removed. ClusterError when something does not go.
    """
    for manifest in manifests:
        if manifest["kind"] == "Job":
            _try_pod(client, manifest, quota_matters=False)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    for kind, name in names:
        client.delete(kind, name, propagation="Foreground")
    until = time.monotonic() + _GONE_S
    while left := [f"{kind} {name}" for kind, name in names if client.find(kind, name) is not None]:
        if time.monotonic() > until:
            raise ClusterError(
                f"{', '.join(left)} is still being removed: a pod of it has not ended",
                hint="try again in some minutes",
            )
        time.sleep(0.3)
    create_all(client, manifests)


def _try_pod(client: KubeClient, job: Manifest, *, quota_matters: bool) -> None:
    """Admission of the Job says little about its pods (Pod Security, quotas and limit ranges look at pods only)."""
    template = job["spec"]["template"]
    metadata = {
        **template.get("metadata", {}),
        "name": f"{job['metadata']['name']}-dry-run"[:63].rstrip("-."),
    }
    try:
        client.create(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]},
            dry_run=True,
        )
    except AdmissionError as error:
        if "exceeded quota" in error.message and not quota_matters:
            return
        from launcher.backends.kube import causes

        cause = causes.refused(error.message)
        raise AdmissionError(error.message, hint=cause.fix, status=error.status) from error
    except ClusterError as error:
        # without the right to create pods, their refusal shows in `status` instead
        if error.status != 403:
            raise


def _create_once(client: KubeClient, manifest: Manifest, undo: contextlib.ExitStack) -> Object:
    """The created object, also when the connection broke after the server had made it: names of runs are never used twice."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    try:
        made = client.create(manifest)
    except ClusterError as error:
        there = client.find(kind, name) if not error.status else None
        if there is None:
            raise
        made = there
    undo.callback(client.delete, kind, name)
    return made


def _owner(job: Object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }
