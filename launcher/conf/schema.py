"""Every key of `name`, `job` and `sweep` with its default. The other sections are the trainer's (trainer/config.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from launcher.conf.units import Bytes, Cores, Seconds

# Sections that the launcher hands on as they are; tests/contract compares this with
# trainer/config.py.
TRAINER_SECTIONS = ("data", "model", "train", "test", "eval", "fuse", "infer", "prepare", "compute")


@dataclass(frozen=True, kw_only=True)
class KeyConf:
    """One key of a Secret."""

    secret: str
    key: str


@dataclass(frozen=True, kw_only=True)
class CodeConf:
    """Which code runs.

    `code: worktree` is this checkout, as a commit that the remote has and the local diff; `code: image` is baked in.
    """

    kind: Literal["repo", "worktree", "image"] = "worktree"
    repo: str = ""  # URL without user or token
    # branch, tag or commit; "" = the repository's HEAD. Resolved to a commit when submitted
    ref: str = ""
    token: KeyConf | None = None  # for a private repository
    # globs of files in local changes that only look as if they held a secret
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ResourcesConf:
    """What the trainer's container gets; limits equal requests."""

    gpus: int = 0
    gpu_type: tuple[str, ...] = ()  # any of these; names as the cluster profile has them
    cpu: Cores = field(default=Cores("4"))
    memory: Bytes = field(default=Bytes("16Gi"))
    shm: Bytes = field(default=Bytes("2Gi"))  # of /dev/shm; counts inside `memory`
    scratch: Bytes = field(default=Bytes("10Gi"))  # local disk: code, staged data, caches


@dataclass(frozen=True, kw_only=True)
class VolumeConf:
    """One claim."""

    claim: str
    mount: str  # absolute path in the container
    # what ${runs} and ${data} stand for
    as_: Literal["", "runs", "data"] = field(default="", metadata={"key": "as"})
    read_only: bool = False
    stage_to: str = ""  # copy the claim here, onto local disk, before the trainer starts
    unpack: bool = False  # with stage_to: unpack the tar files at the claim's top


@dataclass(frozen=True, kw_only=True)
class SecretConf:
    """An environment variable from a Secret."""

    env: str
    secret: str
    key: str


@dataclass(frozen=True, kw_only=True)
class TolerationConf:
    """A taint that the pod accepts."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


@dataclass(frozen=True, kw_only=True)
class UserConf:
    """The ids the pod runs as; none may be 0."""

    uid: int = 1000
    gid: int = 1000
    fs_group: int = 1000


@dataclass(frozen=True, kw_only=True)
class WebhookConf:
    """An address that the trainer POSTs a small JSON document to when the run ends (each trial and each shard of its own)."""

    # in plain sight of everybody who may read Jobs: most such addresses belong in a Secret
    url: str = ""
    secret: str = ""  # instead of url: a Secret of the namespace
    key: str = "url"  # and its key


@dataclass(frozen=True, kw_only=True)
class JobConf:
    """Where and with what the trainer runs."""

    image: str = ""  # required on a cluster; pin it with @sha256:...
    code: CodeConf = field(default_factory=CodeConf)
    resources: ResourcesConf = field(default_factory=ResourcesConf)
    nodes: int = 1  # pods that train together, each with `resources`; train, test and eval only
    # with several nodes: how long a pod waits for the others to come
    join_timeout: Seconds = field(default=Seconds(900))
    volumes: tuple[VolumeConf, ...] = ()
    retries: int = 5  # of failed pods, of each node; evictions do not count
    deadline: Seconds | None = None  # of all attempts together; none by default
    grace: Seconds = field(default=Seconds(120))  # from SIGTERM to SIGKILL
    # the Job and its logs are kept so long after the end
    ttl: Seconds = field(default=Seconds(7 * 86400))
    env: dict[str, str] = field(default_factory=dict)
    secrets: tuple[SecretConf, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    priority: str = ""  # priority class
    queue: str = ""  # Kueue's local queue
    webhook: WebhookConf | None = None  # who is told when the run ends
    tolerations: tuple[TolerationConf, ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    avoid_nodes: tuple[str, ...] = ()  # names of nodes that no pod may go to
    user: UserConf = field(default_factory=UserConf)


@dataclass(frozen=True, kw_only=True)
class RandomConf:
    """Samples of settings, each drawn from the seed, its key and its number: more samples or keys leave the others as they are."""

    samples: int
    seed: int = 0
    # key path -> list to choose from, or {low, high, log: true, whole: true}
    space: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SweepConf:
    """Trials: settings that differ, all else the conf's. `list`, `grid` and `random` together are crossed."""

    # key path -> list of values; every combination is a trial
    grid: dict[str, Any] = field(default_factory=dict)
    # one by one: [{model.name: i3d, train.lr: 1e-3}]
    list_: tuple[dict[str, Any], ...] = field(default=(), metadata={"key": "list"})
    random: RandomConf | None = None
    where: str = ""  # which combinations are trials: "model.read_at <= model.apply_at"
    parallelism: int = 1  # trials at a time: what of a shared cluster is taken
    # more failed trials than this end the sweep; without it the others always go on
    max_failed: int | None = None
