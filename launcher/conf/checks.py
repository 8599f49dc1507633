"""What Kubernetes would refuse, or a manifest could not hold, in a `job` section whose types are right already."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from launcher.conf.schema import JobConf
from launcher.conf.units import amount

# <name>-<verb>-<6 random>-<index>: a label and a pod's host name have 63 characters, "compress" is
# the longest verb,
# and an index of four digits comes with its dash.
LONGEST_NAME = 63 - len("-compress") - len("-abcdef") - len("-0000")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_IMAGE = re.compile(r"[A-Za-z0-9][-._/:@A-Za-z0-9]*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?"
)

Problem = tuple[str, str, str]  # key path, message, hint


def name_problem(name: str) -> tuple[str, str]:
    """Why a conf's name cannot begin the names of Jobs, and a name that could; empty when it can."""
    if len(name) > LONGEST_NAME:
        return (
            f'"{name}" has {len(name)} characters; with the verb, 6 random ones and an index at most {LONGEST_NAME} fit',
            "shorten it",
        )
    if not _LABEL.fullmatch(name) or not name[0].isalpha():
        proposal = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        message = f'"{name}" cannot name a Job: lower-case letters, digits and "-", a letter first'
        return message, f'did you mean "{proposal}"?' if _LABEL.fullmatch(proposal) and proposal[
            0
        ].isalpha() else ""
    return "", ""


def is_claim(name: str) -> bool:
    """Whether Kubernetes would take it as the name of a claim: a DNS subdomain, so never a path."""
    return len(name) <= 253 and bool(_SUBDOMAIN.fullmatch(name))


def job_problems(job: JobConf) -> Iterator[Problem]:
    """Every problem of the section, by key path below `job`."""
    if job.image and not _IMAGE.fullmatch(job.image):
        yield "image", f"{job.image!r} is not the name of an image", ""
    if job.nodes < 1:
        yield "nodes", f"is {job.nodes}; 1 is the least", ""
    if job.join_timeout < 1:
        yield (
            "join_timeout",
            f"is {job.join_timeout} s; pods do not come at once",
            "join_timeout: 15m",
        )
    yield from _code(job)
    yield from _webhook(job)
    yield from _volumes(job)
    yield from _environment(job)
    yield from _names(job)
    resources = job.resources
    if amount(resources.shm) >= amount(resources.memory):
        yield (
            "resources.shm",
            f"{resources.shm} leaves nothing of memory {resources.memory}, in which it counts",
            "raise memory or lower shm",
        )
    if resources.gpu_type and not resources.gpus:
        yield "resources.gpu_type", "is given, but gpus is 0", "set job.resources.gpus"
    for part in ("uid", "gid", "fs_group"):
        if getattr(job.user, part) == 0:
            yield (
                f"user.{part}",
                "is 0: Pod Security `restricted` refuses root",
                "any other id, such as 1000",
            )


def _code(job: JobConf) -> Iterator[Problem]:
    code = job.code
    if code.kind == "repo" and not code.repo:
        yield (
            "code",
            '"repo" is missing',
            "the URL of a git repository, or `code: worktree` or `code: image`",
        )
    if re.match(r"[a-z+]+://[^/@]*:[^/@]*@", code.repo) or re.match(r"https?://[^/]*@", code.repo):
        yield (
            "code.repo",
            "holds a user or a token: URLs end up in logs and in .git/config",
            "put it in a Secret and name it in job.code.token",
        )
    if code.repo.startswith("-") or code.ref.startswith("-"):
        yield "code", 'a repository or a ref cannot begin with "-"', ""


def _webhook(job: JobConf) -> Iterator[Problem]:
    hook = job.webhook
    if hook and bool(hook.url) == bool(hook.secret):
        yield (
            "webhook",
            "wants either a url or a secret",
            "{secret: NAME, key: url}, where the Secret's key holds the address",
        )
    if hook and hook.url and not re.match(r"https?://[^/\s]+", hook.url):
        yield "webhook.url", f'"{hook.url}" is no http address', ""


