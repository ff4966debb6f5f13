"""What a public signature names can be imported: a caller can annotate, catch and make whatever the library does."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

import tai_state
from tai_state import TaiStateError, adapters, machines, web
from tai_state.engines import api
from tai_state.machines import ready

ERRORS = [each for each in vars(tai_state).values() if isinstance(each, type) and issubclass(each, TaiStateError)]

PUBLIC = (tai_state, machines, ready, adapters, web)
"""The modules whose names are public: the root, those of machines, whose names would collide with everybody's, and
those of adapters, whose libraries are optional."""


def _public(module: ModuleType) -> dict[str, Any]:
    """The public names of a module: what it imports under their own names."""
    body = ast.parse(Path(str(module.__file__)).read_text()).body
    names = [alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return {name: getattr(module, name) for name in names if name is not None}


NAMES = {name: found for module in PUBLIC for name, found in _public(module).items()}

SEAM = "not part of the public interface"
"""What the docstring of a member says that is public for the library's own rooms alone."""
MADE = "Made by"
"""What the docstring of a class says whose constructor is not for callers."""

OF_THE_WAIST = {"Engine", "Guard"}
"""What those write who write engines or fences of their own: its words are the waist's, in ``engines/api.py``."""


def test_families_of_errors_are_public() -> None:
    """Every class between a public error and the root is public, under its own name."""
    families = {family for error in ERRORS for family in error.__mro__ if issubclass(family, TaiStateError)}
    assert {family.__name__ for family in families} - set(tai_state.__all__) == set()


def _of_the_library(module: ModuleType) -> set[str]:
    """The names in a module that come from the library: defined in it, or imported from another module of it."""
    names: set[str] = set()
    for node in ast.parse(Path(str(module.__file__)).read_text()).body:
        match node:
            case ast.ImportFrom(module=origin) if origin is not None and origin.startswith("tai_state"):
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return {name for name in names if not isinstance(getattr(module, name, None), TypeVar)}


def _mentioned(annotation: Any) -> set[str]:
    """The names in an annotation, also where it is text."""
    tree = ast.parse(annotation) if isinstance(annotation, str) else ast.Module([], [])
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names.union(*map(_mentioned, texts))


def _functions(name: str, found: Any) -> Iterator[tuple[str, Any]]:
    """What is called or read of something public: itself, or its constructor, methods and properties."""
    if not isinstance(found, type):
        yield name, found
        return
    for base in found.__mro__:
        if not base.__module__.startswith("tai_state"):
            continue
        for key, member in vars(base).items():
            function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
            is_constructor = key == "__init__" and MADE not in (found.__doc__ or "")
            if inspect.isfunction(function) and (is_constructor or not key.startswith("_")):
                yield f"{name}.{key}", function


def _signatures() -> Iterator[Any]:
    """Each public signature: where it stands, its module, and the names that it mentions."""
    for name, found in NAMES.items():
        fields = found.__annotations__ if isinstance(found, type) and "__annotations__" in vars(found) else {}
        if fields:
            said = [each for key, each in fields.items() if not key.startswith("_")]
            yield pytest.param(found.__module__, said, id=name)
        for place, function in _functions(name, found):
            if inspect.isfunction(function) and SEAM not in (function.__doc__ or ""):
                yield pytest.param(function.__module__, list(function.__annotations__.values()), id=place)


@pytest.mark.parametrize(("module", "annotations"), [*_signatures()])
def test_names_of_public_signatures_can_be_imported(
    module: str, annotations: list[Any], request: pytest.FixtureRequest
) -> None:
    """Every name of the library that a public signature mentions is public, too; the waist's words in the waist."""
    mentioned = set[str]().union(*map(_mentioned, annotations)) & _of_the_library(sys.modules[module])
    place = request.node.callspec.id.partition(".")[0]
    missing = mentioned - set(NAMES) - (_of_the_library(api) if place in OF_THE_WAIST else set())
    assert missing == set()
