"""Pickles of numpy arrays, read so that nothing in them can run: how Caffe2 (VMZ) wrote its weights, also from Python 2.

A pickle is a program. Here it may name a dozen things only, and each of them is a stand-in of this module that keeps bytes, a
shape and a number type; not even numpy sees the file before shape, type and length are found to agree.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import warnings
from collections import OrderedDict
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MOST_DIMENSIONS = 32
MOST_MEMO = 1 << 22  # entries: a place far behind makes the unpickler reserve memory up to there
_NUMBERS = frozenset(
    f"{kind}{size}"
    for kind, sizes in {"f": "248", "i": "1248", "u": "1248", "b": "1"}.items()
    for size in sizes
)
_REFUSED = frozenset(
    {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
)
# what a broken pickle makes the unpickler raise, or only warn of: an escape in a text that Python
# never writes
BROKEN = (
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    RecursionError,
    Warning,
)


class NumberType:
    """Stands in for numpy.dtype: one kind of plain number, "f4" as numpy writes it, and its byte order."""

    def __init__(self, spec: object = "", *_: object) -> None:
        if spec not in _NUMBERS:
            raise pickle.UnpicklingError(f"an array of {spec!r}, which are no plain numbers")
        self.spec, self.order = str(spec), "="

    def __setstate__(self, state: Any) -> None:
        plain = (
            isinstance(state, tuple)
            and len(state) >= 5
            and state[1] in ("<", ">", "|", "=")
            and state[2:5] == (None, None, None)
        )
        if not plain:
            raise pickle.UnpicklingError("an array of records, not of plain numbers")
        self.order = state[1]

    def read(self, data: object, shape: tuple[int, ...]) -> NDArray[Any]:
        """The numbers in `data` (text of Python 2 has a byte in each character), as an array of its own in this machine's byte order."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        dtype = np.dtype(self.order + self.spec)
        if not isinstance(raw, (bytes, bytearray)) or len(raw) != prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"an array of {shape} {self.spec} without as many bytes")
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="), copy=True)


class Array:
    """Stands in for numpy.ndarray: empty until its state comes, then `value` is the array."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        """numpy's state: (version, shape, type, in Fortran's order?, bytes)."""
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], NumberType)):
            raise pickle.UnpicklingError("an array without shape, type and bytes")
        _, shape, kind, fortran, data = state
        whole = (
            isinstance(shape, tuple)
            and len(shape) <= MOST_DIMENSIONS
            and all(type(size) is int and size >= 0 for size in shape)
        )
        if not whole:
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        self.value = kind.read(data, shape).reshape(shape, order="F" if fortran else "C")


def _empty(kind: object, *_: object) -> Array:
    """numpy's _reconstruct, which makes an array of no size to be filled by its state; the size said here is not looked at."""
    if kind is not Array:
        raise pickle.UnpicklingError("an array of a class of its own")
    return Array()


def _number(kind: object, data: object = b"") -> float | int:
    """numpy's scalar, as a number of Python."""
    if not isinstance(kind, NumberType):
        raise pickle.UnpicklingError("a number without a type")
    number: float | int = kind.read(data, (1,))[0].item()
    return number


def _from_buffer(
    data: object, kind: object = None, shape: object = (), order: object = "C"
) -> Array:
    """numpy's _frombuffer, by which pickle's protocol 5 writes arrays."""
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _encode(text: object, encoding: object = "") -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes in old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*arguments: object) -> bytes:
    """`bytes()`, by which Python 3 writes none at all; with a number it would reserve as many."""
    if arguments:
        raise pickle.UnpicklingError("bytes made from something else")
    return b""


STAND_INS: dict[str, Any] = {
    "numpy.ndarray": Array,
    "numpy.dtype": NumberType,
    **{f"numpy.{core}.multiarray.{name}": stand_in for core in ("core", "_core") for name, stand_in in
       {"_reconstruct": _empty, "scalar": _number}.items()},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    "collections.OrderedDict": OrderedDict,
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = STAND_INS.get(f"{module}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known


def read(file: BinaryIO) -> Any:
    """The content, with `Array`s where the pickle has arrays. Raises pickle.UnpicklingError, or one of BROKEN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _refuse_dangers(file)
        file.seek(0)
        return _Unpickler(file, encoding="latin1").load()


def _refuse_dangers(file: BinaryIO) -> None:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _REFUSED:
            raise pickle.UnpicklingError("it refers to things outside the file")
        if (
            opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
            and isinstance(argument, int)
            and argument > MOST_MEMO
        ):
            raise pickle.UnpicklingError("it asks for much memory and holds little")
