"""Loading an application's reducers by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from tai_state.cli.common import UsageError
from tai_state.history.folding import Reducers


def load_reducers(name: str | None) -> Reducers:
    """The mapping of actions to reducers at ``module:attribute``; the working directory is searched, too.

    Raises:
        UsageError: the name is malformed, cannot be loaded, or names something else.
    """
    if name is None:
        return {}
    module, separator, attribute = name.partition(":")
    if not separator or not module or not attribute:
        raise UsageError(f"--app takes MODULE:ATTRIBUTE, not {name!r}")
    sys.path.insert(0, "")
    try:
        with redirect_stdout(sys.stderr):  # stdout is for data only, and what the module prints is not data
            found: Any = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--app {name} cannot be loaded: {type(error).__name__}: {error}") from error
    if isinstance(found, Mapping):
        reducers: dict[Any, Any] = dict(found)  # pyright: ignore[reportUnknownArgumentType]
        if all(isinstance(action, str) and callable(reducer) for action, reducer in reducers.items()):
            return reducers
    raise UsageError(f"--app {name} is not a mapping of actions to reducers")
