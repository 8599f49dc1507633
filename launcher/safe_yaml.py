"""YAML that holds plain values only; through libyaml where PyYAML was built with it, which is ten times as fast."""

from __future__ import annotations

from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def load(text: str | bytes) -> Any:
    """What the one document says. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=LOADER)
