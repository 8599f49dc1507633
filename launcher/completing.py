"""What the shell offers after a tab. Each starts what it needs only when asked."""

from __future__ import annotations


def runs(incomplete: str) -> list[str]:
    """Runs that this machine submitted, the newest first; by the names of their records alone, since a tab must not wait."""
    from launcher.records import state_dir

    found = [
        (path.stat().st_mtime, path.stem)
        for path in (state_dir() / "runs").glob(f"{_plain(incomplete)}*.json")
    ]
    return [run for _, run in sorted(found, reverse=True)]


def sources(incomplete: str) -> list[str]:
    """Runs, and after an @ which of a run's checkpoints."""
    run, at, _ = incomplete.partition("@")
    return (
        [each for each in (f"{run}@best", f"{run}@last") if each.startswith(incomplete)]
        if at
        else runs(incomplete)
    )


def _plain(text: str) -> str:
    """Without what a glob would read."""
    return "".join(each for each in text if each.isalnum() or each in "-.")


def what(incomplete: str) -> list[str]:
    """What `fetch` knows by name."""
    from launcher.fetch_choice import WORDS

    return [name for name in WORDS if name.startswith(incomplete)]


def clusters(incomplete: str) -> list[str]:
    """Cluster profiles."""
    from launcher.profiles import available

    return [name for name in available() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Networks, none where no trainer is installed."""
    import json

    from launcher.trainer_process import ask

    try:
        return [
            str(model["name"])
            for model in json.loads(ask("models", "--json").stdout)
            if model["name"].startswith(incomplete)
        ]
    except ValueError:
        return []


def places(incomplete: str) -> list[str]:
    """`CLAIM:` of each."""
    return [f"{claim}:" for claim in claims("") if f"{claim}:".startswith(incomplete)]


def claims(incomplete: str) -> list[str]:
    """Those that this machine's runs mounted; the cluster is not asked."""
    from launcher.records import load_all

    volumes = [
        volume["persistentVolumeClaim"]["claimName"]
        for record in load_all()
        for manifest in record.manifests
        for volume in manifest.get("spec", {})
        .get("template", {})
        .get("spec", {})
        .get("volumes", [])
        if "persistentVolumeClaim" in volume
    ]
    return [claim for claim in dict.fromkeys(volumes) if claim.startswith(incomplete)]
