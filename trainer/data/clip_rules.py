"""What a conf may say about clips: faults of the keys that choose, crop and mirror frames. Standard library only, for `check`."""

from __future__ import annotations

from trainer.config import DataConf
from trainer.data.kept import RESIZE_HINT, resize_fault
from trainer.errors import Fault

JITTERED = ("center", "random")  # crops of a size in px; the others are shares of the frame, whatever its size


def clip_faults(data: DataConf) -> list[Fault]:
    """All of them, in the order of the keys."""
    least = {"stride": 1, "step": 0, "test_clips": 1, "test_step": 0, "val_clips": 0, "val_step": 0, "fps": 0, "test_short": 0}
    faults = [
        Fault(path=f"data.{key}", message=f"is {value}, less than {low}")
        for key, low in least.items()
        if (value := getattr(data, key)) < low
    ]
    if fault := resize_fault(data.resize):
        faults.append(Fault(path="data.resize", message=fault, hint=RESIZE_HINT))
    return faults + _crops(data)


def _crops(data: DataConf) -> list[Fault]:
    faults = []
    if data.crop in ("corners", "multi_scale") and not (data.scales and all(0 < scale <= 1 for scale in data.scales)):
        message = f"is {list(data.scales)}, not shares of the short side above 0 and at most 1"
        faults.append(Fault(path="data.scales", message=message, hint="[1.0, 0.84, 0.71], for example"))
    if data.jitter and data.crop not in JITTERED:
        hint = f"it goes with crop: {' or '.join(JITTERED)}; corners and multi_scale draw from data.scales"
        faults.append(Fault(path="data.jitter", message=f"is {list(data.jitter)}, and data.crop is {data.crop}", hint=hint))
    elif data.jitter and not (len(data.jitter) == 2 and data.size <= data.jitter[0] <= data.jitter[1]):
        message = f"is {list(data.jitter)}, not [least, most] px of at least data.size ({data.size})"
        faults.append(Fault(path="data.jitter", message=message, hint="[128, 160] with data.size: 112, for example"))
    if data.test_short and data.test_crop == "none":
        hint = "test_crop: center, or test_short: 0"
        faults.append(Fault(path="data.test_short", message=f"is {data.test_short}, and data.test_crop is none", hint=hint))
    elif 0 < data.test_short < data.size:
        faults.append(Fault(path="data.test_short", message=f"is {data.test_short}, less than data.size ({data.size})"))
    return faults
