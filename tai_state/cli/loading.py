"""Loading what an application has by its name: reducers, definitions of machines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any, TypeGuard

from tai_state.cli.common import UsageError
from tai_state.errors import InvalidData
from tai_state.history.folding import Reducers
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.definition import Definition
from tai_state.machines.migrations import Migration


def load_reducers(name: str | None) -> Reducers:
    """The mapping of actions to reducers at ``module:attribute``; the working directory is searched, too.

    Raises:
        UsageError: the name is malformed, cannot be loaded, or names something else.
    """
    if name is None:
        return {}
    found = _loaded(name)
    if isinstance(found, Mapping):
        reducers: dict[Any, Any] = dict(found)  # pyright: ignore[reportUnknownArgumentType]
        if all(isinstance(action, str) and callable(reducer) for action, reducer in reducers.items()):
            return reducers
    raise UsageError(f"--app {name} is not a mapping of actions to reducers")


def load_definitions(name: str) -> list[Definition[Any, Any]]:
    """The definitions at ``module:attribute``: one, or a sequence of them; of a migration, its definition.

    Raises:
        UsageError: the name is malformed, cannot be loaded, or names something else.
    """
    definitions = [each.definition if _is_migration(each) else each for each in _items(name)]
    try:
        Catalogue(definitions)
    except InvalidData as error:
        raise UsageError(f"--app {name} is not a definition of a machine, nor a list of them: {error}") from None
    return definitions


def load_migration(name: str) -> Migration[Any, Any]:
    """The migration at ``module:attribute``, or that to the newest of the definitions there, which are of one machine.

    Raises:
        UsageError: the name is malformed, cannot be loaded, or names something else.
    """
    newest = only_machine(Catalogue(load_definitions(name)), name)
    migrations = [each for each in _items(name) if _is_migration(each) and each.definition is newest]
    return migrations[-1] if migrations else Migration(newest)


def only_machine(catalogue: Catalogue, name: str) -> Definition[Any, Any]:
    """The newest definition at ``module:attribute``, where all are of one machine.

    Raises:
        UsageError: they are of several.
    """
    if len(catalogue.newest) > 1:
        raise UsageError(f"--app {name} is to name one machine, and names {', '.join(sorted(catalogue.newest))}")
    [newest] = catalogue.newest.values()
    return newest


def _is_migration(item: object) -> TypeGuard[Migration[Any, Any]]:
    return isinstance(item, Migration)


def _items(name: str) -> list[Any]:
    """What is at ``module:attribute``, as a list of its items if it is a sequence."""
    found = _loaded(name)
    return [*found] if isinstance(found, list | tuple) else [found]  # pyright: ignore[reportUnknownVariableType]


def _loaded(name: str) -> Any:
    """What is at ``module:attribute``; the working directory is searched, too.

    Raises:
        UsageError: the name is malformed, or cannot be loaded.
    """
    module, separator, attribute = name.partition(":")
    if not separator or not module or not attribute:
        raise UsageError(f"--app takes MODULE:ATTRIBUTE, not {name!r}")
    sys.path.insert(0, "")
    try:
        with redirect_stdout(sys.stderr):  # stdout is for data only, and what the module prints is not data
            return getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--app {name} cannot be loaded: {type(error).__name__}: {error}") from error
