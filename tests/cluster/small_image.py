"""A small image for pods that need no torch: bare Debian with python3, in the node's image store.

    python tests/cluster/small_image.py       make and load it if need be, print its name

Its file system is kept between runs in VIDJOBS_IMAGE_CACHE (default /var/tmp/vidjobs-images), outside any checkout.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from locks import CACHE, sharing

PROJECT = Path(__file__).resolve().parents[2]
MIRROR = "http://deb.debian.org/debian"
RECIPE = ("bookworm", "python3", "a symbolic link python -> python3")
NODE_HOME = Path(os.environ.get("KUBE_HOME", "/var/tmp/kube-one"))


def small_image(project: Path = PROJECT) -> str:
    """The image's name; the node has it when this returns. Waits for another process that makes it."""
    tag = hashlib.sha256(repr(RECIPE).encode()).hexdigest()[:12]
    name = f"localhost/vidjobs-small:{tag}"
    if _on_node(name):
        return name
    with sharing("small-image", alone=True):
        if not _on_node(name):
            archive = CACHE / f"small-{tag}.tar"
            try:
                _write_archive(archive, name, _layer(tag))
                subprocess.run(
                    [project.parent / "shared" / "kube" / "cluster", "load", archive],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            finally:
                archive.unlink(missing_ok=True)
    return name


def _on_node(name: str) -> bool:
    socket = NODE_HOME / "run" / "containerd.sock"
    listing = subprocess.run(
        ["ctr", "-a", socket, "-n", "k8s.io", "images", "ls", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    return name in listing.stdout.split()


def _layer(tag: str) -> Path:
    """The file system as one tar file, made once (a minute)."""
    layer = CACHE / f"small-{tag}.layer"
    if not layer.exists():
        root = CACHE / f"small-{tag}.root"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={RECIPE[1]}", RECIPE[0], root, MIRROR],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (root / "usr/bin/python").symlink_to("python3")
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        part = layer.with_suffix(".part")
        subprocess.run(["tar", "-C", root, "--exclude=./dev/*", "-cf", part, "."], check=True)
        part.rename(layer)
        shutil.rmtree(root)
    return layer


def _write_archive(archive: Path, name: str, layer: Path) -> None:
    """A `docker load` archive of one layer."""
    digest = hashlib.file_digest(layer.open("rb"), "sha256").hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin"]},
    }
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    index = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        tar.add(layer, "layer.tar")
        for member, value in (("config.json", config), ("manifest.json", index)):
            data = json.dumps(value).encode()
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    print(small_image())
