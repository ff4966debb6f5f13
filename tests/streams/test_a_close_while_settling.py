"""A store is closed while the outcome of a commit is not known: whoever waits for it is told that nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tai_state import CommitOutcomeUnknown, StateStore, StoreTimeout, Transaction
from tai_state.errors import CommitRefused, TaiStateError

from ..support.stores import GOVERNOR, METADATA, AroundEngine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tai_state.engines.api import Engine, Write

    from ..support.stores import Place

pytestmark = pytest.mark.anyio


class ClosedInBetween(AroundEngine):
    """An engine that is closed after one of its commits, before anybody can look what became of it.

    Args:
        engine: the engine that does the work.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.answer: TaiStateError | None = None

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        committed = await self._engine.commit(writes)
        if self.answer is None:
            return committed
        await self._engine.__aexit__(None, None, None)
        raise self.answer


async def _save(store: StateStore) -> None:
    await store.save_state(GOVERNOR, "s", {"n": 2}, METADATA, expected=1, event_id="second")


async def _transact(store: StateStore) -> None:
    async def function(tx: Transaction) -> None:
        tx.put(store.state(GOVERNOR, "s"), {"n": 2})

    await store.transact(function, METADATA)


async def _keep(store: StateStore) -> None:
    await store.create_snapshot(GOVERNOR, "s")


async def _lock(store: StateStore) -> None:
    await store.locks.acquire_lock("r", ttl_seconds=60)


LOST = StoreTimeout("commit", "TEST", "the answer was lost", unknown=True)


@pytest.mark.parametrize("answer", [LOST, CommitRefused("c/a")], ids=["lost", "refused"])
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (_save, CommitOutcomeUnknown),
        (_transact, CommitOutcomeUnknown),
        (_keep, CommitOutcomeUnknown),
        (_lock, RuntimeError),
    ],
)
async def test_the_outcome_is_unknown(
    place: Place, call: Callable[[StateStore], Awaitable[None]], kind: type[Exception], answer: TaiStateError
) -> None:
    """Whoever changes a state or takes a lock is not told that it failed, if the store was closed meanwhile."""
    engine = ClosedInBetween(place.engine())
    async with place.store(engine) as store:
        await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA)
        engine.answer = answer
        with pytest.raises(kind) as raised:
            await call(store)
    assert isinstance(raised.value if kind is RuntimeError else raised.value.__cause__, RuntimeError)
