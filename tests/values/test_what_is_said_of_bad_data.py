"""Data that cannot be stored: what is wrong with it is what is said."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import InvalidData, NewEvent, StateMachinePersister, open_store

from ..support.stores import METADATA, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What can be stored does not depend on the event loop."""
    return "asyncio"


class Float(float):
    """A number like those of libraries for arrays."""


def circle() -> dict[str, Any]:
    """An object that is in itself."""
    data: dict[str, Any] = {}
    data["again"] = data
    return data


async def said(data: Any) -> str:
    """What is said when it is saved."""
    async with open_store("memory://") as store:
        with pytest.raises(InvalidData) as refused:
            await store.save_state("g", "s", data, METADATA)
        return str(refused.value)


async def test_what_refers_to_itself_is_called_so():
    """A circle is a circle."""
    assert "refers to itself" in await said(circle())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        pytest.param(Float(1.5), "Float", id="float"),
        pytest.param([Float(1.5)], "Float", id="in_a_list"),
    ],
)
async def test_a_value_of_a_subclass_is_called_by_its_type(value: Any, name: str):
    """A number of another type than Python's own is named as such, so that it can be found and converted."""
    words = await said({"v": value})
    assert "itself" not in words
    assert name in words


async def outcome(number: int) -> str:
    """What becomes of a number that is saved."""
    async with open_store("memory://") as store:
        try:
            await store.save_state("g", "s", {"v": number}, METADATA)
        except InvalidData as refused:
            return str(refused)
        return "stored" if (await store.get_state("g", "s")).data == {"v": number} else "changed"


@pytest.mark.parametrize(
    "digits",
    [
        4_299,
        4_300,
        4_301,
        5_000,
    ],
)
async def test_a_long_number_is_treated_alike_below_zero(digits: int):
    """A sign is not a digit: both numbers are stored, or of both it is said that they are too long."""
    words = await outcome(10 ** (digits - 1))
    assert await outcome(-(10 ** (digits - 1))) == words
    assert "itself" not in words
    assert words != "changed"


async def test_a_version_that_is_text_is_refused():
    """Versions are numbers: anything else is said to be none."""
    async with open_store("memory://") as store:
        await store.save_state("g", "s", {}, METADATA)
        with pytest.raises(InvalidData, match="after"):
            await collected(store.get_events("g", "s", after="1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("events", [[], [None], [{"action": "x"}]], ids=["none", "nothing", "a_dict"])
async def test_events_that_are_none_are_refused(events: Any):
    """A record needs events."""
    async with open_store("memory://") as store:
        with pytest.raises(InvalidData, match="NewEvent"):
            await StateMachinePersister(store).record("g", "s", events, METADATA, expected=0)


async def test_events_may_come_from_a_generator():
    """What gives its events once is recorded as a list is."""
    events: Any = (NewEvent("x", number) for number in range(2))
    async with open_store("memory://") as store:
        recorded = await StateMachinePersister(store).record("g", "s", events, METADATA, expected=0)
        assert [event.payload for event in recorded] == [0, 1]
