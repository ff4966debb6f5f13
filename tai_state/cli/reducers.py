"""Loading what an application has by its name: reducers, definitions of machines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from tai_state.cli.common import UsageError
from tai_state.errors import InvalidData
from tai_state.history.folding import Reducers
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.definition import Definition


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
    """The definitions at ``module:attribute``: one, or a sequence of them.

    Raises:
        UsageError: the name is malformed, cannot be loaded, or names something else.
    """
    found = _loaded(name)
    definitions: list[Any] = [*found] if isinstance(found, list | tuple) else [found]  # pyright: ignore[reportUnknownVariableType]
    try:
        Catalogue(definitions)
    except InvalidData as error:
        raise UsageError(f"--app {name} is not a definition of a machine, nor a list of them: {error}") from None
    return definitions


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
