"""Every engine passes the same examination."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tai_state.engines.api import Engine
from tai_state.testing import ENGINE_CHECKS, REOPEN_CHECKS, conformance
from tai_state.testing.conformance import EngineCheck, ReopenCheck

pytestmark = pytest.mark.anyio


def _named(checks: tuple) -> list:
    return [pytest.param(check, id=check.__name__.removeprefix("check_")) for check in checks]


@pytest.mark.parametrize("check", _named(ENGINE_CHECKS))
async def test_engine(engine: Engine, check: EngineCheck):
    """The engine keeps the promise that the check is about."""
    await check(engine)


@pytest.mark.parametrize("check", _named(REOPEN_CHECKS))
async def test_reopening(make_durable_engine: Callable[[], Engine], check: ReopenCheck):
    """The engine keeps the promise that the check is about when its store is opened again."""
    await check(make_durable_engine)


def test_the_suite_leaves_no_check_out():
    """Every check that the suite defines, with one sentence on what it shows, is in exactly one of its lists."""
    defined = [each for name, each in vars(conformance).items() if name.startswith("check_")]
    assert sorted((*ENGINE_CHECKS, *REOPEN_CHECKS), key=id) == sorted(defined, key=id)
    assert all((check.__doc__ or "").endswith(".") for check in defined)
