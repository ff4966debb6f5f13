"""Stores on several engines beside a model: the same calls on each, and every answer compared."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import msgspec
from hypothesis.stateful import RuleBasedStateMachine

from tai_state import (
    ChangeMetadata,
    DeletedState,
    EveryEvents,
    StateEvent,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
    TaiStateError,
)
from tai_state.values.times import from_us

from . import model as m
from .stores import MEMORY, SQLITE, Place, Places, collected, fix_identity


class Lane:
    """One engine under the model: two stores on the same documents, so that each one's memory of them gets stale."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._ids = count(1)

    async def open(self) -> None:
        """Open the stores."""
        self.stores = [
            self.place.store(
                indexed=("kind",),
                snapshots=EveryEvents(m.SNAPSHOT_EVERY, keep=m.SNAPSHOTS_KEPT),
                new_id=lambda: f"made-{next(self._ids)}",
            )
            for _ in range(2)
        ]
        for store in self.stores:
            await store.__aenter__()

    async def close(self) -> None:
        """Close the stores."""
        for store in self.stores:
            await store.__aexit__(None, None, None)


Answer = tuple[str, Any]


def with_states(event: StateEvent[Any], before: m.Data, after: m.Data) -> StateEvent[Any]:
    """An event given again. Without reducers, the states around one that left them alone are not always known then."""
    if event.to_state is not None:
        return event
    return msgspec.structs.replace(event, from_state=before, to_state=after)


class ModelledStores(RuleBasedStateMachine):
    """What the rules of a test share: the engines, the model, and how a call is made on all of them and compared.

    Attributes:
        told: what was answered, over all runs, so that a test that did too little is seen to have failed.
    """

    told: ClassVar[Counter[str]] = Counter()

    def set_up(self) -> None:
        """Open two empty stores on each engine, and begin a model."""
        self._runner = asyncio.Runner()
        self.told["run"] += 1
        self._places = [Places(kind) for kind in (MEMORY, SQLITE)]
        self._folder = TemporaryDirectory()
        self.lanes = [Lane(each.__enter__().new()) for each in self._places]
        self.model = m.Model(self._now)
        self.snapshots: dict[m.Place, list[StateSnapshot[Any]]] = {}
        self.marked: list[tuple[Callable[..., Awaitable[Any]], m.Place, Answer]] = []
        self._numbers = count()
        self._runner.run(self._open())

    async def _open(self) -> None:
        for lane in self.lanes:
            async with lane.place.store() as store:
                await fix_identity(store.core.engine)
            await lane.open()

    def tear_down(self) -> None:
        """Leave nothing behind."""
        self._runner.close()
        self._folder.cleanup()
        for each in self._places:
            each.__exit__()

    def _now(self) -> datetime:
        return from_us(self.lanes[0].place.clock.now_us())

    # Calling -------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[StateStore], Awaitable[Any]], writer: int = 0) -> Any:
        """The answer of every engine, which must be one and the same: a result, or an error of ours."""

        async def answer(lane: Lane) -> Answer:
            try:
                return "result", await function(lane.stores[writer])
            except TaiStateError as error:
                return "error", error

        answers = [self._runner.run(answer(lane)) for lane in self.lanes]
        first, *others = answers
        for other in others:
            assert first[0] == other[0], answers
            if first[0] == "error":
                assert m.plain_error(first[1]) == m.plain_error(other[1])
                assert getattr(first[1], "events", ()) == getattr(other[1], "events", ())
            else:
                assert first[1] == other[1]
        return first

    def listed(self, function: Callable[[StateStore], AsyncIterator[Any]]) -> Any:
        """As :meth:`call`, of something that is streamed."""

        async def all_of(store: StateStore) -> list[Any]:
            return await collected(function(store))

        return self.call(all_of)

    def persister(self, store: StateStore) -> StateMachinePersister:
        """The persister with the model's reducers."""
        return StateMachinePersister(store, m.REDUCERS)

    def expected(self, place: m.Place, kind: Any) -> Any:
        """What an expectation means for the state as it is now."""
        version = self.model.stream(place).version
        seen = self.snapshots.get(place, [])
        if kind == "stale":
            return max(0, version - 1)
        if kind == "ahead":
            return version + 1
        if kind == "snapshot" and seen:
            return seen[-1]
        if kind == "old snapshot" and seen:
            return seen[0]
        return version if isinstance(kind, str) else kind

    def said(self, hours: int | None) -> datetime | None:
        """A time that a caller gives."""
        return None if hours is None else self._now() + timedelta(hours=hours)

    def metadata(self, who: tuple[str, str, str]) -> ChangeMetadata:
        """The metadata of a change."""
        return ChangeMetadata(who[0], who[1], {} if who[2] == "{}" else {"ticket": 1})

    def compare(self, answer: Answer, place: m.Place, expect: Callable[[Callable[[], str]], Any]) -> Any:
        """What the store answered is what the model answers."""
        kind, value = answer
        made = iter(()) if kind == "error" else iter(_ids_in(value))
        try:
            wanted = expect(lambda: next(made, "not told"))
        except m.Refused as refused:
            self._check_refused(place, answer, refused)
            return None
        if kind == "error":
            raise AssertionError("an error was not wanted") from value
        return wanted

    def _check_refused(self, place: m.Place, answer: Answer, refused: m.Refused) -> None:
        kind, value = answer
        assert kind == "error", f"{refused} was wanted, {value} came"
        assert m.plain_error(value) == (refused.name, refused.fields)
        self.told[refused.name] += 1
        if refused.name == "VersionConflict":
            number = refused.fields["expected"]
            after = number if isinstance(number, int) else 0
            assert m.plain(place, list(value.events)) == m.shown(self.model.stream(place), after, None)

    # Changing ------------------------------------------------------------------------------------------------

    def change(
        self,
        place: m.Place,
        call: Callable[[StateStore], Awaitable[Any]],
        wanted: list[m.Wanted],
        who: tuple[str, str, str],
        expected: Any,
        writer: int,
        **options: Any,
    ) -> None:
        """One change on every engine and on the model; its answer is kept, to be asked for again."""
        before = len(self.model.calls)
        answer = self.call(call, writer)
        new = self.compare(answer, place, lambda made: self.model.change(place, wanted, who, expected, made, **options))
        if new is None:
            return
        self.told["change"] += 1
        value = answer[1]
        if isinstance(value, StateSnapshot | DeletedState):
            assert m.plain(place, value) == m.plain_state(new[-1])
            self._check_id(place, new)
            self.snapshots.setdefault(place, []).append(value)
        else:
            events = value if isinstance(value, list) else [value]
            if len(self.model.calls) == before and not isinstance(value, list):
                events = [with_states(value, new[0].before, new[0].after)]
            assert m.plain(place, events) == [m.plain_event(each, each.before, each.after) for each in new]
        if len(self.model.calls) > before and wanted[0].event_id is not None:
            self.marked.append((call, place, answer))

    def _check_id(self, place: m.Place, new: list[m.Recorded]) -> None:
        """A state does not tell its event's id: the model takes it from the stream."""
        version = new[-1].version
        _, [event] = self.listed(lambda store: store.get_events(*place, after=version - 1, until=version))
        stream = self.model.stream(place)
        if new[-1].id == "not told":
            assert event.event_id.startswith("made-")
            object.__setattr__(stream.events[version - 1], "id", event.event_id)
        assert event.event_id == stream.events[version - 1].id


def _ids_in(value: Any) -> list[str]:
    """The ids that events in an answer tell."""
    values = value if isinstance(value, list) else [value]
    return [each.event_id for each in values if not isinstance(each, StateSnapshot | DeletedState)]
