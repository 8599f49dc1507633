"""Names to backends, and the backend of a run or of a cluster profile."""

from __future__ import annotations

from collections.abc import Callable

from launcher.backend_base import Backend
from launcher.errors import UserError, did_you_mean
from launcher.profiles import ClusterProfile, load
from launcher.records import RunRecord


def _kube(profile: ClusterProfile) -> Backend:
    from launcher.backends.kube import backend  # each verb pays for one backend only

    return backend.connect(profile)


def _local(profile: ClusterProfile) -> Backend:
    from launcher.backends.local import backend

    return backend.connect(profile)


ALL_BACKENDS: dict[str, Callable[[ClusterProfile], Backend]] = {"kube": _kube, "local": _local}


def for_profile(profile: ClusterProfile, name: str | None = None) -> Backend:
    """The backend that `name` says, else the profile's own. Nothing is contacted yet."""
    chosen = name or profile.backend
    if chosen not in ALL_BACKENDS:
        known = ", ".join(ALL_BACKENDS)
        raise UserError(
            f'no backend is called "{chosen}"',
            hint=did_you_mean(chosen, list(ALL_BACKENDS)) or f"known: {known}",
        )
    return ALL_BACKENDS[chosen](profile)


def profile_of(record: RunRecord) -> ClusterProfile:
    """The profile a run was submitted with, which may be one of its own directory's, in the context and namespace of that day."""
    return load(record.cluster, near=record.directory).at(
        context=record.context, namespace=record.namespace
    )


def for_record(record: RunRecord) -> Backend:
    """The backend a run was submitted to."""
    return ALL_BACKENDS[record.backend](profile_of(record))
