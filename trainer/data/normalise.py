"""Which numbers a network is fed for uint8 frames: (x - mean) / std of each channel, and the order of the colours.

A property of a checkpoint, not only of a recipe: it is saved with the weights and read back by `test`, `eval` and `infer`.
Standard library only, so that `check` knows the presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainer.config import DataConf
from trainer.errors import DataError

Order = Literal["rgb", "bgr"]
COLOURS = 3
# of a flow image for one pixel of displacement, with the usual prepare.flow_bound of 8
FLOW_LEVELS = 16
FLOW_ZERO = 128  # level that stands for no motion


@dataclass(frozen=True)
class Normalisation:
    """One way to feed frames; `mean` and `std` are on 0..255 and in the order in which the channels are fed."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Order = "rgb"

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return {"mean": list(self.mean), "std": list(self.std), "order": self.order}


PRESETS: dict[str, Normalisation] = {
    "minus_one_one": Normalisation((127.5,) * 3, (127.5,) * 3),  # I3D, resizers, Inception v3
    # torchvision's image networks
    "imagenet": Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "vgg": Normalisation((123.0, 117.0, 104.0), (1.0,) * 3),  # VGG-16 with reduced fc
    # the efficient 3D CNNs
    "activitynet": Normalisation((114.7748, 107.7354, 99.4750), (1.0,) * 3),
    # their Kinetics-600 weights
    "activitynet_bgr": Normalisation((114.7748, 107.7354, 99.4750), (1.0,) * 3, "bgr"),
    # the same, with the Kinetics mean
    "kinetics": Normalisation((110.63666788, 103.16065604, 96.29023126), (1.0,) * 3),
    "kinetics_std": Normalisation(
        (110.63666788, 103.16065604, 96.29023126), (38.7568578, 37.88248729, 40.02898126)
    ),
    # the 3D ResNets of 2020
    "hara_2020": Normalisation((110.7975, 103.3005, 96.2625), (70.584, 69.1815, 69.7935)),
    # the published Jester weights
    "kinetics_bgr": Normalisation((110.63666788, 103.16065604, 96.29023126), (1.0,) * 3, "bgr"),
    # R(2+1)D and the mixed convolutions
    "vmz": Normalisation((110.201, 100.64, 95.9966), (58.1489, 56.4701, 55.3324)),
    "vmz_flow": Normalisation(
        (FLOW_ZERO + FLOW_LEVELS * 0.0046635, FLOW_ZERO + FLOW_LEVELS * 0.0046261),
        (FLOW_LEVELS * 0.972347, FLOW_LEVELS * 0.755146),
    ),
    "c3d_bgr": Normalisation((90.0, 98.0, 102.0), (1.0,) * 3, "bgr"),  # C3D on UCF101
    # C3D's Sports-1M weights
    "sports1m_bgr": Normalisation((90.25, 97.66, 101.41), (1.0,) * 3, "bgr"),
}


def channels(data: DataConf) -> int:
    """Channels of the frames that a conf reads."""
    return data.flow_channels if data.stream == "flow" else COLOURS


def of_conf(data: DataConf) -> Normalisation:
    """What `data.normalise`, `mean`, `std` and `channels` say, for a conf that `check` accepted."""
    preset = PRESETS[data.normalise]
    order = preset.order if data.channels == "auto" else data.channels
    return Normalisation(data.mean or preset.mean, data.std or preset.std, order)


def of_checkpoint(fields: Mapping[str, Any]) -> Normalisation:
    """What one of our own checkpoints was trained with. Raises DataError for one that does not say it."""
    saved = fields.get("normalisation")
    if isinstance(saved, Mapping) and saved.get("kind") in PRESETS:  # as version 0.1 wrote it
        return PRESETS[saved["kind"]]
    try:
        assert isinstance(saved, Mapping)
        order: Order = "bgr" if saved["order"] == "bgr" else "rgb"
        return Normalisation(
            tuple(map(float, saved["mean"])), tuple(map(float, saved["std"])), order
        )
    except (AssertionError, KeyError, TypeError, ValueError):
        hint = "take a checkpoint that `vidjobs submit train` wrote"
        raise DataError(
            "the checkpoint does not say how frames are normalised for it", hint=hint
        ) from None
