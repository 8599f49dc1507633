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
