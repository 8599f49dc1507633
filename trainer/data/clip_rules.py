"""What a conf may say about clips: faults of the keys that choose, crop and mirror frames. Standard library only, for `check`."""

from __future__ import annotations

import math

from trainer.config import DataConf
from trainer.data.kept import RESIZE_HINT, resize_fault
from trainer.data.normalise import PRESETS, channels, of_conf
from trainer.errors import Fault, did_you_mean

# crops of a size in px; the others are shares of the frame, whatever its size
JITTERED = ("center", "random")


def clip_faults(data: DataConf) -> list[Fault]:
    """All of them, in the order of the keys."""
    least = {
        "stride": 1,
        "step": 0,
        "test_clips": 1,
        "test_step": 0,
        "val_clips": 0,
        "val_step": 0,
        "fps": 0,
        "test_short": 0,
    }
    faults = [
        Fault(path=f"data.{key}", message=f"is {value}, less than {low}")
        for key, low in least.items()
        if (value := getattr(data, key)) < low
    ]
    if fault := resize_fault(data.resize):
        faults.append(Fault(path="data.resize", message=fault, hint=RESIZE_HINT))
    return faults + _crops(data) + _numbers(data)


def _crops(data: DataConf) -> list[Fault]:
    faults = []
    if data.crop in ("corners", "multi_scale") and not (
        data.scales and all(0 < scale <= 1 for scale in data.scales)
    ):
        message = f"is {list(data.scales)}, not shares of the short side above 0 and at most 1"
        faults.append(
            Fault(path="data.scales", message=message, hint="[1.0, 0.84, 0.71], for example")
        )
    if data.jitter and data.crop not in JITTERED:
        hint = f"it goes with crop: {' or '.join(JITTERED)}; corners and multi_scale draw from data.scales"
        faults.append(
            Fault(
                path="data.jitter",
                message=f"is {list(data.jitter)}, and data.crop is {data.crop}",
                hint=hint,
            )
        )
    elif data.jitter and not (
        len(data.jitter) == 2 and data.size <= data.jitter[0] <= data.jitter[1]
    ):
        message = (
            f"is {list(data.jitter)}, not [least, most] px of at least data.size ({data.size})"
        )
        faults.append(
            Fault(
                path="data.jitter",
                message=message,
                hint="[128, 160] with data.size: 112, for example",
            )
        )
    if data.test_short and data.test_crop == "none":
        hint = "test_crop: center, or test_short: 0"
        faults.append(
            Fault(
                path="data.test_short",
                message=f"is {data.test_short}, and data.test_crop is none",
                hint=hint,
            )
        )
    elif 0 < data.test_short < data.size:
        faults.append(
            Fault(
                path="data.test_short",
                message=f"is {data.test_short}, less than data.size ({data.size})",
            )
        )
    return faults


def _numbers(data: DataConf) -> list[Fault]:
    """Which numbers a network is fed: one mean and one deviation for each channel, and colours only where there are colours."""
    if data.normalise not in PRESETS:
        hint = did_you_mean(data.normalise, list(PRESETS)) or f"known: {', '.join(PRESETS)}"
        return [
            Fault(
                path="data.normalise", message=f"no preset is called {data.normalise!r}", hint=hint
            )
        ]
    fed, count, faults = of_conf(data), channels(data), []
    for key, values in (("mean", fed.mean), ("std", fed.std)):
        own = bool(getattr(data, key))
        if len(values) != count:
            said = (
                f"is {list(values)}" if own else f"is {data.normalise}, for {len(values)} channels"
            )
            fitting = ", ".join(
                name
                for name, preset in PRESETS.items()
                if len(preset.mean) == count and preset.order == "rgb"
            )
            hint = (
                "one number for each channel"
                if own
                else f"data.mean and data.std, or one of {fitting}"
            )
            path = f"data.{key}" if own else "data.normalise"
            faults.append(
                Fault(path=path, message=f"{said}, and the frames have {count}", hint=hint)
            )
        elif not all(math.isfinite(value) and (key == "mean" or value > 0) for value in values):
            faults.append(
                Fault(
                    path=f"data.{key}",
                    message=f"is {list(values)}",
                    hint="finite numbers on 0..255, std above 0",
                )
            )
    if data.stream == "flow" and fed.order == "bgr":
        path = "data.normalise" if data.channels == "auto" else "data.channels"
        faults.append(
            Fault(
                path=path,
                message="is bgr, and the channels of flow are no colours",
                hint="data.channels: rgb",
            )
        )
    return list({fault.path: fault for fault in faults}.values())