def _volumes(job: JobConf) -> Iterator[Problem]:
    used: dict[str, str] = {"/vidjobs": "vidjobs", "/dev/shm": "shared memory"}
    roles: set[str] = set()
    for index, volume in enumerate(job.volumes):
        where = f"volumes[{index}]"
        if not is_claim(volume.claim):
            yield (
                f"{where}.claim",
                f'"{volume.claim}" cannot name a claim',
                'lower-case letters, digits, "-" and "."',
            )
        for key, path in (("mount", volume.mount), ("stage_to", volume.stage_to)):
            if path and (why := _path_problem(path, used)):
                yield f"{where}.{key}", why, ""
            if path:
                used[path.rstrip("/")] = f"{where}.{key}"
        if volume.as_ in roles:
            yield f"{where}.as", f'"{volume.as_}" is taken by another volume', ""
        if volume.as_:
            roles.add(volume.as_)
        if volume.as_ == "runs" and (volume.stage_to or volume.read_only):
            yield where, "runs are written here: it can be neither staged nor read_only", ""
        if volume.unpack and not volume.stage_to:
            yield (
                f"{where}.unpack",
                "there is no stage_to to unpack into",
                "add stage_to: /mnt/data",
            )
    if "runs" not in roles:
        yield (
            "volumes",
            "no volume says `as: runs`, so there is no place for checkpoints",
            "{claim: NAME, mount: /runs, as: runs}",
        )


def _path_problem(path: str, used: dict[str, str]) -> str:
    if (
        not path.startswith("/")
        or path.rstrip("/") == ""
        or ":" in path
        or ".." in PurePosixPath(path).parts
    ):
        return f'"{path}" is not an absolute path below /, without ".." and ":"'
    for other, owner in used.items():
        if PurePosixPath(path) == PurePosixPath(other) or (
            owner in ("vidjobs", "shared memory") and PurePosixPath(path).is_relative_to(other)
        ):
            return f'"{path}" is taken by {owner}'
    return ""


def _environment(job: JobConf) -> Iterator[Problem]:
    names = [(f"env.{name}", name) for name in job.env] + [
        (f"secrets[{index}].env", secret.env) for index, secret in enumerate(job.secrets)
    ]
    for where, name in names:
        if not _VARIABLE.fullmatch(name):
            yield where, f'"{name}" cannot name a variable', ""
        elif name.startswith("VIDJOBS_"):
            yield where, "variables that begin with VIDJOBS_ are set by vidjobs", ""
    for index, secret in enumerate(job.secrets):
        if secret.env in job.env:
            yield f"secrets[{index}].env", f'"{secret.env}" is in job.env too', ""


def _names(job: JobConf) -> Iterator[Problem]:
    for where, value, pattern, what in _named(job):
        if not pattern(value):
            yield where, f'"{value}" cannot be {what}', ""


def _named(job: JobConf) -> Iterator[tuple[str, str, Callable[[str], object], str]]:
    secrets = [
        (f"secrets[{index}]", secret.secret, secret.key) for index, secret in enumerate(job.secrets)
    ]
    if job.code.token:
        secrets.append(("code.token", job.code.token.secret, job.code.token.key))
    if job.webhook and job.webhook.secret:
        secrets.append(("webhook", job.webhook.secret, job.webhook.key))
    for where, secret, key in secrets:
        yield f"{where}.secret", secret, _SUBDOMAIN.fullmatch, "the name of a Secret"
        yield f"{where}.key", key, _SECRET_KEY.fullmatch, "a key of a Secret"
    for index, name in enumerate(job.pull_secrets):
        yield f"pull_secrets[{index}]", name, _SUBDOMAIN.fullmatch, "the name of a Secret"
    if job.priority:
        yield "priority", job.priority, _SUBDOMAIN.fullmatch, "the name of a priority class"
    if job.queue:
        yield "queue", job.queue, _SUBDOMAIN.fullmatch, "the name of a queue"
    for index, name in enumerate(job.avoid_nodes):
        yield f"avoid_nodes[{index}]", name, _SUBDOMAIN.fullmatch, "the name of a node"
    for key, value in job.node_selector.items():
        yield f"node_selector.{key}", key, _LABEL_KEY.fullmatch, "the key of a label"
        yield f"node_selector.{key}", value, _LABEL_VALUE.fullmatch, "the value of a label"
