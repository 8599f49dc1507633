"""Whether a run uses what it asked for, by its site's bands, and what becomes of that. Pure: from the trainer's `usage` records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.conf.units import amount
from launcher.profiles import Bands

# pods that ask for no more cores and bytes than these are not judged (nrp.ai .../start/policies)
_EXEMPT = (1.0, 2e9)
_SETTLED = 120.0  # seconds after which cores and memory say something
_GPU_FIX = "raise train.batch or compute.workers (a high data_wait says that GPUs wait for data), or ask for fewer GPUs"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the trainer's container asked for."""

    cpu: float = 0.0  # cores
    memory: float = 0.0  # bytes
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One resource."""

    what: str  # "gpu", "cpu" or "memory"
    percent: float  # of what was asked for; of GPUs their mean utilisation since the start
    ok: bool  # now, and as far as can be seen
    text: str
    fix: str = ""


def asked(manifests: Sequence[Mapping[str, Any]]) -> Asked:
    """Of the Job among the manifests."""
    for manifest in manifests:
        if manifest.get("kind") == "Job":
            pod = manifest["spec"]["template"]["spec"]
            container = next(
                (one for one in pod["containers"] if one["name"] == "trainer"), pod["containers"][0]
            )
            resources = container.get("resources", {})
            wanted = {**resources.get("limits", {}), **resources.get("requests", {})}
            gpus = sum(
                int(amount(str(value)))
                for key, value in wanted.items()
                if key.startswith("nvidia.com/")
            )
            return Asked(
                cpu=float(amount(str(wanted.get("cpu", "0")))),
                memory=float(amount(str(wanted.get("memory", "0")))),
                gpus=gpus,
            )
    return Asked()


def newest(metrics: str) -> dict[str, Any]:
    """The last usage record in the end of a metrics.jsonl; {} when there is none."""
    for line in reversed(metrics.splitlines()):
        if '"usage"' in line:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # cut at the start, or half written
            if isinstance(found, dict) and found.get("kind") == "usage":
                return found
    return {}


def forecast(usage: Mapping[str, Any], wanted: Asked, bands: Bands) -> list[Verdict]:
    """A verdict for each resource that the site has a band for and the record tells of. Resources without a band are shown as they are."""
    verdicts = []
    if wanted.gpus and isinstance(usage.get("gpu_mean"), (int, float)):
        verdicts.append(_gpu(usage, bands.gpu))
    exempt = wanted.cpu <= _EXEMPT[0] and wanted.memory <= _EXEMPT[1]
    for what, key, amount_asked, band in (
        ("cpu", "cpu_15m", wanted.cpu, bands.cpu),
        ("memory", "memory_30m", wanted.memory, bands.memory),
    ):
        if amount_asked > 0 and isinstance(usage.get(key), (int, float)):
            settled = _number(usage, "elapsed") >= _SETTLED
            verdicts.append(
                _share(
                    what,
                    100 * usage[key] / amount_asked,
                    amount_asked,
                    () if exempt or not settled else band,
                )
            )
    return verdicts


def _gpu(usage: Mapping[str, Any], band: Sequence[int]) -> Verdict:
    """A mean of m after t seconds is (m t + p x) / (t + x) after x more at p; it meets the band b at x = t (b - m) / (p - b)."""
    mean, now, elapsed = (
        _number(usage, "gpu_mean"),
        _number(usage, "gpu"),
        _number(usage, "elapsed"),
    )
    said = f"GPU {mean:.0f}% on average since start"
    if not band:
        return Verdict(what="gpu", percent=mean, ok=True, text=f"{said}, {now:.0f}% now")
    least = band[0]
    meets = elapsed * (least - mean) / (now - least) if now != least else -1.0
    if mean >= least:
        if now >= least:
            return Verdict(
                what="gpu", percent=mean, ok=True, text=f"{said}, above the site's {least}%"
            )
        text = f"{said}, falls below the site's {least}% in {_minutes(meets)} at the present {now:.0f}%"
        return Verdict(what="gpu", percent=mean, ok=False, text=text, fix=_GPU_FIX)
    if now > least:
        text = f"{said}, below the site's {least}%; reaches it in {_minutes(meets)} at the present {now:.0f}%"
        return Verdict(
            what="gpu",
            percent=mean,
            ok=False,
            text=text,
            fix="nothing to do, if it goes on like this",
        )
    text = f"{said}, below the site's {least}%; does not reach it at the present {now:.0f}%"
    return Verdict(what="gpu", percent=mean, ok=False, text=text, fix=_GPU_FIX)


def _share(what: str, percent: float, wanted: float, band: Sequence[int]) -> Verdict:
    size = f"{wanted:g} cores" if what == "cpu" else f"{wanted / 2**30:.3g}Gi"
    said = f"{'CPU' if what == 'cpu' else what} {percent:.0f}% of the {size} asked for"
    key = f"job.resources.{what}"
    if not band or band[0] <= percent <= band[1]:
        return Verdict(
            what=what,
            percent=percent,
            ok=True,
            text=said + (f", within the site's {band[0]}-{band[1]}%" if band else ""),
        )
    if percent < band[0]:
        enough = max(1.0, wanted * percent / 100 / 0.6)  # at which it would be used to 60 %
        better = (
            f"{enough:.0f}"
            if what == "cpu"
            else f"{max(1.0, wanted * percent / 100 / 0.6 / 2**30):.0f}Gi"
        )
        text = f"{said}, below the site's {band[0]}%"
        return Verdict(
            what=what,
            percent=percent,
            ok=False,
            text=text,
            fix=f"the next run can ask for {key}: {better}",
        )
    return Verdict(
        what=what,
        percent=percent,
        ok=False,
        text=f"{said}, above the site's {band[1]}%",
        fix=f"raise {key}",
    )


def _number(usage: Mapping[str, Any], key: str) -> float:
    value = usage.get(key, 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _minutes(seconds: float) -> str:
    """`~25 min`, `~3 h`."""
    minutes = max(1, round(seconds / 60))
    return f"~{minutes} min" if minutes < 120 else f"~{round(minutes / 60)} h"
