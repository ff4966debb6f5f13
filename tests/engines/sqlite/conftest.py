"""Files that hold a store, or will."""

from __future__ import annotations

from pathlib import Path

import pytest

from tai_state.engines.api import Put

from ...support.sqlite import engine_over


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a store is, or will be."""
    return tmp_path / "store.db"


@pytest.fixture
async def made(file: Path) -> Path:
    """A closed store that holds four hundred documents of a kilobyte."""
    async with engine_over(file) as engine:
        await engine.commit([Put(f"c/{n:03}", {"n": n, "text": "x" * 1_000}) for n in range(400)])
    return file
