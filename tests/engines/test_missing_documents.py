"""Documents that were removed while others lie below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tai_state.engines.api import Delete, Put
from tai_state.testing import ManualClock

from ..support.stores import MEMORY, SQLITE, Kind

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", [MEMORY, SQLITE], ids=["memory", "sqlite"])
async def test_a_removed_document_is_missing_while_others_lie_below_it(tmp_path: Path, kind: Kind):
    """It is named from its removal on, until what lies below it is removed as well, or it is written again."""
    async with kind.make(tmp_path, ManualClock()) as engine:
        await engine.commit([Put(f"c/{each}{below}", {}) for each in ("a", "b", "d") for below in ("", "/d/x")])
        await engine.commit([Delete("c/a"), Delete("c/b")])
        assert sorted(await engine.missing("c")) == ["a", "b"]
        await engine.commit([Put("c/a", {}), Delete("c/b/d/x")])
        assert list(await engine.missing("c")) == []
