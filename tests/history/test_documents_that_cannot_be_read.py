"""One document that cannot be decoded or brought up to date: it is named, and everything else goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state import (
    ANY,
    CorruptDocument,
    NewEvent,
    StateMachinePersister,
    TaiStateError,
    Upcast,
    open_store,
)
from tai_state.testing import ManualClock, MemoryEngine

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, collected, edit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

STATES = ("a", "b", "c")


@pytest.fixture
def anyio_backend() -> str:
    """What can be read does not depend on the event loop."""
    return "asyncio"


async def _flipped(folder: Path, collection: str, document_id: str) -> str:
    """A store of three states in a file, one document of which is no UTF-8 any more by one bit; its address."""
    url = f"sqlite:///{folder}/store.db"
    async with open_store(url) as store:
        for state_id in STATES:
            await store.save_state(GOVERNOR, state_id, {"n": 1}, METADATA)
    connection = apsw.Connection(str(folder / "store.db"))
    connection.execute(
        "UPDATE documents SET fields = cast(replace(cast(fields AS blob), 'tester', x'74E573746572') AS text)"
        " WHERE collection = ? AND id = ?",
        (f"governors/{GOVERNOR}/{collection}", document_id),
    )
    assert connection.changes() == 1
    connection.close()
    return url


@pytest.mark.parametrize(
    "look",
    [
        lambda store: store.get_state(GOVERNOR, "b"),
        lambda store: store.save_state(GOVERNOR, "b", {}, METADATA, expected=ANY),
        lambda store: collected(store.list_states(GOVERNOR)),
        lambda store: store.get_stats(),
        lambda store: store.batch_get_states(GOVERNOR, STATES),
    ],
    ids=["get_state", "save_state", "list_states", "get_stats", "batch_get_states"],
)
async def test_a_state_that_is_not_text_is_named(tmp_path: Path, look: Callable[[Any], Any]):
    """Whoever reads the document is told which one is corrupt."""
    async with open_store(await _flipped(tmp_path, "states", "b")) as store:
        with pytest.raises(CorruptDocument) as told:
            await look(store)
        assert told.value.path == f"governors/{GOVERNOR}/states/b"
        assert (await store.get_state(GOVERNOR, "c")).data == {"n": 1}


async def test_a_state_that_is_not_text_is_recovered(tmp_path: Path):
    """Its stream gives it back; the check before that finds it, and looks at the others as well."""
    async with open_store(await _flipped(tmp_path, "states", "b")) as store:
        persister = StateMachinePersister(store)
        found = await persister.validate_consistency()
        assert {finding.path for finding in found.findings} == {f"governors/{GOVERNOR}/states/b"}
        assert found.states == len(STATES)
        report = await persister.recover()
        assert (report.checked, report.rebuilt) == (3, (f"governors/{GOVERNOR}/states/b",))
        assert (await persister.validate_consistency()).consistent


async def test_an_event_that_is_not_text_is_found(tmp_path: Path):
    """No state follows from it any more; the check and the recovery name it, and go on with the others."""
    async with open_store(await _flipped(tmp_path, "events", "b~000000000001")) as store:
        persister = StateMachinePersister(store)
        found = await persister.validate_consistency()
        assert f"governors/{GOVERNOR}/events/b~000000000001" in {finding.path for finding in found.findings}
        report = await persister.recover()
        assert (report.checked, report.sound, len(report.failed)) == (3, 2, 1)
        with pytest.raises(CorruptDocument):
            await collected(store.get_events(GOVERNOR, "b"))


@pytest.mark.parametrize(
    ("place", "look"),
    [
        pytest.param(
            "states/b",
            lambda store: store.get_state(GOVERNOR, "b"),
        ),
        ("events/b~000000000001", lambda store: collected(store.get_events(GOVERNOR, "b"))),
    ],
    ids=["state", "event"],
)
async def test_a_time_that_cannot_be_read_is_told_with_its_document(place: str, look: Callable[[Any], Any]):
    """A damaged time is damage of a document, and that is named."""
    path = f"governors/{GOVERNOR}/{place}"
    async with open_store("memory://") as store:
        await store.save_state(GOVERNOR, "b", {"n": 1}, METADATA)
        await edit(store.core.engine, path, timestamp="x026-01-31T09:15:00.000000Z")
        with pytest.raises(CorruptDocument) as told:
            await look(store)
        assert told.value.path == path


def _last(_: dict[str, Any] | None, event: Any) -> dict[str, Any]:
    return {"n": event.payload["n"]}


async def _of_an_older_release() -> MemoryEngine:
    """Three streams of schema 1, one of which ends with an event that the upcaster below does not expect."""
    clock = ManualClock(step_us=1_000)
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock) as store:
        persister = StateMachinePersister(store, {"add": _last})
        for state_id in STATES:
            await persister.record(GOVERNOR, state_id, [NewEvent("add", {"n": 1})], METADATA, expected=0)
        await persister.record(GOVERNOR, "b", [NewEvent("add", {"n": 2, "odd": True})], METADATA, expected=1)
    return engine


def _payload(_action: str, payload: dict[str, Any]) -> Any:
    return payload["missing"] if "odd" in payload else payload["n"]


UPCASTERS = {1: Upcast(payload=_payload)}


async def test_a_check_goes_on_after_an_upcaster_that_fails():
    """The event that the upcaster cannot take is found, and the other streams are looked at."""
    async with open_store(await _of_an_older_release(), schema=2, upcasters=UPCASTERS) as store:
        found = await StateMachinePersister(store, REDUCERS).validate_consistency()
        assert {finding.path for finding in found.findings} == {f"governors/{GOVERNOR}/events/b~000000000002"}
        assert found.states == len(STATES)


async def test_a_recovery_goes_on_after_an_upcaster_that_fails():
    """The state whose event the upcaster cannot take is named as failed, and the others are looked at."""
    async with open_store(await _of_an_older_release(), schema=2, upcasters=UPCASTERS) as store:
        report = await StateMachinePersister(store, REDUCERS).recover()
        assert (report.checked, [path for path, _ in report.failed]) == (
            3,
            [f"governors/{GOVERNOR}/events/b~000000000002"],
        )


def _fails(_: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("missing")


@pytest.mark.parametrize(
    ("upcast", "look"),
    [
        (Upcast(state=_fails), lambda store: store.get_state(GOVERNOR, "b")),
        (Upcast(state=_fails), lambda store: collected(store.list_states(GOVERNOR))),
        (Upcast(payload=_payload), lambda store: collected(store.get_events(GOVERNOR, "b"))),
    ],
    ids=["get_state", "list_states", "get_events"],
)
async def test_an_upcaster_that_fails_is_told_with_its_document(upcast: Upcast, look: Callable[[Any], Any]):
    """The error names the document whose data the upcaster could not take."""
    async with open_store(await _of_an_older_release(), schema=2, upcasters={1: upcast}) as store:
        with pytest.raises(TaiStateError) as told:
            await look(store)
        assert told.value.fields()["path"].startswith(f"governors/{GOVERNOR}/")
        assert isinstance(told.value.__cause__, KeyError)


async def test_an_upcaster_is_told_whose_data_it_gets():
    """A step may depend on the governor and the state: both come with the data, by whatever name."""
    told: list[str] = []

    def state(data: dict[str, Any], *others: Any, **more: Any) -> dict[str, Any]:
        told.append(repr((others, more)))
        return data

    async with open_store(await _of_an_older_release(), schema=2, upcasters={1: Upcast(state=state)}) as store:
        await store.get_state(GOVERNOR, "c")
    assert told
    assert all(repr(GOVERNOR) in each and repr("c") in each for each in told)
