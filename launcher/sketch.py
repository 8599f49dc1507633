"""What a conf would send, drawn offline for `lint`: no repository is asked, so the commit is a row of zeros."""

from __future__ import annotations

import re

from launcher.backend_base import Backend, Manifest
from launcher.conf.resolve import Experiment
from launcher.errors import ConfError
from launcher.plan import job_spec
from launcher.profiles import ClusterProfile
from launcher.render import render
from launcher.spec import CodePin, SecretKey
from launcher.sweep import expand


def sketch(experiment: Experiment, profile: ClusterProfile, backend: Backend) -> list[Manifest]:
    """The manifests of `submit train`, and of its sweep and its shards where the conf has them; none of a conf too faulty for that."""
    if not any(volume.as_ == "runs" for volume in experiment.job.volumes) or not re.fullmatch(
        "[a-z0-9-]+", experiment.name
    ):
        return []
    code = experiment.job.code
    token = SecretKey(secret=code.token.secret, key=code.token.key) if code.token else None
    pin = CodePin(kind=code.kind, repo=code.repo, ref=code.ref, commit="0" * 40, token=token)
    section = experiment.trainer.get("prepare")
    verbs = ["train", *(["prepare"] if isinstance(section, dict) and "shards" in section else [])]
    specs = [
        job_spec(verb, experiment, profile, backend, letters="xxxxxx", code=pin) for verb in verbs
    ]
    try:
        if experiment.sweep is not None:
            specs.append(
                job_spec(
                    "train",
                    experiment,
                    profile,
                    backend,
                    letters="xxxxxx",
                    code=pin,
                    trials=expand(experiment),
                )
            )
        return [manifest for spec in specs for manifest in render(spec)]
    except ConfError:  # told as a fault by those who look at it
        return []
