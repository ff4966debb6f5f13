"""Statuses of Firestore that pass by themselves: the call is made again, wherever in it the status comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tai_state import ANY, StateStore, StoreUnusable, open_store
from tai_state.engines.firestore.engine import EMULATOR

from ...support.fault_proxy import FaultProxy
from ...support.stores import METADATA, collected
from ...support.wire_faults import Fault, at_calls, nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tai_state.testing.emulator import Emulator

pytestmark = pytest.mark.anyio

PASSING = (
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNKNOWN",
)


class Ending(FaultProxy):
    """A proxy that ends the next call of a method with any status."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._endings: dict[str, tuple[str, bool]] = {}

    def end_next(self, method: str, code: str, *, later: bool = False) -> None:
        """End a call before it reaches the server or, where it streams, after its first message."""
        self._endings[method] = code, later

    @property
    def is_over(self) -> bool:
        """Whether all that was to end has ended."""
        return not self._endings

    def one_answer(self, method: str, request: bytes, context: Any) -> bytes:  # noqa: D102
        self._end(method, context, later=False)
        return super().one_answer(method, request, context)

    def many_answers(self, method: str, request: Any, context: Any) -> Iterator[bytes]:  # noqa: D102
        self._end(method, context, later=False)
        for answer in super().many_answers(method, request, context):
            yield answer
            self._end(method, context, later=True)

    def _end(self, method: str, context: Any, *, later: bool) -> None:
        code, is_later = self._endings.get(method, ("", not later))
        if later == is_later:
            del self._endings[method]
            context.abort(grpc.StatusCode[code], "planned")


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


@pytest.fixture
def proxy(firestore_emulator: Emulator) -> Iterator[Ending]:
    """Between the store and the emulator."""
    with Ending(firestore_emulator.host) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: Ending, firestore_project: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StateStore]:
    """A store behind the proxy, with a few states."""
    monkeypatch.setenv(EMULATOR, proxy.host)
    async with open_store(f"firestore://{firestore_project}") as store:
        for number in range(3):
            await store.save_state("g", f"s{number}", {"n": number}, METADATA)
        yield store


async def _update_any(store: StateStore) -> None:
    await store.update_state("g", "s1", {"n": 9}, METADATA, expected=ANY)


async def _update_exact(store: StateStore) -> None:
    await store.update_state("g", "s1", {"n": 9}, METADATA, expected=1)


async def _handle_update(store: StateStore) -> None:
    await store.state("g", "s1").update(lambda now: {"n": now["n"] + 8}, METADATA)


async def _lock(store: StateStore) -> None:
    async with store.lock("r", wait_seconds=0):
        await _update_any(store)


async def _transact(store: StateStore) -> None:
    async def function(transaction: Any) -> None:
        state = await transaction.get(store.state("g", "s1"))
        transaction.put(store.state("g", "s1"), {"n": state.data["n"] + 8})

    await store.transact(function, METADATA)


@pytest.mark.parametrize("change", [_update_any, _update_exact, _handle_update, _transact, _lock])
@pytest.mark.parametrize("code", PASSING)
async def test_a_change_is_made_in_spite_of_it(
    store: StateStore, proxy: Ending, change: Callable[[StateStore], Awaitable[None]], code: str
):
    """A commit that is answered so is looked after within the deadline: the change is made, once."""
    proxy.end_next("Commit", code)
    await change(store)
    assert proxy.is_over
    state = await store.get_state("g", "s1")
    assert (state.version, state.data) == (2, {"n": 9})


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER], ids=lambda each: each.value)
async def test_a_change_is_made_in_spite_of_a_reset(store: StateStore, proxy: Ending, fault: Fault):
    """The same where the other side resets the connection, with or without having applied the commit."""
    proxy.reset_counts()
    proxy.plan = at_calls({("Commit", 1): fault})
    await _update_any(store)
    proxy.plan = nothing
    assert (await store.get_state("g", "s1")).version == 2


@pytest.mark.parametrize("code", PASSING)
async def test_a_read_is_made_in_spite_of_it(store: StateStore, proxy: Ending, code: str):
    """A read changes nothing, so it is made again."""
    proxy.end_next("BatchGetDocuments", code)
    assert (await store.get_state("g", "s1")).data == {"n": 1}
    assert proxy.is_over


@pytest.mark.parametrize("later", [False, True], ids=["at_once", "later"])
@pytest.mark.parametrize("code", PASSING)
async def test_a_scan_goes_on_in_spite_of_it(store: StateStore, proxy: Ending, code: str, later: bool):  # noqa: FBT001
    """A scan that breaks goes on where it was: each document comes once, in order."""
    proxy.end_next("RunQuery", code, later=later)
    assert [state.state_id for state in await collected(store.list_states("g"))] == ["s0", "s1", "s2"]
    assert proxy.is_over


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("Commit", _update_exact),
        ("BatchGetDocuments", lambda store: store.get_state("g", "s1")),
        ("RunQuery", lambda store: collected(store.list_states("g"))),
    ],
    ids=["commit", "read", "scan"],
)
@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNIMPLEMENTED"])
async def test_what_lasts_is_told_at_once(
    store: StateStore, proxy: Ending, code: str, method: str, call: Callable[[StateStore], Awaitable[Any]]
):
    """What somebody has to mend first is not tried again: the error names the status."""
    proxy.end_next(method, code)
    with pytest.raises(StoreUnusable) as told:
        await call(store)
    assert told.value.code == code
