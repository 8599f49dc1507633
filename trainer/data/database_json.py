"""The annotation of the 3D CNN systems, as ActivityNet's: one JSON of all videos with their subset and label.

{"labels": ["Archery", ...], "database": {"v_Archery_g08_c01": {"subset": "training", "annotations": {"label": "Archery"}, "n_frames": 90}}}

For Kinetics the database has a mapping for each subset: {"database": {"training": {"<id>_000010_000020": {...}}}}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainer.data.dataset_files import ClassIndex, Listed, plain_name
from trainer.errors import DataError

SUBSETS = ("training", "validation", "testing")


def parse_database(
    raw: Any,
    source: str,
    *,
    splits: Mapping[str, str],
    classes: Sequence[str] = (),
    group: Callable[[str, str], str],
) -> tuple[tuple[str, ...], dict[str, list[Listed]]]:
    """(classes, split -> videos in the file's order). Raises DataError that names file, video and fault.

    `splits` is the split of each subset that is wanted; `classes` wins over the file's order of labels; `group` of (class, video).
    """
    if (
        not isinstance(raw, Mapping)
        or not isinstance(raw.get("database"), Mapping)
        or not isinstance(raw.get("labels"), list)
    ):
        raise DataError(f'{source} is not a mapping with "labels" and "database"')
    labels = raw["labels"]
    if (
        not labels
        or not all(isinstance(label, str) and label for label in labels)
        or len(set(labels)) < len(labels)
    ):
        raise DataError(f'{source}: "labels" is not a list of different class names')
    chosen = tuple(classes) or tuple(labels)
    index = ClassIndex(chosen)
    listed: dict[str, list[Listed]] = {split: [] for split in splits.values()}
    for name, video in _videos(raw["database"], source):
        where = f"{source}, {name}"
        subset = video.get("subset")
        if subset not in SUBSETS:
            raise DataError(f"{where}: subset is {subset!r}", hint=f"known: {', '.join(SUBSETS)}")
        if subset not in splits:
            continue
        label = _label(video, where)
        frames = video.get("n_frames", 0)
        if type(frames) is not int or frames < 0:
            raise DataError(f"{where}: n_frames is {frames!r}, not a number of frames")
        folder = plain_name(label, where)
        listed[splits[subset]].append(
            Listed(
                name=plain_name(name, where),
                label=index(label, where),
                folder=folder,
                frames=frames,
                group=group(label, name),
            )
        )
    return chosen, listed


def _videos(database: Mapping[str, Any], source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    nested = bool(database) and set(database) <= set(SUBSETS)
    for subset, members in database.items() if nested else [("", database)]:
        if not isinstance(members, Mapping):
            raise DataError(f"{source}: {subset} is {members!r}, not a mapping of videos")
        for name, video in members.items():
            if not isinstance(video, Mapping):
                raise DataError(
                    f"{source}, {name}: is {video!r}, not a mapping with subset and annotations"
                )
            yield name, {**video, "subset": video.get("subset", subset)}


def _label(video: Mapping[str, Any], source: str) -> str:
    annotations = video.get("annotations")
    label = annotations.get("label") if isinstance(annotations, Mapping) else None
    if not isinstance(label, str):
        raise DataError(f"{source}: has no annotations with a label")
    return label
