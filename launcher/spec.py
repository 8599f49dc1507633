"""What a job is, as plain frozen values: the input of `render.render` and of nothing that talks to the world."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One claim, mounted in the trainer container."""

    claim: str
    mount: str  # absolute path in the container; on the local backend a directory of this machine
    read_only: bool = False
    # copy the claim's files here (an emptyDir) before the trainer starts; "" = use in place
    stage_to: str = ""
    unpack: bool = False  # with stage_to: also unpack the tar files found at the claim's top


@dataclass(frozen=True, kw_only=True)
class SecretKey:
    """One key of a Secret of the namespace."""

    secret: str
    key: str


@dataclass(frozen=True, kw_only=True)
class CodePin:
    """Which code a run uses. `commit` is always a full sha, so a retry runs the same code."""

    kind: str  # "repo" | "worktree" | "image"
    repo: str = ""
    ref: str = ""  # what the conf said ("main"); kept for people
    commit: str = ""
    diff: str = ""  # `git diff --binary` text against `commit`; "" when clean
    token: SecretKey | None = None
    checkout: str = ""  # of a working tree that runs as it is: its folder on this machine
    origin: str = ""  # and where its commits may be had when that folder has gone
    unrecorded: str = ""  # why local changes are not in `diff`


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Of the trainer container; limits equal requests."""

    gpu_resource: str = "nvidia.com/gpu"
    gpus: int = 0
    cpu: str = "4"
    memory: str = "16Gi"
    shm: str = "8Gi"  # memory-backed /dev/shm; counts inside `memory`
    scratch: str = "10Gi"  # ephemeral-storage


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """Everything the templates in `k8s_templates` need. No defaults are filled in later."""

    run: str
    verb: str
    name: str  # the conf's name
    namespace: str
    image: str
    argv: tuple[str, ...]  # of the trainer container, from "python" on
    conf_text: str  # the flat conf, as the trainer reads it
    conf_dir: str  # where conf.yaml (and code.diff) are mounted
    code: CodePin
    code_dir: str  # working directory of the trainer; "" with code.kind == "image"
    mounts: tuple[Mount, ...]
    runs_mount: str  # the mount that holds the runs ("/runs")
    resources: Resources
    node_affinity: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (label key, allowed values)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    secret_env: tuple[tuple[str, SecretKey], ...] = ()  # (variable, key)
    pull_secrets: tuple[str, ...] = ()
    priority: str = ""
    queue: str = ""  # Kueue queue label
    uid: int = 1000
    gid: int = 1000
    fs_group: int = 1000
    retries: int = 5  # of each shard
    shards: int = 1  # pods of one `prepare`, each with an index of its own; all others have one pod
    # a sweep's trials file, mounted beside conf.yaml: each trial is a pod with an index of its own
    trials: str = ""
    parallelism: int = 1  # trials at a time
    max_failed: int | None = None  # more failed trials than this end the sweep
    nodes: int = 1  # pods that train together, each a node of the group
    join_s: int = 900  # how long each waits for the others
    avoid_nodes: tuple[str, ...] = ()  # names of nodes that no pod may go to
    deadline_s: int | None = None
    grace_s: int = 120
    ttl_s: int = 7 * 24 * 3600
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
