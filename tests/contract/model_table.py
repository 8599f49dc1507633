"""Writes conf/MODELS.md, and the README's table between its markers: what each network costs, takes, reaches and is run by.

Parameters and multiply-adds are counted on the spot, weights and accuracies are those of the models' PUBLISHED, and confs are
found by the model they name. `make docs`; a test keeps it true.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from trainer import models, signatures
from trainer.config import parse
from trainer.model_rules import model_options
from trainer.models import counting, published

PROJECT = Path(__file__).resolve().parents[2]
OPEN, CLOSE = "<!-- models -->", "<!-- /models -->"
HEAD = """# The networks

Made by `make docs` from the networks themselves, their records of published weights, and the confs; do not edit.
Trainable parameters and multiply-adds (of convolutions and linear layers, one clip) are counted for the classes and the input that
stand beside them. `vidjobs models NAME` says of each file where it is, how its frames were fed and what to write in a conf;
a weight's name stands for `model.init: published:NAME`, or for the file of that record where it has no address of its own.
"""
# a conf may differ in these and still run that row's network
COSTLESS = (
    "num_classes",
    "frames",
    "size",
    "in_size",
    "seq_len",
    "in_channels",
    "dropout",
    "bn_momentum",
    "freeze_i3d",
)


@dataclass(frozen=True)
class Row:
    """One configuration of a network. `frames` and `size` are the clip's."""

    model: str
    frames: int
    size: int
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    short: bool = False  # in the README, too
    result: str = ""  # published for it, where no published file says so

    @property
    def title(self) -> str:
        """As a conf writes it, as far as it is not the default."""
        own = ", ".join(
            f"{key}: {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in self.options.items()
        )
        return f"`{self.model}`" + (f" {own}" if own else "")

    @property
    def key(self) -> str:
        """The cells of its row that tell it from all others."""
        return f"{self.title} | {self.classes} | {self.clip}"

    @property
    def clip(self) -> str:
        """What it is fed."""
        return f"{self.frames} x {self.size} px"


def _efficient() -> Iterator[Row]:
    for depth, shortcut in (
        (18, "A"),
        (18, "B"),
        (34, "A"),
        (34, "B"),
        (50, "B"),
        (101, "B"),
        (152, "B"),
        (200, "B"),
    ):
        yield Row(
            "resnet3d",
            16,
            112,
            600,
            {"depth": depth, "shortcut": shortcut},
            short=(depth, shortcut) in ((18, "A"), (50, "B")),
        )
    for depth in (50, 101, 152):
        yield Row("resnext3d", 16, 112, 600, {"depth": depth, "shortcut": "B"}, short=depth == 101)
    widths = {"mobilenetv2_3d": (0.2, 0.45, 0.7, 1.0), "shufflenetv2_3d": (0.25, 1.0, 1.5, 2.0)}
    for model in ("mobilenetv2_3d", "mobilenet_3d", "shufflenet_3d", "shufflenetv2_3d"):
        for width in widths.get(model, (0.5, 1.0, 1.5, 2.0)):
            yield Row(model, 16, 112, 600, {"width": width}, short=width == 1.0)
    yield Row("squeezenet_3d", 16, 112, 600, short=True)
    yield Row("c3d_bn", 16, 112, 600, short=True)
    for depth, bottleneck in ((26, "ip"), (50, "ip"), (50, "ir"), (101, "ip"), (152, "ip")):
        yield Row(
            "csn",
            16,
            112,
            101,
            {"depth": depth, "bottleneck": bottleneck},
            short=(depth, bottleneck) == (50, "ip"),
        )


def _vmz() -> Iterator[Row]:
    yield Row(
        "r2plus1d",
        8,
        112,
        400,
        {"depth": 18},
        short=True,
        result="Kinetics-400 video top-1 65.3, top-5 85.2",
    )
    yield Row("r2plus1d", 16, 112, 400, {"depth": 18, "midplanes": "torchvision"}, short=True)
    yield Row("r2plus1d", 32, 112, 400, {"depth": 34}, short=True)
    yield Row("r2plus1d", 32, 112, 400, {"depth": 152}, short=True)
    for model in ("r3d", "r2d", "fr2d", "mc2", "mc3", "mc4", "mc5", "rmc2", "rmc3", "rmc4", "rmc5"):
        yield Row(model, 8, 112, 400, {"depth": 18}, short=model in ("r3d", "mc3"))
        if model == "r2d":
            yield Row(model, 16, 112, 400, {"depth": 18, "frames": 16})
        if model in ("r3d", "mc3"):
            yield Row(model, 16, 112, 400, {"depth": 18, "midplanes": "torchvision"})
    for depth in (50, 101, 152):
        for bottleneck in ("ir", "ip"):
            options = {"depth": depth, "bottleneck": bottleneck, "flavour": "vmz", "pool1": True}
            yield Row("csn", 32, 224, 400, options, short=depth == 152)
    yield Row("c3d_vmz", 16, 112, 400, short=True)


