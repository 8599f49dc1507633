"""Runs on this machine, as processes, what would run on a cluster: the same rendered Job, the same argv, env and conf.

Everything lies below `<state>/local`: `runs/<run>` for each run, `volumes/<claim>` for claims that the profile maps nowhere else.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from launcher import nodes
from launcher.backend_base import (
    Files,
    Finding,
    Inlet,
    LogLine,
    Manifest,
    Phase,
    RunStatus,
    Shell,
    ShellOptions,
    Volume,
)
from launcher.backends.local import doctor, reader
from launcher.backends.local.files import LocalFiles
from launcher.backends.local.inlet import LocalInlet
from launcher.backends.local.job import LocalJob, read_job
from launcher.backends.local.merged_logs import read_merged
from launcher.backends.local.settings import Order, load_order, save_order
from launcher.backends.local.shell import LocalShell, variables
from launcher.backends.local.state import RunDir, State, local_dir, run_dir, save, volume_dir
from launcher.errors import ClusterError, UserError
from launcher.profiles import ClusterProfile
from launcher.records import RunRecord
from launcher.spec import CodePin
from launcher.wanted import Wanted

_PACKAGE_ROOT = Path(__file__).parents[3]  # the folder that holds `launcher`


class LocalBackend:
    """One supervisor process for each run; nothing runs in between."""

    name = "local"

    def __init__(
        self, *, directories: Mapping[str, str] | None = None, retry_base_s: float = 1.0
    ) -> None:
        self._directories = dict(directories or {})
        self._retry_base_s = retry_base_s

    def where(self) -> tuple[str, str]:
        """A machine has neither context nor namespace."""
        return "", ""

    def claim_path(self, claim: str, mount: str) -> str:  # noqa: ARG002 - the Protocol's; here a claim is a directory
        """The claim's directory. Nothing is created."""
        return self._directories.get(claim) or str(volume_dir(claim))

    def conf_dir(self, run: str) -> str:
        """A folder of the run's own."""
        return str(run_dir(run).conf)

    def code_dir(self, run: str, code: CodePin) -> str:
        """The working tree as it is; a checkout of the run's own when the conf says `code.ref`."""
        return str(run_dir(run).workspace / "code") if code.ref else str(_working_tree(Path.cwd()))

    def submit(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> None:
        """Start a supervisor for the Job. UserError when a secret or a directory is missing, or the name is taken."""
        job = read_job(manifests)
        files = run_dir(job.run)
        self._check(job, files)
        if dry_run:
            return
        for folder in self._folders(job):
            folder.mkdir(parents=True, exist_ok=True)
        files.root.parent.mkdir(parents=True, exist_ok=True)
        files.root.mkdir()
        save_order(Order(manifests=list(manifests), retry_base_s=self._retry_base_s), files.job)
        save(State(run=job.run), files.state)
        _start(files)

    def status(self, record: RunRecord) -> RunStatus:
        return reader.read_status(record.run)

    def list_runs(self) -> list[RunStatus]:
        folders = (local_dir() / "runs").glob("*/state.json")
        return [reader.read_status(path.parent.name) for path in sorted(folders)]

    def logs(
        self,
        record: RunRecord,
        *,
        follow: bool = False,
        since_s: int | None = None,
        tail: int | None = None,
        all_pods: bool = False,
        index: int | None = None,
        wanted: Wanted | None = None,  # noqa: ARG002  all lines come: those of a file on this machine cost little
        quick: bool = False,  # noqa: ARG002  nothing is ever started
    ) -> Iterator[LogLine]:
        if reader.read_state(record.run) is None:
            hint = f"`vidjobs fetch logs {record.run}` brings the run folder's train.log"
            raise UserError(f"the log of {record.run} is gone from this machine", hint=hint)
        index = nodes.console(record) if index is None and not all_pods else index
        read = read_merged if all_pods else reader.read_logs
        return read(record.run, follow=follow, since_s=since_s, tail=tail, index=index)

    def files(self, record: RunRecord) -> AbstractContextManager[Files]:
        return nullcontext(LocalFiles(Path(record.paths.root)))

    def cancel(self, record: RunRecord) -> None:
        """Ask the supervisor to stop the run; returns at once, `status` tells when it has stopped."""
        status = reader.read_status(record.run)
        if status.phase.ended:
            raise UserError(f"{record.run} does not run: it {status.phase.told}", hint=status.fix)
        files = run_dir(record.run)
        files.suspended.touch()
        state = reader.read_state(record.run)
        if state:
            state.supervisor.send(signal.SIGTERM)

    def resume(self, record: RunRecord) -> None:
        """Start again where its last checkpoint is. Waits for a `cancel` under way to be done first."""
        files = run_dir(record.run)
        if files.suspended.exists():
            self._wait_until_ended(record.run)
        status = reader.read_status(record.run)
        if status.phase is Phase.GONE:
            raise UserError(f"{record.run} cannot be resumed: {status.cause}", hint=status.fix)
        if status.phase is Phase.SUCCEEDED or not status.phase.ended:
            hint = f"`vidjobs rerun {record.run}` runs it again, `--from {record.run}@last` starts a new run from its checkpoint"
            raise UserError(
                f"{record.run} cannot be resumed: it {status.phase.told}",
                hint=hint if status.phase.ended else "",
            )
        self._check_secrets(read_job(load_order(files.job).manifests), files)
        files.suspended.unlink(missing_ok=True)
        _start(files)

    def delete(self, record: RunRecord, *, files: bool = False) -> None:
        """Stop the run if it runs, and remove what this machine knows of it; with `files` also its folder on the volume."""
        own = run_dir(record.run)
        if not reader.read_status(record.run).phase.ended:
            self.cancel(record)
            self._wait_until_ended(record.run)
        if own.root.exists():
            shutil.rmtree(own.root)
        folder = Path(record.paths.root)
        if files and folder.is_symlink():
            raise UserError(f"{folder} is a link, not a run's folder", hint="remove it by hand")
        if files and folder.exists():
            shutil.rmtree(folder)

    def create_volume(
        self,
        claim: str,
        *,
        size: str,  # noqa: ARG002 - a directory has none of these
        access: str,  # noqa: ARG002
        storage_class: str = "",  # noqa: ARG002
    ) -> Volume:
        """Make the claim's directory; it has no size of its own. UserError when it is there."""
        folder = Path(self.claim_path(claim, ""))
        if folder.exists():
            raise UserError(f'the claim "{claim}" exists: {folder}')
        folder.mkdir(parents=True)
        return _volume(claim, folder)

    def volumes(self) -> list[Volume]:
        folders = {path.name: path for path in (local_dir() / "volumes").glob("*") if path.is_dir()}
        folders.update({claim: Path(folder) for claim, folder in self._directories.items()})
        return [_volume(claim, folder) for claim, folder in sorted(folders.items())]

    def volume_files(self, claim: str, path: str) -> AbstractContextManager[Files]:
        """A folder of a claim. UserError when `path` leads out of it."""
        root = self._claim(claim)
        folder = root / path.lstrip("/")
        if not folder.resolve().is_relative_to(root.resolve()):
            raise UserError(f'"{path}" leads out of the claim "{claim}"')
        return nullcontext(LocalFiles(folder))

    def inlet(self, claim: str) -> AbstractContextManager[Inlet]:
        return nullcontext(LocalInlet(self._claim(claim)))

    def _claim(self, claim: str) -> Path:
        root = Path(self.claim_path(claim, ""))
        if not root.is_dir():
            hint = f"`vidjobs volume create {claim}` makes it"
            raise UserError(
                f'there is no claim "{claim}" on this machine: {root} does not exist', hint=hint
            )
        return root

    def shell(
        self,
        record: RunRecord | None,
        claim: str,
        wanted: ShellOptions,  # noqa: ARG002 - the Protocol's
    ) -> AbstractContextManager[Shell]:
        """On this machine nothing is limited."""
        return nullcontext(
            LocalShell(Path(record.paths.root), variables(record))
            if record
            else LocalShell(self._claim(claim), {})
        )

    def doctor(self) -> list[Finding]:
        return doctor.examine(local_dir(), self._directories)

    def _check(self, job: LocalJob, files: RunDir) -> None:
        if files.root.exists():
            raise UserError(
                f"a run called {job.run} exists on this machine",
                hint="every run has a name of its own: submit again",
            )
        self._check_secrets(job, files)
        if not job.trainer.get("command"):
            raise UserError(
                "the trainer container names no command",
                hint="on this machine there is no image to have one",
            )
        for claim, folder in self._directories.items():
            used = any(
                Path(mount["mountPath"]) == Path(folder)
                for mount in job.trainer.get("volumeMounts", ())
            )
            if used and not Path(folder).is_dir() and Path(folder) not in self._folders(job):
                raise UserError(
                    f'the claim "{claim}" is mapped to {folder}, which does not exist',
                    hint="create it, or correct the profile",
                )

    def _check_secrets(self, job: LocalJob, files: RunDir) -> None:
        """Secrets are in a cluster's store; here they come from the environment, and are never written down."""
        missing = {
            name: key for name, key in job.secrets(files.root).items() if name not in os.environ
        }
        if missing:
            listed = ", ".join(f"{name} (secret {key})" for name, key in missing.items())
            exports = " ".join(f"{name}=..." for name in missing)
            raise UserError(
                f"this run needs {listed}, which your environment does not have",
                hint=f"export {exports}",
            )

    def _folders(self, job: LocalJob) -> list[Path]:
        """Directories to make: the runs volume, and claims that lie below the state folder."""
        runs = [job.run_folder.parent] if job.run_folder else []
        mounts = [Path(mount["mountPath"]) for mount in job.trainer.get("volumeMounts", ())]
        return runs + [path for path in mounts if path.is_relative_to(local_dir() / "volumes")]

    def _wait_until_ended(self, run: str) -> None:
        end = time.monotonic() + read_job(load_order(run_dir(run).job).manifests).grace_s + 10
        while not _ended(run):
            if time.monotonic() > end:
                raise ClusterError(
                    f"{run} is still stopping", hint=f"look at `vidjobs status {run}` and try again"
                )
            time.sleep(0.05)


def connect(profile: ClusterProfile) -> LocalBackend:
    """The backend with the profile's directories. Nothing is touched yet."""
    return LocalBackend(directories=profile.directories, retry_base_s=profile.retry_s)


def _ended(run: str) -> bool:
    """True when the run has ended and its supervisor has left."""
    state = reader.read_state(run)
    return state is None or not state.supervisor.alive


def _start(files: RunDir) -> None:
    """Start the supervisor; it leaves this terminal, so the call returns as soon as it holds the run."""
    command = [sys.executable, "-m", "launcher.backends.local.supervisor", str(files.root)]
    installed = _PACKAGE_ROOT.name in ("site-packages", "dist-packages")
    started = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=files.root if installed else _PACKAGE_ROOT,
    )
    if started.returncode:
        said = (started.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix(
            "error: "
        )
        raise ClusterError(
            f"the run's supervisor could not start: {said}",
            hint=f"`vidjobs status {files.root.name}` tells what runs",
        )


def _working_tree(folder: Path) -> Path:
    """The git checkout that holds the folder; else the folder itself."""
    return next((path for path in (folder, *folder.parents) if (path / ".git").exists()), folder)


def _volume(claim: str, folder: Path) -> Volume:
    there = folder.is_dir()
    free = f"{shutil.disk_usage(folder).free / (1 << 30):.0f}Gi free" if there else ""
    return Volume(
        claim=claim,
        phase="Bound" if there else "Missing",
        size=free,
        access="directory",
        storage_class=str(folder),
    )
