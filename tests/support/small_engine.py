"""An engine that takes little in a commit: the least that the library is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from tai_state.engines.api import Capabilities, Committed, Put, Write, check_budget

from .stores import AroundEngine

OPERATIONS = 128
COMMIT_BYTES = 3 * 512 * 1024


class SmallEngine(AroundEngine):
    """Takes 128 writes and 1.5 MiB in a commit. What it does not do itself, the engine inside does."""

    @property
    def capabilities(self) -> Capabilities:
        """The other's, with smaller limits."""
        inside: Capabilities = self._engine.capabilities
        return replace(inside, name="small", max_ops_per_commit=OPERATIONS, max_bytes_per_commit=COMMIT_BYTES)

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """As the engine inside, within the limits."""
        sizes = {
            write.path: len(msgspec.json.encode(write.fields)) if isinstance(write, Put) else 0 for write in writes
        }
        check_budget(sizes, len(writes), self.capabilities)
        return await self._engine.commit(writes)
