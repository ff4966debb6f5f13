"""Mistakes made on purpose in the text of a module: what it would do if one line of it were another one."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pytest


class Mistake(NamedTuple):
    """One line that is another one.

    Attributes:
        words: what goes wrong.
        module: whose text it is in.
        right: a part of its text that stands there once.
        wrong: what stands there instead.
    """

    words: str
    module: ModuleType
    right: str
    wrong: str


def mistaken(mistake: Mistake) -> ModuleType:
    """A module of its own, made from the text with the mistake in it."""
    text = inspect.getsource(mistake.module)
    assert text.count(mistake.right) == 1, f"{text.count(mistake.right)} times in the text: {mistake.right}"
    return _made(mistake.module, text.replace(mistake.right, mistake.wrong))


def plant(patch: pytest.MonkeyPatch, mistake: Mistake) -> None:
    """Have everybody who uses what the module defines use what it defines with the mistake in it."""
    name = mistake.module.__name__
    made = vars(mistaken(mistake))
    defined = {key: value for key, value in vars(mistake.module).items() if getattr(value, "__module__", None) == name}
    for module in [each for key, each in sys.modules.items() if key.startswith("tai_state.")]:
        for key, value in list(vars(module).items()):
            if key in defined and value is defined[key]:
                patch.setattr(module, key, made[key])


def using(module: ModuleType, mistake: Mistake) -> ModuleType:
    """The module as it would be with the mistake in it, or in one that it imports from."""
    if mistake.module is module:
        return mistaken(mistake)
    made, other = _made(module, inspect.getsource(module)), mistaken(mistake)
    for name in vars(other).keys() & vars(made).keys():
        if getattr(vars(other)[name], "__module__", None) == other.__name__:
            setattr(made, name, vars(other)[name])
    return made


def _made(module: ModuleType, text: str) -> ModuleType:
    made = ModuleType(module.__name__)
    exec(compile(text, f"{module.__file__} with a mistake", "exec"), made.__dict__)
    return made
