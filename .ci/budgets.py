"""House rule on size, measured: names every function or file that has outgrown it, exit code 1 when there is one."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 500  # until the house is rebuilt: 400
FUNCTION_LINES = 60
NETWORK_LINES = 80  # __init__ and forward of a network
# parameters that a caller may give by place; not of what a decorator calls by name (commands,
# models)
POSITIONAL = 4
PACKAGES = ("launcher", "trainer", "k8s_templates")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def faults(path: Path) -> Iterator[str]:
    """One line for each budget that the file breaks."""
    text = path.read_text(encoding="utf-8")
    if (lines := text.count("\n")) > FILE_LINES:
        yield f"{path}: {lines} lines, of {FILE_LINES}"
    network = "trainer/models/" in path.as_posix()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            yield from _function_faults(path, node, network=network)


def _function_faults(path: Path, node: Function, *, network: bool) -> Iterator[str]:
    allowed = NETWORK_LINES if network and node.name in ("__init__", "forward") else FUNCTION_LINES
    where = f"{path}:{node.lineno}: {node.name}"
    if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > allowed:
        yield f"{where}: {lines} lines, of {allowed}"
    names = [
        argument.arg
        for argument in node.args.posonlyargs + node.args.args
        if argument.arg not in ("self", "cls")
    ]
    if len(names) > POSITIONAL and not network and not node.decorator_list:
        yield f"{where}: {len(names)} positional parameters, of {POSITIONAL}"


if __name__ == "__main__":
    found = [
        fault
        for package in PACKAGES
        for path in sorted(Path(package).rglob("*.py"))
        for fault in faults(path)
    ]
    sys.stdout.write("".join(f"{fault}\n" for fault in found))
    sys.exit(bool(found))
