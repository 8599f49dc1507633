"""Files of weights: what the many programs that published networks wrote, as tensors by name. No file can run code here.

torch's files (all ages, `weights_only=True`), Caffe2's pickles of arrays (VMZ), safetensors. What a file is, its first bytes
tell, not its name. Which network the tensors fit is not this module's business (weights.py).
"""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import DataError, did_you_mean
from trainer.models import array_pickle

# under which the tensors of a file may lie
WRAPPERS = ("state_dict", "model_state_dict", "model", "blobs", "net", "weights")
TORCH_ZIP, TORCH_OLD = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# of other things that lie under a checkpoint's name, by their first bytes
OTHERS = {
    b"SQLite format 3": ("a Caffe2 minidb", "take the .pkl of the same weights, which its authors publish beside it"),
    b"\x89HDF": ("an HDF5 file, as Keras writes", "convert it to a torch state dict"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "run `git lfs pull` where it came from"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it first: gunzip"),
}  # fmt: skip
# Caffe2 keeps the training's own state among the weights
CAFFE2_STATE = re.compile(
    r".*_momentum|.*_grad|.*_lr|lr|learning_rate|optimizer_iteration|model_iter|iter|iteration_mutex|ONE(_.*)?"
)
_SAFE = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_MOST_HEADER = 100 << 20  # bytes of a safetensors header, as its own library allows


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds."""

    tensors: dict[str, Tensor]  # by name, without nn.DataParallel's `module.`
    fields: dict[str, Any]  # what stands beside the tensors: epoch, arch, classes ...
    # the state of a Caffe2 training among the weights: momenta, learning rate, iteration
    ignored: tuple[str, ...] = ()


def read(path: str) -> CheckpointFile:
    """The tensors of a file. Raises DataError for one that cannot be read, is damaged, is no checkpoint, or asks for code to run."""
    content = _content(path)
    fields: dict[str, Any] = {}
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            fields = {key: value for key, value in content.items() if key != wrapper}
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise DataError(
            f"the checkpoint {path} is not a state dict: it holds a {type(content).__name__}"
        )
    arrays = any(isinstance(value, array_pickle.Array) for value in content.values())
    tensors = {_name(key, arrays): _tensor(value) for key, value in content.items()}
    if len(tensors) < len(content):
        raise DataError(
            f"the checkpoint {path} holds the blobs of several GPUs", hint="save those of one"
        )
    ignored = tuple(
        key for key in tensors if arrays and isinstance(key, str) and CAFFE2_STATE.fullmatch(key)
    )
    kept = {key: value for key, value in tensors.items() if key not in ignored}
    strange = next(
        (
            f"{key!r} is a {type(value).__name__}"
            for key, value in kept.items()
            if not _good(key, value)
        ),
        "",
    )
    if strange or not kept:
        raise DataError(f"the checkpoint {path} is not a state dict: {strange or 'it is empty'}")
    return CheckpointFile(_without_module(kept, path), fields, ignored)


def _content(path: str) -> Any:
    try:
        with Path(path).open("rb") as file:
            start = file.read(64)
            reader = _reader(start, path)
            file.seek(0)
            return reader(path)
    except pickle.UnpicklingError as error:
        why = "it holds something other than tensors and plain containers, or is damaged"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "if you trust it, save its state_dict() again with today's torch"
        raise DataError(
            f"the checkpoint {path} was not opened: {why}: {reason}", hint=hint
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read the checkpoint {path}: {error.strerror or error}",
            hint=_beside(Path(path)),
        ) from error
    except (RuntimeError, AssertionError, *array_pickle.BROKEN) as error:
        raise DataError(
            f"the checkpoint {path} is damaged or no checkpoint: {error}",
            hint="fetch or copy it again",
        ) from error


def _beside(path: Path) -> str:
    """What may have been meant by a path that is no file: the newest epoch of a run, or a name like it in its folder."""
    for place in (path, path / "checkpoints", path.parent):
        if epochs := sorted(found.name for found in place.glob("epoch-*.pt")):
            return (
                f"{place} has {epochs[0]} to {epochs[-1]}"
                if len(epochs) > 1
                else f"{place} has {epochs[0]}"
            )
    near = did_you_mean(path.name, [found.name for found in path.parent.glob("*")])
    return near or "check model.init"


def _reader(start: bytes, path: str) -> Any:
    """The function that reads a file which starts so. Raises DataError for what is known to be something else."""
    for magic, (kind, hint) in OTHERS.items():
        if start.startswith(magic):
            raise DataError(f"the checkpoint {path} is {kind}", hint=hint)
    if is_page(start):
        hint = "its host wanted a login or a click; fetch it with a browser"
        raise DataError(f"the checkpoint {path} is a web page, not weights", hint=hint)
    if start.startswith((TORCH_ZIP, TORCH_OLD)):
        return _torch
    if len(start) > 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= _MOST_HEADER:
        return _safetensors
    return _pickled


def is_page(start: bytes) -> bool:
    """Whether a file that starts so is HTML: what many hosts answer instead of a large file."""
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _torch(path: str) -> Any:
    stand_ins: list[Any] = [
        (stand_in, name)
        for name, stand_in in array_pickle.STAND_INS.items()
        if name.startswith("numpy.")
    ]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
        return torch.load(path, map_location="cpu", weights_only=True)


def _pickled(path: str) -> Any:
    with Path(path).open("rb") as file:
        return array_pickle.read(file)


def _safetensors(path: str) -> Any:
    """A header in JSON, {name: {dtype, shape, data_offsets}}, then the bytes."""
    data = bytearray(Path(path).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (first, last) = (
            _SAFE[entry["dtype"]],
            [int(size) for size in entry["shape"]],
            entry["data_offsets"],
        )
        size = last - first
        if (
            min([first, size, *shape]) < 0
            or size != math.prod(shape) * dtype.itemsize
            or 8 + length + last > len(data)
        ):
            raise ValueError(f"{name} lies outside the file")
        if size:  # frombuffer takes no empty tensors
            tensors[name] = torch.frombuffer(
                data, dtype=dtype, count=math.prod(shape), offset=8 + length + first
            ).reshape(shape)
        else:
            tensors[name] = torch.empty(shape, dtype=dtype)
    return tensors


def _name(key: Any, arrays: bool) -> Any:
    """Caffe2 names the blobs of one GPU "gpu_0/conv1_w"."""
    return re.sub(r"^gpu_\d+/", "", key) if arrays and isinstance(key, str) else key


def _tensor(value: Any) -> Any:
    if isinstance(value, array_pickle.Array) and value.value is not None:
        array = value.value
        return torch.from_numpy(
            np.ascontiguousarray(
                array.astype(np.int64) if array.dtype.kind == "u" else array
            ).reshape(array.shape)
        )
    return value


def _good(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _without_module(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """`module.` is what nn.DataParallel puts before each name."""
    bare: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in bare:
            raise DataError(
                f"the checkpoint {path} holds {name!r} twice, with and without the prefix `module.`"
            )
        bare[name] = tensor
    return bare
