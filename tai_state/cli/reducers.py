"""Loading an application's reducers by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer

from tai_state.history.folding import Reducers


def load_reducers(name: str | None) -> Reducers:
    """The mapping of actions to reducers at ``module:attribute``, found from the working directory too.

    Raises:
        typer.BadParameter: there is none.
    """
    if name is None:
        return {}
    module, separator, attribute = name.partition(":")
    if not separator or not module or not attribute:
        raise typer.BadParameter(f"--app takes MODULE:ATTRIBUTE, not {name!r}")
    sys.path.insert(0, "")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise typer.BadParameter(f"--app {name}: {error}") from None
    if not isinstance(found, Mapping) or not all(callable(each) for each in found.values()):  # pyright: ignore
        raise typer.BadParameter(f"--app {name} is no mapping of actions to reducers")
    return found  # pyright: ignore
