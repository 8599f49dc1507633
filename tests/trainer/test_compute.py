"""Compute settings: what `auto` becomes, and that no setting changes what a network means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import compute, preflight
from trainer.compute import Compute
from trainer.config import ComputeConf, Config
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.errors import ConfFault


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def test_on_the_cpu_auto_is_exact() -> None:
    decided = Compute.from_conf(ComputeConf(device="cpu", threads=torch.get_num_threads()))
    assert (decided.precision, decided.compile, decided.fused, decided.channels_last) == (
        "fp32",
        False,
        False,
        False,
    )
    assert not decided.notes


@pytest.mark.parametrize("version", [90800, 91400, 91499])
def test_bf16_is_refused_where_cudnn_computes_it_wrongly(version: int) -> None:
    precision, notes = compute.decide_bf16("auto", able=True, cudnn=version)
    assert precision == "fp32"
    assert "cuDNN 9." in notes[0]
    with pytest.raises(
        ConfFault, match=r"compute\.precision: is bf16, but cuDNN 9.*9\.15 or newer"
    ):
        compute.decide_bf16("bf16", able=True, cudnn=version)


@pytest.mark.parametrize("version", [90701, 91500, 92600, 0])
def test_other_cudnn_versions_are_used(version: int) -> None:
    assert compute.decide_bf16("auto", able=True, cudnn=version) == ("bf16", [])


def test_an_old_gpu_gets_fp32_with_one_warning() -> None:
    assert compute.decide_bf16("auto", able=False, cudnn=92600) == (
        "fp32",
        ["warning: fp32, since this GPU has no bf16"],
    )


def test_a_gpu_that_is_not_there_is_a_fault_of_the_conf() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfFault, match=r"compute\.device: is cuda, but torch sees no GPU"):
        Compute.from_conf(ComputeConf(device="cuda"))


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", 0), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 0)],
)
def test_a_container_s_cpu_quota_is_read(tmp_path: Path, text: str, cores: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert compute._quota(file) == cores


def test_workers_share_the_cores_and_are_at_most_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "cores", lambda: 12)
    assert [compute.default_workers(processes) for processes in (1, 2, 8, 100)] == [8, 6, 1, 1]


def test_layout_and_precision_do_not_change_the_answer() -> None:
    video = torch.rand(2, 3, 4, 8, 8)
    conf = {"device": "cpu", "threads": torch.get_num_threads()}
    plain = Compute.from_conf(ComputeConf(**conf))
    expected = plain.run(plain.prepare(_net()), video)
    laid_out = Compute.from_conf(ComputeConf(**conf, channels_last=True))
    net = laid_out.prepare(_net())
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(laid_out.run(net, video), expected)
    half = Compute.from_conf(ComputeConf(**conf, precision="bf16"))
    answer = half.run(half.prepare(_net()), video)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, expected, atol=0.05, rtol=0.05)


def test_a_2d_network_lies_as_images_do() -> None:
    """Frames stacked on the channels, as ModelInput gives them: weights and input are channels_last, not channels_last_3d."""
    decided = Compute.from_conf(
        ComputeConf(device="cpu", threads=torch.get_num_threads(), channels_last=True)
    )
    net = decided.prepare(nn.Conv2d(6, 8, 3))
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    images = ModelInput(PRESETS["minus_one_one"], images=True)(
        torch.zeros(2, 2, 8, 8, 3, dtype=torch.uint8)
    )
    laid_out = decided.lay_out(images)
    assert laid_out.shape == (2, 6, 8, 8)
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
    assert decided.run(net, images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
def test_compiled_code_serves_the_usual_size_and_keeps_the_names() -> None:
    """An odd last micro-batch runs eagerly: no second compilation."""
    decided = Compute.from_conf(
        ComputeConf(device="cpu", compile=True, threads=torch.get_num_threads()), clips=2
    )
    net = decided.prepare(_net())
    assert "0.weight" in net.state_dict()
    for clips in (2, 1, 3):
        video = torch.rand(clips, 3, 4, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(decided.run(net, video), _net()(video))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_workers_that_do_not_fit_into_shared_memory_become_fewer(tmp_path: Path) -> None:
    """A bus error in the night otherwise."""
    plain = Compute(device=torch.device("cpu"), workers=8, clips=1 << 30)
    fitted = preflight.fit_workers(plain, Config(), shm=tmp_path)
    assert fitted.workers == 0
    assert "job.resources.shm" in fitted.notes[0]
    with pytest.raises(
        ConfFault, match=r"compute\.workers: 8 workers prefetch .*raise job\.resources\.shm"
    ):
        preflight.fit_workers(plain, Config(compute=ComputeConf(workers=8)), shm=tmp_path)
    few = Compute(device=torch.device("cpu"), workers=2, clips=4)
    assert preflight.fit_workers(few, Config(), shm=tmp_path) is few
