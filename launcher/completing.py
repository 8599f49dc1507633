"""What the shell offers after a tab. Each starts what it needs only when asked."""

from __future__ import annotations


def runs(incomplete: str) -> list[str]:
    """Runs that this machine submitted."""
    from launcher.records import load_all

    return [record.run for record in load_all() if record.run.startswith(incomplete)]


def clusters(incomplete: str) -> list[str]:
    """Cluster profiles."""
    from launcher.profiles import available

    return [name for name in available() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Networks, none where no trainer is installed."""
    import json

    from launcher.trainer_check import ask

    try:
        return [str(model["name"]) for model in json.loads(ask("models", "--json").stdout) if model["name"].startswith(incomplete)]
    except ValueError:
        return []


def claims(incomplete: str) -> list[str]:
    """`CLAIM:` of those that this machine's runs mounted; the cluster is not asked, a tab must not wait."""
    from launcher.records import load_all

    volumes = [
        volume["persistentVolumeClaim"]["claimName"]
        for record in load_all()
        for manifest in record.manifests
        for volume in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
        if "persistentVolumeClaim" in volume
    ]
    return [f"{claim}:" for claim in dict.fromkeys(volumes) if f"{claim}:".startswith(incomplete)]
