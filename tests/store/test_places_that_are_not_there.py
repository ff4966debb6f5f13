"""Addresses at which no store can be: no loop that tries again may go on for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tai_state import StoreUnavailable, UnknownStore, open_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """A folder does not know the event loop."""
    return "asyncio"


@pytest.mark.parametrize("place", ["missing/store.db", ".", "file/store.db"], ids=["no_folder", "a_folder", "a_file"])
async def test_a_place_where_no_file_can_be_is_not_transient(tmp_path: Path, place: str):
    """What somebody has to mend first is said to last, and names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable) as told:
        async with open_store(f"sqlite:///{tmp_path / place}"):
            pass
    assert str(tmp_path / place) in str(told.value)
    assert not told.value.is_transient


async def test_a_name_that_no_file_can_have_is_refused():
    """An address with half of a surrogate pair names no file, and is refused as an address."""
    with pytest.raises(UnknownStore):
        async with open_store("sqlite:///\udcff.db"):
            pass