SECTIONS: dict[str, tuple[Row, ...]] = {
    "I3D and learned resizers (TinyVIRAT)": (
        Row("i3d", 32, 112, 26, short=True, result="TinyVIRAT f1_macro .321, micro .762"),
        Row("i3d", 64, 224, 400, {"mode": "64x224"}),
        Row("i3d", 16, 32, 26, {"mode": "16x32"}),
        Row("resizer_i3d", 32, 28, 26, short=True, result="TinyVIRAT f1_macro .244, micro .780"),
        Row(
            "resizer_i3d",
            32,
            56,
            26,
            {"resizer": "3d"},
            short=True,
            result="TinyVIRAT f1_macro .291, micro .779",
        ),
        Row(
            "stn_resizer_i3d",
            32,
            28,
            26,
            {"residual_blocks": 2},
            short=True,
            result="TinyVIRAT f1_macro .226, micro .773",
        ),
        Row(
            "transformer_resizer_i3d",
            32,
            28,
            26,
            {"residual_blocks": 3, "read_at": 2, "apply_at": 2},
            short=True,
        ),
    ),
    "Two-stream 2D networks": (
        Row(
            "inception_v3",
            1,
            299,
            400,
            short=True,
            result="Kinetics-400 video top-1 66.9, top-5 85.7",
        ),
        Row("inception_v3", 5, 299, 400),
        Row("vgg16", 1, 300, 400, short=True),
        Row("vgg16", 1, 300, 400, {"hidden": 1024}),
    ),
    "Efficient 3D networks and 3D ResNets": tuple(_efficient()),
    "VMZ: R(2+1)D, mixed convolutions, channel-separated networks": tuple(_vmz()),
    "C3D": (
        Row("c3d", 16, 112, 101, short=True),
        Row("leafdp_r2plus1d", 16, 112, 101, short=True),
        Row("leafdp_r3d", 16, 112, 101, short=True),
    ),
}


Cost = Callable[[Row], tuple[int, float]]  # parameters, and billions of multiply-adds


@functools.cache
def counted(key: str) -> tuple[int, float]:
    """The cost of a row, by its key."""
    row = next(row for rows in SECTIONS.values() for row in rows if row.key == key)
    config, faults = parse(
        {
            "model": {"name": row.model, **row.options},
            "data": {"frames": row.frames, "size": row.size},
        }
    )
    assert not faults, faults
    with torch.device("meta"):
        network = models.create(row.model, **model_options(config, row.classes))
    images = signatures.read()[row.model].images
    clip = (
        (1, 3 * row.frames, row.size, row.size)
        if images
        else (1, 3, row.frames, row.size, row.size)
    )
    return counting.parameters(network), counting.gmacs(network, clip)


def count(row: Row) -> tuple[int, float]:
    """The cost of a row, counted on its network."""
    return counted(row.key)


