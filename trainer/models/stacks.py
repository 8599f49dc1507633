"""2D networks on stacks of frames: what an image network's first convolution becomes when several frames lie on its channels."""

from __future__ import annotations

from torch import Tensor


def tile_channels(tensors: dict[str, Tensor], key: str, channels: int) -> dict[str, Tensor]:
    """The first convolution (O, C, kh, kw) repeated along its inputs to `channels` and divided by the number of repeats.

    So a stack of equal frames gives what the frame alone gave. Left as it is where `channels` is no multiple of C.
    """
    weight = tensors.get(key)
    if weight is None or weight.dim() != 4 or weight.shape[1] == 0 or channels % weight.shape[1]:
        return tensors
    repeats = channels // weight.shape[1]
    return tensors if repeats == 1 else {**tensors, key: weight.repeat(1, repeats, 1, 1) / repeats}
