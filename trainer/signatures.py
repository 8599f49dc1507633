"""What each registered model is called and which options it takes, read from the source by `ast`: no torch is imported.

A model is a function decorated with `@register_model` in any module of `trainer/models`; its name is the model's name, its
parameters are the options, its docstring's first line is the summary. It is a classifier when it takes `num_classes`.
"""

from __future__ import annotations

import ast
import functools
import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

MODELS = Path(__file__).parent / "models"
# What a record of published weights may say, beside its `name`; a module's PUBLISHED leaves out
# what is so.
RECORD: dict[str, Any] = {
    "torchvision": "",  # torchvision's name of them
    "url": "",  # where the file itself is
    "page": "",  # where it is found by hand: an address, or a key of PAGES in models/published.py
    "file": "",  # its name, or a pattern of it; the end of `url` unless said
    "sha256": "",  # of the file, or its start
    "mib": 0.0,  # MiB of its tensors; a file that keeps its training's state has more
    "classes": 0,
    "options": {},  # of the model, that it was made with
    "normalise": "",  # preset of data/normalise.py
    "frames": 0,
    "size": 0,  # px
    "fps": 0,  # 0: every frame as it came, or not known
    "accuracy": "",
    "note": "",
}


@dataclass(frozen=True)
class Option:
    """One option of a model. A required one has no default."""

    default: Any
    annotation: str  # as written: "int", "int | None", 'Literal["2d", "3d"]'
    choices: tuple[Any, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class Signature:
    """One model. `parts` are the submodules that `model.init` and `model.freeze` may name; a plain model is its own part."""

    name: str
    kind: Literal["classifier", "resizer"]
    summary: str
    options: dict[str, Option]
    parts: tuple[str, ...]
    module: str  # "i3d" for trainer/models/i3d.py
    # "16x112" where the network takes clips of exactly so many frames and pixels, "1x75+" of so
    # many and more
    clip: str = ""
    # weights that can be had, as the module's PUBLISHED says
    published: tuple[dict[str, Any], ...] = ()

    @property
    def images(self) -> bool:
        """A 2D network: it takes `seq_len` frames stacked on the channels."""
        return "seq_len" in self.options


@functools.cache
def read() -> dict[str, Signature]:
    """Every registered model by name, in alphabetical order. Raises ValueError when two modules define one name."""
    found: dict[str, Signature] = {}
    for module, source in _sources():
        for signature in read_source(source, module):
            if signature.name in found:
                raise ValueError(
                    f"model {signature.name!r} is defined in {found[signature.name].module}.py and in {module}.py"
                )
            found[signature.name] = signature
    return dict(sorted(found.items()))


@functools.cache
def find(name: str) -> Signature | None:
    """One model, None when there is none of this name. Only its own module is parsed: all take 30 ms, too long for a check."""
    sources = ((module, source) for module, source in _sources() if f"\ndef {name}(" in source)
    return next(
        (
            found
            for module, source in sources
            for found in read_source(source, module)
            if found.name == name
        ),
        None,
    )


def of(name: str) -> Signature:
    """The model that a conf without faults names. Raises KeyError for any other name."""
    signature = find(name)
    if signature is None:
        raise KeyError(name)
    return signature


def _sources() -> Iterator[tuple[str, str]]:
    """Name and text of the modules that register models."""
    for info in pkgutil.iter_modules([str(MODELS)]):
        source = (MODELS / f"{info.name}.py").read_text(encoding="utf-8")
        if "@register_model" in source:
            yield info.name, source


def read_source(source: str, module: str) -> Iterator[Signature]:
    """The models that one module's source registers."""
    body = ast.parse(source).body
    published = _published(body)
    for node in body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(call, ast.Name) and call.id == "register_model":
                yield _signature(node, decorator, module, published.get(node.name, ()))


def _published(body: Iterable[ast.stmt]) -> dict[str, tuple[dict[str, Any], ...]]:
    """The literal that a module calls PUBLISHED: model -> weights that can be had."""
    for node in body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "PUBLISHED"
            and node.value
        ):
            found: dict[str, tuple[dict[str, Any], ...]] = ast.literal_eval(node.value)
            return {model: tuple(map(_whole, records)) for model, records in found.items()}
    return {}


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """A record with everything that it leaves out."""
    whole = RECORD | record
    return whole | {"file": whole["file"] or file_name(whole["url"])}


def file_name(url: str) -> str:
    """The name under which an address's file is kept: the last piece of its path, "" where there is none."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".")


def _signature(
    node: ast.FunctionDef, decorator: ast.expr, module: str, published: tuple[dict[str, Any], ...]
) -> Signature:
    keywords = (
        {k.arg: ast.literal_eval(k.value) for k in decorator.keywords}
        if isinstance(decorator, ast.Call)
        else {}
    )
    options = dict(_options(node.args))
    return Signature(
        name=node.name,
        kind="classifier" if "num_classes" in options else "resizer",
        summary=(ast.get_docstring(node) or "").partition("\n")[0],
        options=options,
        parts=tuple(keywords.get("parts", (node.name,))),
        module=module,
        clip=keywords.get("clip", ""),
        published=published,
    )


def _options(arguments: ast.arguments) -> Iterator[tuple[str, Option]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = zip(
        [*positional, *arguments.kwonlyargs],
        [*missing, *arguments.defaults, *arguments.kw_defaults],
        strict=True,
    )
    for argument, default in pairs:
        annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
        value = None if default is None else ast.literal_eval(default)
        yield (
            argument.arg,
            Option(value, annotation, _choices(argument.annotation), required=default is None),
        )


def _choices(annotation: ast.expr | None) -> tuple[Any, ...]:
    if not (
        isinstance(annotation, ast.Subscript)
        and isinstance(annotation.value, ast.Name)
        and annotation.value.id == "Literal"
    ):
        return ()
    value = ast.literal_eval(annotation.slice)
    return value if isinstance(value, tuple) else (value,)
