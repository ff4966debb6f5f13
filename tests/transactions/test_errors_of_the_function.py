"""Errors that a transaction's function raises: they come out as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import tenacity

from tai_state import VersionConflict, open_store

from ..support.stores import METADATA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tai_state import StateStore, Transaction

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """An error is the same under every event loop."""
    return "asyncio"


def gives_up() -> NoReturn:
    """A library that tries again and gives up, as the one inside does."""
    for attempt in tenacity.Retrying(stop=tenacity.stop_after_attempt(2)):
        with attempt:
            raise ConnectionError("the payment service is down")
    raise AssertionError("the last attempt raises")


def conflicts() -> NoReturn:
    """A conflict of somebody else's."""
    raise VersionConflict("elsewhere", 1, 2)


def stops() -> NoReturn:
    """What ``anext`` raises at the end of an iterator."""
    raise StopAsyncIteration


async def _transact(store: StateStore, fail: Callable[[], NoReturn]) -> None:
    async def function(transaction: Transaction) -> None:
        await transaction.find(store.state("g", "s"))
        fail()

    await store.transact(function, METADATA)


async def _execute(store: StateStore, fail: Callable[[], NoReturn]) -> None:
    async def function(_: Transaction) -> None:
        fail()

    await store.transactions.execute_transaction("g", function, METADATA)


async def _read_write(store: StateStore, fail: Callable[[], NoReturn]) -> None:
    def decide(_: Any) -> dict[str, Any]:
        fail()

    await store.transactions.read_write_transaction("g", ["s"], decide, METADATA)


@pytest.mark.parametrize("run", [_transact, _execute, _read_write])
@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (conflicts, VersionConflict),
        (stops, StopAsyncIteration),
        (gives_up, tenacity.RetryError),
    ],
    ids=["a_conflict", "a_stop", "a_retry_error"],
)
async def test_an_error_of_the_function_comes_out(
    run: Callable[[StateStore, Callable[[], NoReturn]], Awaitable[None]],
    fail: Callable[[], NoReturn],
    error: type[Exception],
):
    """Whatever the function raises is its caller's to see, and is not tried again."""
    runs = 0

    def counted() -> NoReturn:
        nonlocal runs
        runs += 1
        fail()

    async with open_store("memory://") as store:
        with pytest.raises(error):
            await run(store, counted)
    assert runs == 1
