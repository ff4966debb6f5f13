"""Mistakes in engines, and the checks of the examination that find them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from tai_state.engines import memory
from tai_state.testing import (
    LIFECYCLE_CHECKS,
    REOPEN_CHECKS,
    checking,
    lifecycle_checks,
    race_checks,
    reopen_checks,
    watch_checks,
)

from .mistakes import Mistake

WITH_HANGS = (checking, lifecycle_checks, race_checks, reopen_checks, watch_checks)
"""Modules that say how long a check waits for what may never come."""


class Red(NamedTuple):
    """A mistake, and a check that finds it.

    Attributes:
        check: which.
        words: what goes wrong.
        right: a part of the module's text that stands there once.
        wrong: what stands there instead.
        module: whose.
        says: how the check ends; by default it says itself what is wrong.
    """

    check: Callable[..., Any]
    words: str
    right: str
    wrong: str
    module: ModuleType = memory
    says: type[BaseException] = AssertionError

    @property
    def name(self) -> str:
        """Check and mistake."""
        return f"{self.check.__name__.removeprefix('check_')}-{self.words}"

    @property
    def mistake(self) -> Mistake:
        """The mistake alone."""
        return Mistake(self.words, self.module, self.right, self.wrong)


async def run(check: Callable[..., Any], make: Callable[[], Any]) -> None:
    """Run a check of whatever list; each engine that is made is over the same documents."""
    if check in REOPEN_CHECKS:
        await check(make)
    elif check in LIFECYCLE_CHECKS:
        await check(make())
    else:
        async with make() as engine:
            await check(engine)


async def expect_red(patch: pytest.MonkeyPatch, red: Red, examine: Callable[[], Awaitable[None]]) -> None:
    """See the check fail as it is to; for what never comes nobody waits long."""
    if red.says is TimeoutError:
        for each in WITH_HANGS:
            patch.setattr(each, "HANG_SECONDS", 0.5)
    with pytest.raises((Exception, BaseExceptionGroup)) as caught:
        await examine()
    said = _leaves(caught.value)
    print(f"{red.name}: {said[0]!r}"[:400])
    assert {type(each) for each in said} == {red.says}, said


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors that a group is made of."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]