def as_written(page: str) -> Cost:
    """The costs that stand in conf/MODELS.md, so that all the rest can be compared in a moment."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    known = {
        " | ".join(cells[:3]): (int(cells[3].replace(",", "")), float(cells[4])) for cells in rows
    }
    return lambda row: known.get(row.key, (0, 0.0))


def weights(row: Row) -> list[Mapping[str, Any]]:
    """The published weights that this configuration takes; of a composite those of its I3D."""
    signature = signatures.read()[row.model]
    if len(signature.parts) > 1:
        return [
            record
            for part in signature.parts
            for record in published.records(part)
            if not record["options"]
        ]

    def fits(record: Mapping[str, Any]) -> bool:
        made = {key: value for key, value in record["options"].items() if key != "in_channels"}
        return all(
            _value(row.model, row.options, key) == _value(row.model, made, key) for key in made
        )

    return [record for record in signature.published if fits(record)]


@functools.cache
def confs() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """`vmz/mc3_kinetics.yaml` -> its model and data sections, with what it extends; files that name no model are left out."""
    found = {}
    for path in sorted((PROJECT / "conf").rglob("*.yaml")):
        merged = _merged(path)
        if merged["model"].get("name") and path.parent.name != "base":
            found[path.relative_to(PROJECT / "conf").as_posix()] = (merged["model"], merged["data"])
    return found


def _merged(path: Path) -> dict[str, dict[str, Any]]:
    raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    layers = raw.get("extends") or []
    merged: dict[str, dict[str, Any]] = {"model": {}, "data": {}}
    for layer in [*map((path.parent).joinpath, [layers] if isinstance(layers, str) else layers)]:
        below = _merged(layer.resolve())
        merged = {section: values | below[section] for section, values in merged.items()}
    return {section: values | (raw.get(section) or {}) for section, values in merged.items()}


def runs(row: Row) -> list[str]:
    """Confs of this configuration."""
    signature = signatures.read()[row.model]
    keys = [key for key in signature.options if key not in COSTLESS]

    def fits(model: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        if model["name"] != row.model or (
            signature.images and data.get("frames", row.frames) != row.frames
        ):
            return False
        return all(
            _value(row.model, model, key) == _value(row.model, row.options, key) for key in keys
        )

    return [name for name, (model, data) in confs().items() if fits(model, data)]


def _others() -> Iterator[Row]:
    """Rows of what has none above: a new network's confs and published weights, so that no list here needs a line for it."""
    rows = [row for rows in SECTIONS.values() for row in rows]
    shown = {name for row in rows for name in runs(row)}
    for name, (model, data) in confs().items():
        if name not in shown:
            options = {
                key: value
                for key, value in model.items()
                if key in signatures.read()[model["name"]].options and key not in COSTLESS
            }
            rows.append(
                row := Row(
                    model["name"],
                    data.get("frames", 16),
                    data.get("size", 112),
                    400,
                    options,
                    short=True,
                )
            )
            shown |= set(runs(row))
            yield row
    for signature in signatures.read().values():
        for record in signature.published:
            if not any(record in weights(row) for row in rows if row.model == signature.name):
                rows.append(
                    row := Row(
                        signature.name,
                        record["frames"],
                        record["size"],
                        record["classes"],
                        dict(record["options"]),
                    )
                )
                yield row


def _value(model: str, options: Mapping[str, Any], key: str) -> Any:
    """As text, since a conf may write 32x112 or "3d" in several ways."""
    return str(options.get(key, signatures.read()[model].options[key].default)).lower()


def document(cost: Cost = count) -> str:
    """conf/MODELS.md's text."""
    parts = [HEAD]
    for title, rows in SECTIONS.items():
        parts += [
            f"## {title}",
            "",
            "| model | classes | clip | parameters | GMACs | published result | published weights | conf |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            parameters, gmacs = cost(row)
            known = "<br>".join(_weight(record) for record in weights(row))
            links = "<br>".join(f"[{name}]({name})" for name in runs(row))
            parts.append(
                f"| {row.title} | {row.classes} | {row.clip} | {parameters:,} | {_gmacs(gmacs)} | {row.result} | {known} | {links} |"
            )
        parts.append("")
    return "\n".join(parts)


def summary(cost: Cost = count) -> str:
    """The README's table: one line for what is usual of each network."""
    lines = [
        "| model | parameters | GMACs | clip | published result | published weights | conf |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (row for rows in SECTIONS.values() for row in rows if row.short):
        parameters, gmacs = cost(row)
        names = ", ".join(f"`{record['name']}`" for record in weights(row)[:2])
        result = row.result or next(
            (record["accuracy"] for record in weights(row) if record["accuracy"]), ""
        )
        more = f" and {len(weights(row)) - 2} more" if len(weights(row)) > 2 else ""
        # a system's plain recipe has the shortest name
        recipes = sorted(runs(row), key=lambda name: ("/" not in name, len(name)))
        link = next((f"[{name}](conf/{name})" for name in recipes), "")
        lines.append(
            f"| {row.title} | {_millions(parameters)} | {_gmacs(gmacs)} | {row.clip} | {result} | {names}{more} | {link} |"
        )
    return "\n".join(lines)


def in_readme(text: str, cost: Cost = count) -> str:
    """The README with its table as it should be; unchanged where it has no markers."""
    before, opened, rest = text.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    return f"{before}{OPEN}\n{summary(cost)}\n{CLOSE}{after}" if opened and closed else text


def _weight(record: Mapping[str, Any]) -> str:
    accuracy = f" ({record['accuracy']})" if record["accuracy"] else ""
    return f"`{record['name']}`{accuracy}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def _gmacs(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if others := tuple(_others()):
    SECTIONS["Others"] = others

if __name__ == "__main__":
    page, readme = PROJECT / "conf" / "MODELS.md", PROJECT / "README.md"
    # when only confs came or went
    costs = as_written(page.read_text(encoding="utf-8")) if "--keep-costs" in sys.argv else count
    page.write_text(document(costs), encoding="utf-8")
    readme.write_text(in_readme(readme.read_text(encoding="utf-8"), costs), encoding="utf-8")
