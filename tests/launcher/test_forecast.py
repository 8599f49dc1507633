"""What the site will think of a run's use, from the trainer's records: texts, times and fixes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.forecast import Asked, asked, forecast, newest
from launcher.profiles import Bands, load

_BANDS = Bands(gpu=(40,), cpu=(20, 200), memory=(20, 150))
_ASKED = Asked(cpu=8, memory=32 * 2**30, gpus=1)


def _usage(**more: float) -> dict[str, Any]:
    return {
        "kind": "usage",
        "elapsed": 1800,
        "cpu_15m": 4.0,
        "memory_30m": 16 * 2**30,
        "gpu": 61,
        "gpu_mean": 50,
    } | more


@pytest.mark.parametrize(
    ("gpu_mean", "gpu", "elapsed", "ok", "text"),
    [
        (
            23,
            61,
            1800,
            False,
            "GPU 23% on average since start, below the site's 40%; reaches it in ~24 min at the present 61%",
        ),
        (
            23,
            30,
            1800,
            False,
            "GPU 23% on average since start, below the site's 40%; does not reach it at the present 30%",
        ),
        (
            23,
            40,
            1800,
            False,
            "GPU 23% on average since start, below the site's 40%; does not reach it at the present 40%",
        ),
        (50, 61, 1800, True, "GPU 50% on average since start, above the site's 40%"),
        (
            50,
            10,
            1800,
            False,
            "GPU 50% on average since start, falls below the site's 40% in ~10 min at the present 10%",
        ),
        (
            1,
            41,
            36000,
            False,
            "GPU 1% on average since start, below the site's 40%; reaches it in ~390 h at the present 41%",
        ),
    ],
)
def test_gpu(gpu_mean: float, gpu: float, elapsed: float, ok: bool, text: str) -> None:
    """The mean since the start counts, so it moves slowly."""
    found = forecast(_usage(gpu_mean=gpu_mean, gpu=gpu, elapsed=elapsed), _ASKED, _BANDS)[0]
    assert (found.what, found.ok, found.text) == ("gpu", ok, text)
    assert bool(found.fix) is not ok


@given(mean=st.floats(0, 100), now=st.floats(0, 100), minutes=st.floats(2, 10000))
def test_the_foretold_time_is_when_the_mean_meets_the_band(
    mean: float, now: float, minutes: float
) -> None:
    """Put into the mean's own formula; no number makes it fail."""
    found = forecast(_usage(gpu_mean=mean, gpu=now, elapsed=minutes * 60), _ASKED, _BANDS)[0]
    assert found.ok is (mean >= 40 and now >= 40)
    if " min " in found.text:
        more = float(found.text.partition("~")[2].split()[0])
        before, after = (mean * minutes + now * x for x in (max(0.0, more - 1), more + 1))
        low, high = sorted((before / (minutes + max(0.0, more - 1)), after / (minutes + more + 1)))
        assert low - 0.1 <= 40 <= high + 0.1


@pytest.mark.parametrize(
    ("cpu", "memory", "texts"),
    [
        (
            4.0,
            16,
            [
                "CPU 50% of the 8 cores asked for, within the site's 20-200%",
                "memory 50% of the 32Gi asked for, within the site's 20-150%",
            ],
        ),
        (
            0.8,
            3,
            [
                "CPU 10% of the 8 cores asked for, below the site's 20%",
                "memory 9% of the 32Gi asked for, below the site's 20%",
            ],
        ),
        (
            17.0,
            16,
            [
                "CPU 212% of the 8 cores asked for, above the site's 200%",
                "memory 50% of the 32Gi asked for, within the site's 20-150%",
            ],
        ),
    ],
)
def test_cores_and_memory(cpu: float, memory: float, texts: list[str]) -> None:
    """Without a GPU these two are judged."""
    usage = _usage(cpu_15m=cpu, memory_30m=memory * 2**30)
    found = forecast(usage, Asked(cpu=8, memory=32 * 2**30), _BANDS)
    assert [each.text for each in found] == texts
    assert [bool(each.fix) for each in found] == [not each.ok for each in found]


def test_what_the_next_run_could_ask_for() -> None:
    """So much that it would be used well."""
    found = forecast(
        _usage(cpu_15m=1.0, memory_30m=3 * 2**30), Asked(cpu=8, memory=32 * 2**30), _BANDS
    )
    assert [each.fix for each in found] == [
        "the next run can ask for job.resources.cpu: 2",
        "the next run can ask for job.resources.memory: 5Gi",
    ]


def test_small_pods_new_pods_and_sites_without_bands_are_not_judged() -> None:
    """The numbers are shown all the same."""
    low = _usage(cpu_15m=0.01, memory_30m=1)
    assert all(each.ok for each in forecast(low, Asked(cpu=1, memory=2e9), _BANDS))
    assert all(
        each.ok for each in forecast(low | {"elapsed": 60}, Asked(cpu=8, memory=32e9), _BANDS)
    )
    assert [each.ok for each in forecast(low, _ASKED, Bands())] == [True, True, True]
    assert forecast({}, _ASKED, _BANDS) == []


def test_the_newest_record_and_what_a_job_asked_for() -> None:
    """Among losses, after a line that is cut in front; requests stand for limits."""
    lines = [
        'age", "gpu": 1}',
        json.dumps(_usage(gpu=1)),
        json.dumps({"phase": "train"}),
        json.dumps(_usage(gpu=2)),
        '{"kind": "usage", "gp',
    ]
    assert newest("\n".join(lines))["gpu"] == 2
    assert newest("") == {}
    limits = {"cpu": "500m", "memory": "16Gi", "nvidia.com/a40": "2", "ephemeral-storage": "1Gi"}
    pod = {"containers": [{"name": "trainer", "resources": {"limits": limits}}]}
    job = {"kind": "Job", "spec": {"template": {"spec": pod}}}
    assert asked([{"kind": "ConfigMap"}, job]) == Asked(cpu=0.5, memory=16 * 2**30, gpus=2)
    assert asked([]) == Asked()


def test_the_bands_of_nautilus() -> None:
    """As its policies say."""
    assert load("nautilus").bands == _BANDS
    assert load("generic").bands == Bands()
