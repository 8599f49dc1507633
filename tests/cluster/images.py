"""The job image in the node's image store, built only when one of its inputs has changed.

    python tests/cluster/images.py       build and load it if need be, print its name

The image is named by a hash of all it is made from. What is kept between runs lies in VIDJOBS_IMAGE_CACHE
(default /var/tmp/vidjobs-images), outside any checkout: the newest built image, 7 GB. The archive that carries
it into the node lives only as long as the transfer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from locks import CACHE, sharing

PROJECT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
NAME = "localhost/vidjobs-test"
NODE_HOME = Path(os.environ.get("KUBE_HOME", "/var/tmp/kube-one"))
SPACE_NEEDED = 24 * 10**9  # bytes: layers, the archive and the node's two copies


def job_image(project: Path = PROJECT) -> str:
    """The name of the job image, which the node has when this returns. Waits for another process that builds it."""
    name = f"{NAME}:{inputs_hash(project)}"
    if on_node(name):
        return name
    with sharing("image", alone=True):
        if not on_node(name):
            _require_space()
            if not _built(name):
                _build(project, name)
            _load(name)
    return name


def inputs_hash(project: Path) -> str:
    """Twelve hex digits that change when the image would: its recipe, its packages, its base."""
    extras = tomllib.loads((project / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    digest = hashlib.sha256(f"{SUITE} {extras['trainer']} {extras['video']}".encode())
    for name in ("Dockerfile", "entrypoint.sh", "requirements.py"):
        lines = (project / "docker" / name).read_text().splitlines()
        digest.update("\n".join(line for line in lines if not line.startswith("# ")).encode())
    return digest.hexdigest()[:12]


def on_node(name: str) -> bool:
    """Whether the node's image store has `name`; False when no node runs here."""
    return name in _node_images("ls", "--quiet").split()


def load_archive(archive: Path, project: Path = PROJECT) -> None:
    """Import an OCI or docker archive into the node."""
    _run([_cluster(project), "load", archive])


def _node_images(*arguments: str) -> str:
    socket = NODE_HOME / "run" / "containerd.sock"
    if not socket.exists():
        return ""
    return subprocess.run(
        ["ctr", "-a", socket, "-n", "k8s.io", "images", *arguments],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def _build(project: Path, name: str) -> None:
    _clean()  # an older image: nobody asks for it again
    base = _base_image()
    environment = {
        "BUILDER": str(_buildah_wrapper()),
        "BASE": base,
        "BUILD_ARGS": "--isolation chroot",
        "PIP_CERT": os.environ.get("PIP_CERT", ""),
    }
    _run([project / "docker" / "build.sh", name], {**os.environ, **environment})


def _base_image() -> str:
    """A bare Debian as an image: what `docker.io/library/debian` is elsewhere."""
    root = CACHE / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    _run(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, root, MIRROR])
    container = _buildah("from", "scratch")
    _buildah("copy", "--quiet", container, str(root), "/")
    shutil.rmtree(root)
    name = f"localhost/vidjobs-base:{SUITE}"
    _buildah("commit", "--quiet", "--rm", container, name)
    return name


def _load(name: str) -> None:
    """Into the node, in place of older ones."""
    _forget_older()
    archive = CACHE / "image.tar"
    archive.unlink(missing_ok=True)
    try:
        # its layers are not compressed: faster on both sides
        _buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")
        load_archive(archive)
    finally:
        archive.unlink(missing_ok=True)


def _forget_older() -> None:
    """Each takes 11 GB on the node. The kubelet gives an image that it used a second name, by its id: both must go."""
    rows = [line.split() for line in _node_images("ls").splitlines()[1:]]
    digests = {digest for name, _, digest, *_ in rows if name.startswith(f"{NAME}:")}
    names = [name for name, _, digest, *_ in rows if digest in digests]
    if names:
        _node_images("rm", "--sync", *names)


def _built(name: str) -> bool:
    return (
        subprocess.run(
            [*_STORAGE, "inspect", "--type", "image", name], capture_output=True, check=False
        ).returncode
        == 0
    )


def _clean() -> None:
    _buildah("rm", "--all")
    _buildah("rmi", "--all", "--force")


def _require_space() -> None:
    free = shutil.disk_usage(CACHE).free
    if free < SPACE_NEEDED:
        raise OSError(
            f"{CACHE} has {free / 1e9:.0f} GB free; building and loading the job image needs {SPACE_NEEDED / 1e9:.0f} GB"
        )


_STORAGE = ["buildah", "--root", str(CACHE / "storage"), "--runroot", str(CACHE / "storage-run")]


def _buildah(*arguments: str) -> str:
    return _run([*_STORAGE, *arguments])


def _buildah_wrapper() -> Path:
    """buildah with our own storage, as one command that docker/build.sh can call."""
    wrapper = CACHE / "buildah"
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(_STORAGE)} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _cluster(project: Path) -> Path:
    return project.parent / "shared" / "kube" / "cluster"


def _run(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    """Stdout of a command that must succeed; its stderr, and the time of a slow one, go to ours."""
    start = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    if (took := time.monotonic() - start) > 5:
        print(f"{took:6.0f} s  {' '.join(map(str, command))}", file=sys.stderr)
    return done.stdout.strip()


if __name__ == "__main__":
    print(job_image())
