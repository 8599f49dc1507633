"""Faults of the `prepare` section's values. Standard library only, so that `check` knows them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from trainer.config import Config
from trainer.errors import Fault

LEAST = {"gop": 1, "short_side": 0, "flow_bound": 1, "flow_gap": 1, "shards": 1, "shard": -1}


def prepare_faults(config: Config) -> list[Fault]:
    """In the order of the keys."""
    conf = config.prepare
    faults = [
        Fault(path=f"prepare.{key}", message=f"is {value}, less than {least}")
        for key, least in LEAST.items()
        if (value := getattr(conf, key)) < least
    ]
    if conf.flow_bound > 128:
        faults.append(
            Fault(
                path="prepare.flow_bound",
                message=f"is {conf.flow_bound}",
                hint="an image has 128 levels: 128 px or less",
            )
        )
    if conf.shard >= conf.shards > 0:
        hint = f"0 to {conf.shards - 1}, or leave it out: each pod of `--shards {conf.shards}` knows its own"
        faults.append(
            Fault(
                path="prepare.shard",
                message=f"is {conf.shard} of {conf.shards} shards, which count from 0",
                hint=hint,
            )
        )
    return faults + _folders(config) + _pictures(config)


def _folders(config: Config) -> list[Fault]:
    """Every output has a folder of its own, and what is read is read from where it is written."""
    conf, data = config.prepare, config.data
    named = {
        "data.root": data.root,
        "prepare.videos_to": conf.videos_to,
        "prepare.frames_to": conf.frames_to,
        "prepare.flow_to": conf.flow_to,
    }
    faults = [
        Fault(
            path=second,
            message=f"is {named[second]}, the folder of {first}",
            hint="give each its own folder",
        )
        for first, second in combinations(named, 2)
        if named[first]
        and named[second]
        and Path(named[first]).absolute() == Path(named[second]).absolute()
    ]
    for key, target in (("videos_to", conf.videos_to), ("frames_to", conf.frames_to)):
        if target and data.layout == "frames":
            hint = "set data.layout: videos and data.root to their folder, or leave it out"
            faults.append(
                Fault(
                    path=f"prepare.{key}",
                    message="is set, and data.layout: frames has no videos to read",
                    hint=hint,
                )
            )
    if (
        conf.flow_to
        and data.stream == "flow"
        and data.flow_root
        and Path(data.flow_root).absolute() != Path(conf.flow_to).absolute()
    ):
        message = f"is {conf.flow_to}, and data.stream: flow would be read from {data.flow_root}"
        faults.append(
            Fault(path="prepare.flow_to", message=message, hint="the same folder for both")
        )
    return faults


def _pictures(config: Config) -> list[Fault]:
    conf, faults = config.prepare, []
    if conf.frames_to and conf.frames_rule == "c3d" and conf.short_side:
        message = f"is {conf.short_side}, and frames of the rule c3d are 171 x 128"
        faults.append(
            Fault(
                path="prepare.short_side",
                message=message,
                hint="leave it out, or prepare videos and frames apart",
            )
        )
    if conf.short_side % 2:
        faults.append(
            Fault(
                path="prepare.short_side",
                message=f"is {conf.short_side}: H.264 has even sides only",
            )
        )
    if conf.stats and config.data.source == "files":
        hint = "run it once with data.source: cache"
        faults.append(
            Fault(
                path="prepare.stats",
                message="needs the cached frames, and data.source is files",
                hint=hint,
            )
        )
    return faults
