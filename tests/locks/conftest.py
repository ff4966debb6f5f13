"""Two stores on the same documents, and time that passes when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tai_state import StateStore

from ..support.locks import Time
from ..support.stores import Place


@pytest.fixture
def time(place: Place) -> Time:
    """The time at that place."""
    return Time(place.clock)


@pytest.fixture
async def other(place: Place, store: StateStore) -> AsyncIterator[StateStore]:
    """Another one at the same place, as of another process."""
    async with place.store() as other:
        yield other
