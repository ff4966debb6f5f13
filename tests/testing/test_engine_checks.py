"""Checks of the examination, checked: they find what they are about, and nothing that is not the engine's."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest

from tai_state.engines.api import Document, Scan
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.paging import Paged
from tai_state.testing import ManualClock
from tai_state.testing.scan_checks import check_scan_broken_off

from ..support.stores import AroundEngine

pytestmark = pytest.mark.anyio


class Left:
    """Warns when it is collected, which takes the search for circles."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        warnings.warn("something was left open", ResourceWarning, stacklevel=1)


class LeavesSomething(AroundEngine):
    """Its scans hold something that nobody closes."""

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        left, documents = Left(), self._engine.scan(scan)

        async def page() -> Any:
            assert left is not None
            return await documents.page()

        return Paged(page)


async def test_what_others_left_is_not_counted(clock: ManualClock):
    """An engine whose scans hold nothing passes, whatever waits to be collected from before."""
    gc.disable()
    try:
        Left()
        async with MemoryEngine(clock) as engine:
            await check_scan_broken_off(engine)
    finally:
        gc.enable()


async def test_a_scan_that_holds_something_is_found(clock: ManualClock):
    """An engine whose scans warn of something left open does not pass."""
    async with MemoryEngine(clock) as engine:
        with pytest.raises(AssertionError, match="something was left open"):
            await check_scan_broken_off(LeavesSomething(engine))  # type: ignore[arg-type]
