"""Writes conf/KEYS.md: every key of a conf, from the dataclasses that read it. `make docs`; a test keeps it true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HEAD = """# Every key of a conf

Made by `make docs` from `launcher/conf/schema.py` (name, job, sweep) and `trainer/config.py` (all else); do not edit.
`vidjobs conf CONF --explain` shows the value of each and which layer, file and line set it.
"""
ROOTS = {
    "launcher/conf/schema.py": {"JobConf": "job", "SweepConf": "sweep"},
    "trainer/config.py": {"Config": ""},
}


def document() -> str:
    """The page's text."""
    parts = [HEAD]
    for name, roots in ROOTS.items():
        source = (PROJECT / name).read_text(encoding="utf-8")
        classes = {
            node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)
        }
        for root, section in roots.items():
            parts += _section(section, classes[root], classes, source.splitlines())
    return "\n".join(parts)


def _section(
    path: str, node: ast.ClassDef, classes: dict[str, ast.ClassDef], lines: list[str]
) -> list[str]:
    """A heading and a table of the class's own keys, then one for each key that is a section itself."""
    rows, inner = [], []
    for field in (each for each in node.body if isinstance(each, ast.AnnAssign)):
        kind = ast.unparse(field.annotation)
        if kind.startswith("ClassVar"):
            continue
        key = ast.unparse(field.target).rstrip("_")
        where = f"{path}.{key}" if path else key
        nested = next((name for name in re.findall(r"\w+", kind) if name in classes), None)
        if nested:
            inner += _section(
                f"{where}[]" if kind.startswith("tuple") else where, classes[nested], classes, lines
            )
            kind = "list, below" if kind.startswith("tuple") else "mapping, below"
        note = _note(field, lines)
        if path:
            rows.append(
                f"| `{where}` | {_cell(kind, code=not nested)} | {_cell(_default(field.value))} | {_cell(note, code=False)} |"
            )
    heading = [
        f"## {path}",
        "",
        ast.get_docstring(node) or "",
        "",
        "| key | type | default | |",
        "|---|---|---|---|",
    ]
    return [*(heading if path else []), *rows, "", *inner]


def _note(field: ast.AnnAssign, lines: list[str]) -> str:
    """The comment at the end of the field's line, or else the lines of comment above it."""
    _, _, trailing = lines[(field.end_lineno or 1) - 1].partition("  # ")
    above: list[str] = []
    number = field.lineno - 2
    while lines[number].startswith("    # "):
        above.insert(0, lines[number].removeprefix("    # "))
        number -= 1
    return trailing or " ".join(above)


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if isinstance(value, ast.Call) and value.keywords:
        found = {keyword.arg: keyword.value for keyword in value.keywords}
        if "default" not in found:
            return {"dict": "{}"}.get(ast.unparse(found["default_factory"]), "")
        value = found["default"]
    if isinstance(value, ast.Call):  # Bytes("16Gi")
        value = value.args[0]
    return ast.unparse(value).strip("'") or '""'


def _cell(text: str, *, code: bool = True) -> str:
    text = text.replace("|", "\\|")
    return f"`{text}`" if code and text else text


if __name__ == "__main__":
    (PROJECT / "conf" / "KEYS.md").write_text(document(), encoding="utf-8")
