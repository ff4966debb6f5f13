"""The store against a model: the same calls on every engine and on lists of events, and every answer compared."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from tai_state import (
    ANY,
    EXISTS,
    NO_STATE,
    ChangeMetadata,
    EventSourcingError,
    NewEvent,
    StateEvent,
    StateSnapshot,
    StateStore,
)
from tai_state.engines.api import ANYTHING, Delete

from ..support import model as m
from ..support.modelled_stores import Lane, ModelledStores, with_states
from ..support.stores import MEMORY, Places, dump, edit, fields_at

LONG = os.environ.get("TAI_STATE_PROOF") == "1"
EXAMPLES, STEPS = (4_000, 60) if LONG else (200, 30)
MORE_MAX = 8
"""Chance may leave something out: then there are more runs, up to so many times a quarter, until enough was seen."""

GOVERNORS = ("g", "h")
STATES = ("a", "b")
EVENT_IDS = ("e1", "e2", "e3")
BATCHES = {"b1": 1, "b2": 2, "b3": 3}
"""Ids for several events at once, and how many: the id says it, so that two batches never overlap in part."""

places = st.sampled_from([("g", "a"), ("g", "a"), ("g", "a"), ("g", "b"), ("h", "a"), ("h", "b")])
data = st.fixed_dictionaries(
    {"n": st.integers(0, 3)}, optional={"kind": st.sampled_from(["x", "y", None, True, 1]), "more": st.just([{}])}
)
expectations = st.sampled_from(
    ["right"] * 4 + ["stale", "ahead", "snapshot", "old snapshot", NO_STATE, EXISTS, ANY, ANY]
)
event_ids = st.none() | st.none() | st.sampled_from(EVENT_IDS)
who = st.sampled_from([("ann", "why", "{}"), ("bob", "", '{"ticket": 1}')])
actions = st.sampled_from(["save", "move"])
moments = st.integers(-3, 3)
"""Hours from now, by the store's clock."""
writers = st.integers(0, 1)
"""Which of the two stores on the same documents."""


something_is_there = precondition(lambda self: bool(getattr(self, "model", None) and self.model.calls))
"""Looking again and again at an empty store shows nothing new."""


