"""The backend `kube`: a namespace of a Kubernetes cluster, with namespace rights only.

What a run does, logs, files and shells are imported where they are used: `submit` needs none of them.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from launcher import nodes
from launcher.backend_base import (
    Files,
    Finding,
    Inlet,
    LogLine,
    Manifest,
    RunStatus,
    Shell,
    ShellOptions,
    Volume,
)
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Object
from launcher.backends.kube.submission import begin_again, create_all, try_all
from launcher.errors import ClusterError
from launcher.profiles import ClusterProfile
from launcher.records import RunRecord
from launcher.spec import CodePin
from launcher.wanted import Wanted

_WORKPLACE = "/vidjobs"
_NOT_DONE = "status.phase!=Succeeded"


class KubeBackend:
    """See `Backend`. Nothing is contacted before the first method that needs it."""

    name = "kube"

    def __init__(self, profile: ClusterProfile) -> None:
        self._profile = profile
        self.client = KubeClient(context=profile.context, wanted_namespace=profile.namespace)

    def where(self) -> tuple[str, str]:
        """The context and the namespace that the kubeconfig means now."""
        return self.client.login.context, self.client.namespace

    def claim_path(self, claim: str, mount: str) -> str:  # noqa: ARG002  the Protocol's signature
        return mount

    def conf_dir(self, run: str) -> str:  # noqa: ARG002  the Protocol's signature
        return f"{_WORKPLACE}/conf"

    def code_dir(self, run: str, code: CodePin) -> str:  # noqa: ARG002  the Protocol's signature
        return "" if code.kind == "image" else f"{_WORKPLACE}/workspace/code"

    def submit(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> None:
        """Create everything or nothing. A refusal of the pod itself (Pod Security, a site rule) is found before the Job is made."""
        if dry_run:
            try_all(self.client, manifests)
        else:
            create_all(self.client, manifests)

    def status(self, record: RunRecord) -> RunStatus:
        from launcher.backends.kube import causes
        from launcher.backends.kube.status import Facts, in_queue, run_status

        job, pods = self._objects(record.run)
        names = {record.run, *(pod_of.name(pod) for pod in pods[-pod_of.nodes(job) :])}
        waiting = job is not None and not pod_of.job_ended(job)
        mounted = pod_of.claims(job["spec"]["template"]) if job is not None and waiting else set()
        claims = {
            claim: self.client.find("PersistentVolumeClaim", claim) for claim in sorted(mounted)
        }
        unbound = {
            name
            for name, claim in claims.items()
            if claim and claim.get("status", {}).get("phase") != "Bound"
        }
        events = (
            [event for name in sorted(names | unbound) for event in self._events(name)]
            if waiting
            else []
        )
        if job is not None and in_queue(job):
            events = self._events(record.run)
            workload = causes.workload_of(job, events)
            events += self._events(workload) if workload else []
        return run_status(
            record.run,
            Facts(
                job=job, pods=pods, events=events, claims=causes.Claims(found=claims, events=events)
            ),
        )

    def list_runs(self) -> list[RunStatus]:
        """Newest first; without events, so causes are shorter than `status` gives, and without the pods that ended well."""
        from launcher.backends.kube.status import Facts, run_status

        jobs = self.client.list("Job", labels=pod_of.RUN_LABEL).items
        pods: dict[str, list[Object]] = defaultdict(list)
        for pod in self.client.list("Pod", labels=pod_of.RUN_LABEL, fields=_NOT_DONE).items:
            pods[pod["metadata"]["labels"][pod_of.RUN_LABEL]].append(pod)
        jobs.sort(key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True)
        return [
            run_status(name, Facts(job=job, pods=pods[name]))
            for job in jobs
            for name in [str(job["metadata"]["name"])]
        ]

    def logs(
        self,
        record: RunRecord,
        *,
        follow: bool = False,
        since_s: int | None = None,
        tail: int | None = None,
        all_pods: bool = False,
        index: int | None = None,
        wanted: Wanted | None = None,
        quick: bool = False,
    ) -> Iterator[LogLine]:
        from launcher.backends.kube.kept_logs import KeptLogs
        from launcher.backends.kube.logs import JobLogs

        index = nodes.console(record) if index is None and not all_pods else index
        kept = KeptLogs(
            run=record.run,
            index=index,
            folder=tuple if quick else lambda: self._folder_log(record, index),
        )
        reader = JobLogs(
            client=self.client,
            run=record.run,
            since_s=since_s,
            tail=tail,
            index=index,
            kept=kept,
            wanted=wanted,
        )
        return reader.follow(all_pods=all_pods) if follow else reader.read(all_pods=all_pods)

    @contextlib.contextmanager
    def files(self, record: RunRecord) -> Iterator[Files]:
        from launcher.backends.kube import files

        with files.run_files(self.client, record, lambda: self._objects(record.run)) as found:
            yield found

    def _folder_log(self, record: RunRecord, index: int | None) -> list[str]:
        """Lines of the run folder's train.log; a helper pod reads it."""
        from launcher.backends.kube.kept_logs import folder_lines

        with self.files(record) as found:
            return folder_lines(found, index)

    def cancel(self, record: RunRecord) -> None:
        """Suspend: the trainer gets SIGTERM, writes its checkpoint, and the Job keeps its place."""
        self._suspend(record.run, True)

    def resume(self, record: RunRecord) -> None:
        """Unsuspend. A Job that has failed cannot go on; the same one takes its place, and its trainer goes on in the run's folder."""
        if record.manifests and pod_of.job_ended(self.client.find("Job", record.run)) == "failed":
            begin_again(self.client, record.manifests)
        else:
            self._suspend(record.run, False)

    def delete(self, record: RunRecord, *, files: bool = False) -> None:
        """The Job with its pods and what it owns; the folder first, since the helper pod copies the Job's image and ids."""
        if files:
            self._delete_files(record)
        self.client.delete("Job", record.run, propagation="Background")

    def create_volume(
        self, claim: str, *, size: str, access: str, storage_class: str = ""
    ) -> Volume:
        chosen = storage_class or self._profile.storage_class
        spec: Object = {"accessModes": [access], "resources": {"requests": {"storage": size}}}
        if chosen:
            spec["storageClassName"] = chosen
        labels = {"app.kubernetes.io/managed-by": "vidjobs"}
        metadata = {"name": claim, "labels": labels}
        return _volume(
            self.client.create(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": metadata,
                    "spec": spec,
                }
            )
        )

    def volumes(self) -> list[Volume]:
        return [_volume(claim) for claim in self.client.list("PersistentVolumeClaim").items]

    @contextlib.contextmanager
    def volume_files(self, claim: str, path: str) -> Iterator[Files]:
        from launcher.backends.kube import files

        with files.claim_files(self.client, self._newest_template(), claim, path) as found:
            yield found

    def inlet(self, claim: str) -> contextlib.AbstractContextManager[Inlet]:
        from launcher.backends.kube import files
        from launcher.backends.kube.inlet import MOUNT, claim_inlet

        return claim_inlet(
            self.client,
            lambda: files.claim_helper(self.client, self._newest_template(), claim, mount=MOUNT),
        )

    @contextlib.contextmanager
    def shell(self, record: RunRecord | None, claim: str, wanted: ShellOptions) -> Iterator[Shell]:
        """In the run's pod when its trainer runs, else in one that lives as long as asked for. ConfError when the site forbids that."""
        from launcher.backends.kube import files, shells
        from launcher.backends.kube.helper_pod import manifest
        from launcher.backends.kube.inlet import MOUNT

        job, pods = self._objects(record.run) if record else (None, [])
        folder = str(record.paths.root) if record else MOUNT
        there = shells.in_run_pod(self.client, pods, folder)
        if there is not None:
            yield there
            return
        if record:
            spec = files.shell_helper(
                self.client, record, job, wanted=wanted, gpu_resource=self._profile.gpu_resource
            )
        else:
            alone: Object = {"spec": {**self._newest_template()["spec"], "volumes": []}}
            base = files.claim_helper(self.client, alone, claim, mount=MOUNT)
            spec = shells.shell_spec(base, alone, wanted, self._profile.gpu_resource)
        shells.require_allowed(
            manifest(spec, name="vidjobs-shell", namespace=self.client.namespace), self._profile
        )
        with shells.in_helper(self.client, spec, folder) as made:
            yield made

    def doctor(self) -> list[Finding]:
        from launcher.backends.kube import doctor

        defaults = self._profile.conf_layer().get("job", {})
        return doctor.examine(
            self.client,
            image=str(defaults.get("image") or ""),
            pull_secrets=defaults.get("pull_secrets") or [],
        )

    def _objects(self, run: str) -> tuple[Object | None, list[Object]]:
        """The Job first: pods seen afterwards are never fewer than its status says.

        Of many indexes the Job itself names those that are done; a thousand ended pods are not asked for.
        """
        job = self.client.find("Job", run)
        fields = _NOT_DONE if pod_of.indexed(job) else ""
        return job, pod_of.oldest_first(
            self.client.list("Pod", labels=pod_of.of_job(run), fields=fields).items
        )

    def _events(self, name: str) -> list[Object]:
        return self.client.list("Event", fields=f"involvedObject.name={name}").items

    def _suspend(self, run: str, suspended: bool) -> None:
        from launcher.backends.kube.status import CANCELLED

        job = self.client.find("Job", run)
        ended = pod_of.job_ended(job)
        if job is None:
            hint = f"`--from {run}@last` starts a new run from its checkpoint"
            raise ClusterError(f"the Job of {run} is no longer in the cluster", hint=hint)
        if ended in ("succeeded", "failed"):
            hint = (
                "nothing is left to stop"
                if suspended
                else f"a Job that has ended cannot go on: submit again with `--from {run}@last`"
            )
            raise ClusterError(f"{run} has {ended} already", hint=hint)
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if suspended else None
        self.client.patch(
            "Job",
            run,
            {"metadata": {"annotations": {CANCELLED: when}}, "spec": {"suspend": suspended}},
        )

    def _delete_files(self, record: RunRecord) -> None:
        from launcher.backends.kube import files

        job, pods = self._objects(record.run)
        if job is not None and not pod_of.job_ended(job):
            hint = f"`vidjobs cancel {record.run}`, wait until it has stopped, then delete it"
            raise ClusterError(f"{record.run} has not ended: its folder is not deleted", hint=hint)
        files.remove_run_files(self.client, record, job, pods)

    def _newest_template(self) -> Object:
        """Image and ids for a pod that only looks at a volume: those of the newest run here, else the profile's image."""
        jobs = self.client.list("Job", labels=pod_of.RUN_LABEL).items
        if jobs:
            newest = max(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]))
            return dict(newest["spec"]["template"])
        defaults = self._profile.conf_layer().get("job", {})
        image = defaults.get("image")
        if not image:
            hint = f"set `job: {{image: ...}}` in the cluster profile ({self._profile.file or self._profile.name}), or submit a run first"
            raise ClusterError(
                "a pod that mounts a volume for us needs an image with Python, and none is known",
                hint=hint,
            )
        secrets = [{"name": name} for name in defaults.get("pull_secrets", [])]
        return {
            "spec": {
                "containers": [{"name": pod_of.TRAINER, "image": image}],
                "imagePullSecrets": secrets,
            }
        }


def connect(profile: ClusterProfile) -> KubeBackend:
    """The backend of this profile."""
    return KubeBackend(profile)


def _volume(claim: Object) -> Volume:
    spec, status = claim["spec"], claim.get("status", {})
    return Volume(
        claim=str(claim["metadata"]["name"]),
        phase=str(status.get("phase", "Pending")),
        size=str(
            status.get("capacity", {}).get("storage") or spec["resources"]["requests"]["storage"]
        ),
        access=",".join(spec.get("accessModes", [])),
        storage_class=str(spec.get("storageClassName") or ""),
    )
