"""`vidjobs init`: a first conf in this directory, and the cluster to use from now on. Asks nothing."""

from __future__ import annotations

from pathlib import Path

from launcher import output
from launcher.errors import UserError
from launcher.profiles import config_dir, configured, load
from launcher.whole_file import write_whole

STARTER = Path("experiment.yaml")
_TEXT = """\
# One experiment. `vidjobs conf experiment.yaml --explain` shows every value and where it comes from;
# `vidjobs submit train experiment.yaml --set train.lr=3e-4` changes one for one run.
name: my-experiment

data:
  name: tinyvirat
  root: "${data}/TinyVIRAT" # classes.txt, tiny_train.json, tiny_test.json and videos/
  frames: 32
  size: 28 # px that the model is fed

model: # `vidjobs models` lists them
  name: resizer_i3d
  resizer: 3d
  mode: 32x112
  # init: {i3d: "${runs}/models/i3d.pt"} # weights to start from

train:
  epochs: 50
  batch: 32
  accumulate: 2
  optimizer: adam
  lr: 1e-3

job:
  # image: registry.example/vidjobs:1.0@sha256:... # needed on a cluster
  code: worktree # this checkout; or {repo: URL, ref: main}, or image
  resources: {gpus: 1, cpu: 8, memory: 32Gi, shm: 8Gi, scratch: 40Gi}
  volumes: # on this machine: folders; `vidjobs volume create NAME --size 100Gi` makes one on a cluster
    - {claim: runs, mount: /runs, as: runs}
    - {claim: data, mount: /mnt/data, as: data, read_only: true}
  retries: 5
"""


def _remember(cluster: str) -> None:
    """`cluster:` of the person's config; what was chosen before is told."""
    name, before = load(cluster).name, configured()
    settings = config_dir() / "config.yaml"
    write_whole(
        settings, f"cluster: {name} # a cluster profile; `vidjobs clusters` lists them\n".encode()
    )
    output.result(str(settings))
    if before not in ("", name):
        output.note(f"it was {before}")


def run(*, cluster: str | None = None, force: bool = False) -> int:
    """A conf that is there stays: without `force` it is an error where nothing else was asked for."""
    if STARTER.exists() and not force and cluster is None:
        raise UserError(f"{STARTER} is there already", hint="`vidjobs init --force` overwrites it")
    if cluster is not None:
        _remember(cluster)
    if STARTER.exists() and not force:
        output.note(f"{STARTER} is there already, and stays as it is")
        return 0
    write_whole(STARTER, _TEXT.encode())
    output.result(str(STARTER))
    output.note(f"next: `vidjobs lint {STARTER}`, then `vidjobs submit train {STARTER}`")
    return 0
