"""Files of weights of every kind: read, or refused with what they are; a hostile one is inert."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.errors import DataError
from trainer.models import checkpoint_files

ARRAYS = {
    "conv1_w": np.arange(24, dtype="<f4").reshape(2, 3, 4),
    "double_w": np.linspace(0, 1, 5),
    "big_endian_w": np.arange(4, dtype=">f4"),
    "fortran_w": np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3)),
    "high_bytes_w": np.frombuffer(bytes(range(128, 256)), "u1"),
    "nothing_w": np.zeros((0, 3), "f4"),
}


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes as Python 2 did: its `str`, text and bytes alike, is BINSTRING."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def _string(self, value: Any) -> None:
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _string


def python2(content: Any) -> bytes:
    """A pickle as Python 2 with numpy 1 wrote it, protocol 2."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


WRITERS = {
    "python 2": python2,
    **{f"protocol {n}": lambda content, n=n: pickle.dumps(content, n) for n in range(6)},
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_caffe2_pickles_are_read(writer: Any, tmp_path: Path) -> None:
    """{'blobs': {name: array}}, of both Pythons and all protocols, with the state of the training beside the weights."""
    state = {
        "conv1_w_momentum": np.ones(3, "f4"),
        "lr": np.float32(0.1),
        "optimizer_iteration": np.array([5], "i8"),
    }
    file = checkpoint_files.read(
        written(
            tmp_path / "net.pkl", writer({"blobs": {**ARRAYS, **state}, "epoch": np.float64(3)})
        )
    )
    assert list(file.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(file.tensors[name].numpy(), array), name
    assert set(file.ignored) == set(state)
    assert file.fields == {"epoch": 3.0}


def test_a_path_that_is_no_file_names_what_may_have_been_meant(tmp_path: Path) -> None:
    """A run, an epoch that it does not have, a slip of the pen."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("epoch-000001.pt", "epoch-000012.pt", "../net.pth"):
        (folder / name).touch()
    for wrong, said in (
        ("run", f"Is a directory ({folder} has epoch-000001.pt to epoch-000012.pt)"),
        (
            "run/checkpoints/epoch-000013.pt",
            f"No such file or directory ({folder} has epoch-000001.pt to epoch-000012.pt)",
        ),
        ("run/net.pht", 'No such file or directory (did you mean "net.pth"?)'),
        ("nowhere/x.pth", "No such file or directory (check model.init)"),
    ):
        with pytest.raises(DataError, match=re.escape(said)):
            checkpoint_files.read(str(tmp_path / wrong))


def test_blobs_of_a_gpu_lose_its_number(tmp_path: Path) -> None:
    one = {f"gpu_0/{name}": array for name, array in ARRAYS.items()}
    assert list(
        checkpoint_files.read(written(tmp_path / "a.pkl", pickle.dumps(one))).tensors
    ) == list(ARRAYS)
    both = one | {"gpu_1/conv1_w": ARRAYS["conv1_w"]}
    with pytest.raises(DataError, match="blobs of several GPUs"):
        checkpoint_files.read(written(tmp_path / "b.pkl", pickle.dumps(both)))


class Bomb:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


class Stated:
    """An array or dtype with a state of our choosing."""

    def __init__(self, made: Any, state: Any) -> None:
        self.made, self.state = made, state

    def __reduce__(self) -> Any:
        return (*self.made, self.state)


F4 = np.dtype("f4")
RECONSTRUCT = np.ones(1).__reduce__()[0]
EMPTY = (RECONSTRUCT, (np.ndarray, (0,), b"b"))
HOSTILE = {
    "a command": Bomb(os.system, "touch PLACE"),
    "a file": Bomb(open, "PLACE", "w"),
    "eval": Bomb(eval, "open('PLACE', 'w')"),
    "an attribute": Bomb(getattr, F4, "name"),
    "numpy's own loader": Bomb(np.load, "PLACE"),
    "much memory": Bomb(bytes, 1 << 40),
    "a codec": Bomb(pickle.codecs.encode, "x", "zlib"),  # type: ignore[attr-defined]
    "objects": np.array([{}, 1], dtype=object),
    "records": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    "too few bytes": Stated(EMPTY, (1, (1000, 1000), F4, False, b"1234")),
    "a negative size": Stated(EMPTY, (1, (-1, -1), F4, False, b"1234")),
    "a shape that is none": Stated(EMPTY, (1, "ab", F4, False, b"1234")),
    "no type": Stated(EMPTY, (1, (1,), "f4", False, b"1234")),
    "a huge empty array": Stated(
        (RECONSTRUCT, (np.ndarray, (1 << 40,), b"b")), (1, (1,), F4, False, b"12")
    ),
    "a subclass": Stated((RECONSTRUCT, (np.matrix, (0,), b"b")), (1, (1, 1), F4, False, b"1234")),
    "a strange dtype": Stated(
        (np.dtype, ("f4", False, True)), (3, "<", None, ("a",), {"a": (F4, 0)}, 1 << 40, 1, 0)
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_inert(
    content: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything of it is called, wherever it stands."""
    monkeypatch.chdir(tmp_path)
    path = written(
        tmp_path / "bad.pkl",
        pickle.dumps({"blobs": {"a_w": np.ones(2, "f4"), "b_w": content}}, protocol),
    )
    with pytest.raises(DataError, match=r"something other than tensors|not a state dict"):
        checkpoint_files.read(path)
    assert [each.name for each in tmp_path.iterdir()] == ["bad.pkl"]


def test_opcodes_that_reach_outside_or_ask_for_memory_are_refused(tmp_path: Path) -> None:
    for data in (
        b"\x80\x02U\x01xQ.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
        b"\x80\x02}r\xff\xff\xff\x7f.",
    ):
        with pytest.raises(DataError, match="was not opened"):
            checkpoint_files.read(written(tmp_path / "bad.pkl", data))


def test_what_a_pickle_asks_for_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.pkl", pickle.dumps({"a": OrderedDict(b=Bomb(os.getcwd))}))
    with pytest.raises(DataError, match=r"it asks for posix\.getcwd"):
        checkpoint_files.read(path)


def test_torch_files_with_numpy_numbers_are_read(tmp_path: Path) -> None:
    """As trainings leave them beside the tensors: a best score, a learning rate."""
    content = {
        "state_dict": {"module.a": torch.ones(2)},
        "best_prec1": np.float64(50.65),
        "arch": "mobilenetv2",
        "epoch": np.int64(7),
    }
    for zipped in (True, False):
        torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
        file = checkpoint_files.read(str(tmp_path / "net.pth"))
        assert list(file.tensors) == ["a"]
        assert file.fields == {"best_prec1": 50.65, "arch": "mobilenetv2", "epoch": 7}
        assert not file.ignored


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], **more: Any) -> bytes:
    header, body = dict(more), b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_safetensors_are_read(tmp_path: Path) -> None:
    whole = {
        "a": ("F32", [2, 2], np.arange(4, dtype="f4").tobytes()),
        "b": ("I64", [], struct.pack("<q", 9)),
        "c": ("BF16", [0, 3], b""),
    }
    data = safetensors(whole, __metadata__={"format": "pt"})
    file = checkpoint_files.read(written(tmp_path / "net.safetensors", data))
    assert torch.equal(file.tensors["a"], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert file.tensors["b"].item() == 9
    assert (file.tensors["c"].dtype, file.tensors["c"].shape) == (torch.bfloat16, (0, 3))
    for bad in (
        data[:-3],
        safetensors({"a": ("F32", [3], b"1234")}),
        safetensors({"a": ("X", [1], b"1")}),
        data[:8] + b"{" + data[9:40],
    ):
        with pytest.raises(DataError, match="damaged or no checkpoint"):
            checkpoint_files.read(written(tmp_path / "bad.safetensors", bad))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\n<!DOCTYPE html><title>Google Drive - Virus scan warning", "is a web page"), (b"<html><body>Sign in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"), (b"SQLite format 3\0", "Caffe2 minidb"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"\x1f\x8b\x08", "gunzip"), (b"", "damaged or no checkpoint"), (b"hello", "damaged|not opened"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        checkpoint_files.read(written(tmp_path / "net.pth", data))


def test_a_text_with_an_escape_that_python_never_writes_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged"):
        checkpoint_files.read(written(tmp_path / "x.pkl", b"c__builtin__\nby\\ues\n."))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), writer=st.sampled_from(list(WRITERS.values())))
def test_damaged_pickles_are_data_errors(data: st.DataObject, writer: Any, tmp_path: Path) -> None:
    """Cut off or altered anywhere: read whole, or DataError; never another exception."""
    content = bytearray(
        writer({"blobs": {"a_w": np.arange(6, dtype="f4").reshape(2, 3), "lr": np.float32(1)}})
    )
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path / "x.pkl", bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        file = checkpoint_files.read(path)
    except DataError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in file.tensors.values())
