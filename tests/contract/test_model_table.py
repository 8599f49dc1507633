"""conf/MODELS.md and the README's table say of the networks what they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from trainer import signatures


@pytest.fixture(scope="module")
def table(project: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "model_table", project / "tests" / "contract" / "model_table.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["model_table"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(table: ModuleType, project: Path) -> None:
    """All but the costs, which are counted anew in `test-all`. `make docs` writes both."""
    page, readme = (
        (project / name).read_text(encoding="utf-8") for name in ("conf/MODELS.md", "README.md")
    )
    costs = table.as_written(page)
    assert page == table.document(costs)
    assert readme == table.in_readme(readme, costs)


@pytest.mark.slow
def test_the_costs_are_those_of_the_networks(table: ModuleType, project: Path) -> None:
    assert (project / "conf" / "MODELS.md").read_text(encoding="utf-8") == table.document()


def test_every_classifier_and_every_published_weight_has_a_row(table: ModuleType) -> None:
    """So that a new network or record cannot be forgotten."""
    rows = [row for rows in table.SECTIONS.values() for row in rows]
    assert len({row.key for row in rows}) == len(rows)
    for name, signature in signatures.read().items():
        own = [row for row in rows if row.model == name]
        assert own or signature.kind == "resizer", name
        shown = {record["name"] for row in own for record in table.weights(row)}
        assert {record["name"] for record in signature.published} <= shown, name
    assert {row.model for row in rows if row.short} >= {
        "i3d",
        "resnext3d",
        "mobilenetv2_3d",
        "r2plus1d",
        "csn",
        "c3d",
        "inception_v3",
        "vgg16",
    }


def test_every_conf_with_a_model_is_in_a_row(table: ModuleType) -> None:
    shown = {name for rows in table.SECTIONS.values() for row in rows for name in table.runs(row)}
    assert shown | {"quickstart.yaml"} >= set(table.confs())


def test_the_readme_gets_its_table_between_the_markers(table: ModuleType) -> None:
    costs = table.as_written("")
    assert table.in_readme("no markers", costs) == "no markers"
    text = table.in_readme(f"a\n{table.OPEN}\nold\n{table.CLOSE}\nb", costs)
    assert text.startswith(f"a\n{table.OPEN}\n| model |")
    assert text.endswith(f"|\n{table.CLOSE}\nb")
    assert table.in_readme(text, costs) == text