class StoreMachine(ModelledStores):
    """Each rule makes one call on every engine, and the same one on the model."""

    @initialize(growth=st.lists(st.tuples(places, st.sampled_from(["save", *m.FOLDS, "note"]), moments), max_size=12))
    def begin(self, growth) -> None:
        """A store on each engine and a model, with some history."""
        self.set_up()
        for place, action, hours in growth:
            if action == "save":
                self.save(place, {"n": hours}, ANY, None, hours, ("ann", "why", "{}"), "save", 0)
            else:
                self.record(place, [action], None, 1, ANY, ("ann", "why", "{}"), 0)

    def teardown(self) -> None:
        """At the end of every run the stores are consistent."""
        if not hasattr(self, "_runner"):
            return
        try:
            self.validate()
            for lane in self.lanes:
                self._runner.run(lane.close())
        finally:
            self.tear_down()

    # Changing ------------------------------------------------------------------------------------------------

    @rule(
        place=places, state=data, kind=expectations, event_id=event_ids, hours=st.none() | moments, who=who,
        action=actions, writer=writers,
    )  # fmt: skip
    def save(self, place, state, kind, event_id, hours, who, action, writer) -> None:
        """Save a state."""
        expected, said, metadata = self.expected(place, kind), self.said(hours), self.metadata(who)
        self.change(
            place,
            lambda store: store.save_state(
                *place, state, metadata, expected=expected, action=action, event_id=event_id, timestamp=said
            ),
            [m.Wanted(action, None, state, event_id, said)],
            who,
            expected,
            writer,
        )

    @rule(place=places, kind=expectations, event_id=event_ids, hours=st.none() | moments, who=who, writer=writers)
    def delete(self, place, kind, event_id, hours, who, writer) -> None:
        """Delete a state."""
        expected, said, metadata = self.expected(place, kind), self.said(hours), self.metadata(who)
        self.change(
            place,
            lambda store: store.delete_state(*place, metadata, expected=expected, event_id=event_id, timestamp=said),
            [m.Wanted("delete", None, None, event_id, said)],
            who,
            expected,
            writer,
            must_live=True,
        )

    @rule(
        place=places, payload=st.none() | st.integers(0, 1), kind=expectations, event_id=event_ids,
        hours=st.none() | moments, who=who, writer=writers,
    )  # fmt: skip
    def log_event(self, place, payload, kind, event_id, hours, who, writer) -> None:
        """Record an event that leaves the state as it is."""
        expected, said, metadata = self.expected(place, kind), self.said(hours), self.metadata(who)
        self.change(
            place,
            lambda store: store.log_event(
                *place, "ping", metadata, payload=payload, expected=expected, event_id=event_id, timestamp=said
            ),
            [m.folded("ping", payload, event_id, said)],
            who,
            expected,
            writer,
            must_live=True,
        )

    @rule(
        place=places,
        steps=st.lists(st.sampled_from(["add", "add", "put", "clear", "note"]), min_size=3, max_size=3),
        batch=st.none() | st.sampled_from(sorted(BATCHES)), size=st.integers(1, 3), kind=expectations, who=who,
        writer=writers,
    )  # fmt: skip
    def record(self, place, steps, batch, size, kind, who, writer) -> None:
        """Record events that reducers fold."""
        expected, metadata = self.expected(place, kind), self.metadata(who)
        steps = steps[: size if batch is None else BATCHES[batch]]
        ids = [None if batch is None else f"{batch}.{index}" for index in range(len(steps))]
        events = [NewEvent(action, 1, event_id) for action, event_id in zip(steps, ids, strict=True)]
        self.change(
            place,
            lambda store: self.persister(store).record(*place, events, metadata, expected=expected),
            [m.folded(event.action, 1, event.event_id) for event in events],
            who,
            expected,
            writer,
        )

    @rule(place=places, state=data, event_id=event_ids, is_old=st.booleans(), who=who, writer=writers)
    def log_transition(self, place, state, event_id, is_old, who, writer) -> None:
        """Record a transition from a state that was read."""
        stream = self.model.stream(place)
        seen = self.snapshots.get(place, [])
        current = [each for each in seen if each.version == stream.version]
        before = seen[0] if is_old and seen else current[-1] if current else None
        after = StateSnapshot.unsaved(*place, state)
        asserted = None if before is None or before.deleted else before.data
        self.change(
            place,
            lambda store: self.persister(store).log_transition(
                place[0], before, after, "move", self.metadata(who), event_id=event_id
            ),
            [m.Wanted("move", None, state, event_id, None)],
            who,
            NO_STATE if before is None else before,
            writer,
            asserted=asserted,
        )

    @rule(place=places, state=data, who=who)
    def log_transition_from_another_state(self, place, state, who) -> None:
        """A transition from a state that never stood at its version is refused."""
        stream = self.model.stream(place)
        if not stream.is_live:
            return
        _, before = self.call(lambda store: store.get_state(*place))
        wrong = before.with_data({"n": "nobody wrote this"})
        after = before.with_data(state)
        self.change(
            place,
            lambda store: self.persister(store).log_transition(place[0], wrong, after, "move", self.metadata(who)),
            [m.Wanted("move", None, state, None, None)],
            who,
            before,
            0,
            asserted=wrong.data,
        )

    @precondition(lambda self: bool(getattr(self, "marked", [])))
    @rule(pick=st.randoms(use_true_random=False), writer=writers)
    def repeat(self, pick, writer) -> None:
        """The same call again with the same id changes nothing and has the first answer."""
        call, _, (_, first) = pick.choice(self.marked)
        self.told["repetition"] += 1
        kind, again = self.call(call, writer)
        assert kind == "result"
        if isinstance(first, StateEvent):
            again = with_states(again, first.from_state, first.to_state)
        assert again == first

    # Reading -------------------------------------------------------------------------------------------------

    @something_is_there
    @rule(place=places, writer=writers)
    def get(self, place, writer) -> None:
        """A state is what the model has."""
        stream = self.model.stream(place)
        kind, value = self.call(lambda store: store.get_state(*place), writer)
        assert self.call(lambda store: store.exists(*place)) == ("result", stream.is_live)
        if not stream.is_live:
            assert kind == "error"
            assert m.plain_error(value) == ("StateNotFound", {"path": m.path_of(place)})
            return
        assert m.plain(place, value) == m.plain_state(stream.events[-1])
        self.snapshots.setdefault(place, []).append(value)

    @something_is_there
    @rule(governor=st.sampled_from(GOVERNORS), kinds=st.sampled_from(["x", None, True, 1, ["x", "y"], []]))
    def get_many(self, governor, kinds) -> None:
        """Lists, searches and counts are what the model has."""
        live = {state: self.model.stream((governor, state)) for state in self.model.states(governor)}
        live = {state: stream for state, stream in live.items() if stream.is_live}
        _, batch = self.call(lambda store: store.batch_get_states(governor, STATES))
        assert {state: found is not None for state, found in batch.items()} == {
            state: state in live for state in STATES
        }
        _, listed = self.listed(lambda store: store.list_states(governor))
        if governor not in self.model.governors():
            _, found = self.listed(lambda store: store.find_states(governor, {"kind": kinds}))
            _, count = self.call(lambda store: store.count_states(governor))
            for error in (listed, found, count):
                assert m.plain_error(error) == ("GovernorNotFound", {"path": f"governors/{governor}"})
            return
        assert [each.state_id for each in listed] == list(live)
        for each in listed:
            assert m.plain((governor, each.state_id), each) == m.plain_state(live[each.state_id].events[-1])
            assert batch[each.state_id] == each
        _, everything = self.listed(lambda store: store.list_states(governor, deleted=True))
        assert [each.state_id for each in everything] == self.model.states(governor)
        _, found = self.listed(lambda store: store.find_states(governor, {"kind": kinds}))
        values = {m.text(value) for value in (kinds if isinstance(kinds, list) else [kinds])}
        assert [each.state_id for each in found] == [
            state for state, stream in live.items() if "kind" in stream.data and m.text(stream.data["kind"]) in values
        ]
        assert self.call(lambda store: store.count_states(governor)) == ("result", len(live))

    @something_is_there
    @rule()
    def get_stats(self) -> None:
        """The counts are the model's."""
        streams = self.model.streams.values()
        _, stats = self.call(lambda store: store.get_stats())
        assert (stats.governors, stats.states, stats.deleted, stats.versions, stats.max_version, stats.snapshots) == (
            len(self.model.governors()),
            sum(stream.is_live for stream in streams),
            sum(not stream.is_live for stream in streams),
            sum(stream.version for stream in streams),
            max((stream.version for stream in streams), default=0),
            sum(len(stream.kept) for stream in streams),
        )
        assert self.listed(lambda store: store.list_governors()) == ("result", self.model.governors())

    @something_is_there
    @rule(place=places, after=st.integers(0, 8), until=st.none() | st.integers(0, 8))
    def get_events(self, place, after, until) -> None:
        """Events are the model's, with and without reducers."""
        stream = self.model.stream(place)
        kind, events = self.listed(lambda store: store.get_events(*place, after=after, until=until))
        replayed_kind, replayed = self.listed(
            lambda store: self.persister(store).replay(*place, after=after, until=until)
        )
        if stream.version == 0:
            assert (kind, replayed_kind) == ("error", "error")
            assert m.plain_error(events) == m.plain_error(replayed) == ("StateNotFound", {"path": m.path_of(place)})
            return
        assert m.plain(place, events) == m.shown(stream, after, until)
        assert m.plain(place, replayed) == [
            m.plain_event(each, each.before, each.after) for each in stream.events[after:until]
        ]

    @something_is_there
    @rule(governor=st.sampled_from(GOVERNORS), start=moments, end=moments)
    def get_events_of_all(self, governor, start, end) -> None:
        """The events of a governor are the model's, all of them and those between two times."""
        first, last = self._now() + timedelta(hours=start), self._now() + timedelta(hours=end)
        _, events = self.listed(lambda store: store.get_all_events(governor))
        _, between = self.listed(lambda store: store.get_events_between(governor, first, last))
        if governor not in self.model.governors():
            for error in (events, between):
                assert m.plain_error(error) == ("GovernorNotFound", {"path": f"governors/{governor}"})
            return
        streams = {state: self.model.stream((governor, state)) for state in self.model.states(governor)}
        everything = [
            ((governor, state), each) for state, stream in streams.items() for each in m.shown(stream, 0, None)
        ]
        assert [((each.governor_id, each.state_id), m.plain((governor, each.state_id), each)) for each in events] == (
            everything
        )
        wanted = [
            (each.timestamp, state, each.version, m.shown(stream, each.version - 1, each.version)[0])
            for state, stream in streams.items()
            for each in stream.events
            if first <= each.timestamp <= last
        ]
        assert [m.plain((governor, each.state_id), each) for each in between] == [
            each[3] for each in sorted(wanted, key=lambda each: each[:3])
        ]

    @something_is_there
    @rule(place=places, version=st.integers(1, 9))
    def get_state_at_version(self, place, version) -> None:
        """Any past version can be had back."""
        stream = self.model.stream(place)
        kind, value = self.call(lambda store: self.persister(store).get_state_at(*place, version))
        if version > stream.version:
            assert kind == "error"
            assert type(value).__name__ == "StateNotFound"
        else:
            assert m.plain(place, value) == m.plain_state(stream.events[version - 1])

    @something_is_there
    @rule(place=places, hours=st.integers(-4, 4))
    def get_state_at_time(self, place, hours) -> None:
        """The state at a time is that of the last version that had happened by then, with all before it."""
        stream = self.model.stream(place)
        moment = self._now() + timedelta(hours=hours)
        version = stream.at_time(moment)
        self.told["time travel"] += version > 0
        kind, value = self.call(lambda store: self.persister(store).get_state_at(*place, moment))
        if version == 0:
            assert kind == "error"
            assert type(value).__name__ == "StateNotFound"
        else:
            assert m.plain(place, value) == m.plain_state(stream.events[version - 1])

    # Keeping and mending ---------------------------------------------------------------------------------------

    @something_is_there
    @rule(place=places, writer=writers)
    def create_snapshot(self, place, writer) -> None:
        """A snapshot kept on demand is of the present version."""
        stream = self.model.stream(place)
        _, value = self.call(lambda store: store.create_snapshot(*place), writer)
        if stream.version == 0:
            assert m.plain_error(value) == ("StateNotFound", {"path": m.path_of(place)})
            return
        assert m.plain(place, value) == m.plain_state(stream.events[-1])
        stream.keep()

    @something_is_there
    @rule(place=places, pick=st.integers(0, 2))
    def load_snapshot(self, place, pick) -> None:
        """The kept snapshots are the model's."""
        stream = self.model.stream(place)
        _, kept = self.call(lambda store: store.list_snapshots(*place))
        if stream.version == 0:
            assert m.plain_error(kept) == ("StateNotFound", {"path": m.path_of(place)})
            return
        assert kept == stream.kept
        versions = [None, *stream.kept]
        version = versions[pick % len(versions)]
        _, found = self.call(lambda store: store.load_snapshot(*place, version))
        if not kept:
            assert found is None
        else:
            assert m.plain(place, found) == m.plain_state(stream.events[(version or kept[-1]) - 1])

    @something_is_there
    @rule(place=places, is_deleted=st.booleans(), writer=writers)
    def recover(self, place, is_deleted, writer) -> None:
        """A state's document, lost or damaged behind the store's back, is rebuilt from its events as it was."""
        stream = self.model.stream(place)
        if stream.version == 0:
            return
        path = m.path_of(place)

        async def damage(store: StateStore) -> dict[str, Any]:
            before = await fields_at(store.core.engine, path)
            if is_deleted:
                await store.core.engine.commit([Delete(path, ANYTHING)])
            else:
                await edit(store.core.engine, path, data={"n": "damaged"}, deleted=False)
            return before

        self.told["recovery"] += 1
        _, before = self.call(damage)
        kind, error = self.call(lambda store: store.save_state(*place, {"n": 0}, ChangeMetadata("eve", "")), writer)
        assert kind == "error"
        if is_deleted:
            assert isinstance(error, EventSourcingError)
        _, report = self.call(lambda store: self.persister(store).recover(), writer)
        assert (report.rebuilt, report.consistent, report.checked) == ((path,), True, len(self.model.streams))
        assert self.call(lambda store: fields_at(store.core.engine, path)) == ("result", before)

    @something_is_there
    @rule(governor=st.sampled_from(GOVERNORS))
    def export_and_restore(self, governor) -> None:
        """An export restored into an empty store gives the same documents, on every engine the same."""
        if governor not in self.model.governors():
            return
        self.told["restore"] += 1
        path = Path(self._folder.name) / f"{next(self._numbers)}.jsonl"

        async def move(store: StateStore) -> Any:
            path.unlink(missing_ok=True)
            stats = await self.persister(store).export_history(governor, path)
            with Places(MEMORY) as places:
                async with places.new().store() as fresh:
                    assert await self.persister(fresh).import_history(path) == stats
                    assert await dump(fresh.core.engine, governor) == await dump(store.core.engine, governor)
                    assert (await self.persister(fresh).validate_consistency(governor)).consistent
            # The first line holds the export's own id and time, and the last one a digest over all others.
            return stats, path.read_text().splitlines()[1:-1]

        _, (stats, _) = self.call(move)
        streams = [self.model.stream((governor, state)) for state in self.model.states(governor)]
        assert (stats.states, stats.events) == (len(streams), sum(stream.version for stream in streams))
        assert stats.snapshots == sum(len(stream.kept) for stream in streams)

    @something_is_there
    @rule()
    def validate(self) -> None:
        """Everything adds up, on every engine."""
        kind, report = self.call(lambda store: self.persister(store).validate_consistency())
        assert kind == "result", report
        assert report.consistent, report.findings
        assert (report.states, report.events) == (
            len(self.model.streams),
            sum(stream.version for stream in self.model.streams.values()),
        )

    @rule()
    def reopen(self) -> None:
        """Closing and opening again changes nothing."""

        async def again(lane: Lane) -> None:
            await lane.close()
            await lane.open()

        for lane in self.lanes:
            self._runner.run(again(lane))

    @rule(minutes=st.integers(1, 120))
    def wait(self, minutes) -> None:
        """Time goes by."""
        for lane in self.lanes:
            lane.place.clock.advance_us(minutes * 60_000_000)


