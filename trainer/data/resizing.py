"""The one place that interpolates frames: bilinear, as the published systems did, by one of the two libraries that they did it with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.data.opencv import opencv

Frames = npt.NDArray[np.uint8]  # (T, H, W, C): RGB, or the channels of a flow image


def resize(frames: Frames, sides: tuple[int, int], *, antialias: bool) -> Frames:
    """Frames (T, H, W, C) as (T, *sides, C), sides in px (height, width); frames of these sides come back as they are."""
    if frames.shape[1:3] == sides:
        return frames
    out = np.empty((len(frames), *sides, frames.shape[3]), np.uint8)
    resize_into(frames, out, antialias=antialias)
    return out


def resize_into(frames: Frames, out: Frames, *, antialias: bool) -> None:
    """Write frames (T, H, W, C) into `out` (T, height, width, C), copied where they are of that size.

    Without `antialias` as cv2.INTER_LINEAR, which looks at four pixels however much it shrinks (not cv2.INTER_AREA): TinyVIRAT's, VMZ's and
    the C3D system, VGG-16. With it as PIL, which smooths what it shrinks: the efficient 3D CNNs, Inception v3. Published weights saw one
    or the other.
    """
    if frames.shape == out.shape:
        np.copyto(out, frames)
    elif antialias:
        _as_pil(frames, out)
    else:
        cv2 = opencv()
        for place, frame in enumerate(frames):
            cv2.resize(
                frame, (out.shape[2], out.shape[1]), dst=out[place], interpolation=cv2.INTER_LINEAR
            )


def _as_pil(frames: Frames, out: Frames) -> None:
    """Within one level of PIL's, in a quarter of its time."""
    import torch
    from torchvision.transforms.v2 import functional  # slow to import, and few confs need it

    # the memory stays T, H, W, C: channels_last
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = functional.resize(
        video, list(out.shape[1:3]), functional.InterpolationMode.BILINEAR, antialias=True
    )
    np.copyto(out, resized.permute(0, 2, 3, 1).numpy())