def run(examples: int) -> None:
    """So many runs of the machine."""
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def missing() -> dict[str, int]:
    """What was answered too rarely to show anything, and how often it was."""
    told = StoreMachine.told
    often = ("VersionConflict", "StateNotFound", "repetition", "recovery", "restore", "time travel")
    least = {"change": 5 * EXAMPLES} | dict.fromkeys(often, EXAMPLES // 8)
    found = {each: told[each] for each, count in least.items() if told[each] < count}
    odd = told["IdempotencyConflict"] + told["InvalidData"]
    return found if odd >= EXAMPLES // 10 else found | {"IdempotencyConflict or InvalidData": odd}


@pytest.mark.timeout(1_200 if not LONG else 72_000)
def test_store_is_the_model(caplog: pytest.LogCaptureFixture, pytestconfig: pytest.Config):
    """Whatever is called in whatever order, every engine answers as the model does, with the same errors."""
    caplog.set_level(logging.CRITICAL, "tai_state")
    run(EXAMPLES)
    for more in range(MORE_MAX):
        if not missing():
            break
        seed(f"{pytestconfig.getoption('--hypothesis-seed')} {more}")(StoreMachine)
        run(EXAMPLES // 4)
    print(dict(StoreMachine.told))
    assert not missing(), missing()
