"""Features with each other, in an order left to chance; and what must be true of the stores whatever the order was.

There are sites: each is one store, opened twice, as two processes would. Everything that is written holds a number that
stands nowhere else, so that each read can be traced to the call that wrote it.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tai_state import (
    ANY,
    CommitOutcomeUnknown,
    NotRetained,
    StateEvent,
    StateNotFound,
    VersionConflict,
    retire_store,
    sync,
)
from tai_state.conflicts.merging import FieldMerge
from tai_state.conflicts.resolvers import LastWriteWins
from tai_state.engines.api import ANYTHING, Delete
from tai_state.errors import Unavailable
from tai_state.history import cleanup
from tai_state.history.replay import Replay
from tai_state.testing import Fault, ManualClock
from tai_state.values.events import JOIN_ACTION

from .sites import GOVERNOR, REDUCERS, STATES, Call, Data, Faults, Ledger, Site, number_of
from .stores import edit

SITES_MAX = 4
FAULTS = (
    Fault.UNAVAILABLE, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.DUPLICATED, Fault.REFUSED,
)  # fmt: skip
RESOLVERS = (LastWriteWins(), FieldMerge({"n": "last", "x": "last"}))
T = TypeVar("T")

sites = st.integers(0, SITES_MAX - 1)
processes = st.integers(0, 1)
states = st.sampled_from(STATES)
kinds = st.sampled_from(["save", "save", "delete", "log", "record"])
expectations = st.sampled_from([ANY, ANY, 0, -1])
damages = st.sampled_from(["none", "lost", "edited"])
faults = st.just({}) | st.builds(
    lambda first, kinds: dict(enumerate(kinds, first)),
    st.integers(1, 8),
    st.lists(st.sampled_from(FAULTS), min_size=1, max_size=4),
)
"""By the number of a call of the engine, how it fails: none, or a few in a row."""
early_faults = st.just({}) | st.builds(
    lambda first, kinds: dict(enumerate(kinds, first)),
    st.integers(1, 3),
    st.lists(
        st.sampled_from([Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.UNAVAILABLE]), min_size=1, max_size=5
    ),
)
"""The same, mostly at the commit of a change, and while it is looked up."""


class Features(RuleBasedStateMachine):
    """Sites and what is done to them.

    Attributes:
        on_disk: whether the sites are on SQLite.
        told: what happened, over all runs, so that a test that did too little is seen to have failed.
    """

    on_disk: ClassVar[bool] = False
    told: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        """Open two empty sites."""
        self._runner = asyncio.Runner()
        self._folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self._clock = ManualClock(step_us=1)
        self._ids, self._numbers, self._files = count(1), count(1), count(1)
        self.calls: list[Call] = []
        self.exports: list[tuple[Path, Ledger, dict[str, Data]]] = []
        self.sites: list[Site] = []
        self.gone: list[str] = []
        self.told["run"] += 1
        for _ in range(2):
            self._run(self._found())

    async def _found(self) -> Site:
        folder = Path(self._folder.name) / f"site-{next(self._files)}"
        site = Site(folder, self._clock, self._ids, on_disk=self.on_disk)
        await site.open()
        self.sites.append(site)
        return site

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self._clock.advance_us(1_000)
        return self._runner.run(work)

    def teardown(self) -> None:
        """Check all that there is, and leave nothing behind."""
        if not hasattr(self, "_runner"):
            return
        try:
            self._run(self._end())
        finally:
            self._runner.close()
            self._folder.cleanup()

    async def _end(self) -> None:
        try:
            for site in self.sites:
                await self.check(site)
                report = await site.persister().validate_consistency()
                assert report.consistent, report.findings
        finally:
            for site in self.sites:
                await site.close()

    # Calls -----------------------------------------------------------------------------------------------------

    @rule(
        where=sites, process=processes, state=states, kind=kinds, with_id=st.booleans(), expected=expectations,
        extra=st.booleans(), faults=early_faults,
    )  # fmt: skip
    def write(self, where, process, state, kind, with_id, expected, extra, faults) -> None:
        """A new call."""
        self._run(self._write(self._site(where), process, state, kind, with_id, expected, extra, faults))

    async def _write(self, site, process, state, kind, with_id, expected, extra, faults) -> None:
        if expected is not ANY:
            versions = [event.version for event in await site.events(state, process)]
            expected = max(0, (versions[-1] if versions else 0) + expected)
        number = next(self._numbers)
        call = Call(number, state, kind, f"id-{number}" if with_id else None, expected, extra)
        self.calls.append(call)
        await self.ask(site, process, call, faults)

    @rule(where=sites, process=processes, state=states, kinds=st.lists(kinds, min_size=2, max_size=6))
    def write_some(self, where, process, state, kinds) -> None:
        """Several new calls of one process."""

        async def some() -> None:
            for kind in kinds:
                await self._write(self._site(where), process, state, kind, True, ANY, kind == "save", {})

        self._run(some())

    @precondition(lambda self: any(call.event_id for call in self.calls))
    @rule(pick=st.integers(0, 40), where=sites, process=processes, faults=early_faults)
    def ask_again(self, pick, where, process, faults) -> None:
        """A call with an id that was made before, at the same site or at one that was made from its export."""
        site = self._site(where)
        asked = [call for call in self.calls if call.event_id and call.number in site.ledger.asked]
        if asked:
            self._run(self.ask(site, process, asked[pick % len(asked)], faults))

    async def ask(self, site: Site, process: int, call: Call, faults: Faults) -> None:
        """Make a call, and judge the answer."""
        ledger = site.ledger
        ledger.asked.add(call.number)
        before = await self._stored(site, call)
        first = ledger.results.get(call.number)
        try:
            version = await site.under(faults, process, lambda: call.make(site.stores[process]))
        except CommitOutcomeUnknown:
            assert faults, "unknown, though the engine answers"
            self.told["unknown"] += 1
        except NotRetained:
            assert first is not None or before is None
            assert ledger.floors.get(call.state, 1) > 1
            self.told["cleaned"] += 1
        except (VersionConflict, StateNotFound):
            assert first is None, "a change that was acknowledged is refused now"
            assert await self._stored(site, call) == before, "reported as refused, and happened"
            self.told["refused"] += 1
        except Unavailable as error:
            if not faults and error.code != "CONTENTION":
                raise  # a store that tries no second time is overtaken if the other process has kept a snapshot
            assert await self._stored(site, call) == before, "reported as failed, and happened"
            self.told["failed"] += 1
        else:
            self.told["again" if first else "acknowledged"] += 1
            await self._acknowledged(site, call, version)
        await self.check(site)

    async def _acknowledged(self, site: Site, call: Call, version: int) -> None:
        """Note the result of a call; it is the first one."""
        results = site.ledger.results
        if call.number in results:
            assert results[call.number][0] == version, "the same call again has another result"
            return
        found = [event.event_id for event in await site.events(call.state) if event.version == version]
        assert found, "an acknowledged change is missing"
        assert found[0] == (call.event_id or found[0])
        results[call.number] = version, found[0]

    async def _stored(self, site: Site, call: Call) -> str | None:
        """The id of the event of a call, if it is there and shows whose it is."""
        found = [each.event_id for each in await site.events(call.state) if number_of(each) == call.number]
        return found[0] if found else None

    @rule(where=sites, state=states, kind=kinds)
    def ask_at_once(self, where, state, kind) -> None:
        """Two processes make the same call at once, and both get the first result."""

        async def twice() -> None:
            site, number = self._site(where), next(self._numbers)
            call = Call(number, state, kind, f"id-{number}", ANY, extra=False)
            self.calls.append(call)
            site.ledger.asked.add(number)
            one, other = await asyncio.gather(*(call.make(store) for store in site.stores), return_exceptions=True)
            if isinstance(one, BaseException) or isinstance(other, BaseException):
                assert {type(one), type(other)} == {StateNotFound}, (one, other)
            else:
                assert one == other
                self.told["at once"] += 1
                await self._acknowledged(site, call, one)
            await self.check(site)

        self._run(twice())

    # Upkeep ----------------------------------------------------------------------------------------------------

    @rule(where=sites, process=processes, faults=faults)
    def clean_up(self, where, process, faults) -> None:
        """Remove what a kept snapshot covers, however young it is."""

        async def clean() -> None:
            site, nothing = self._site(where), timedelta(0)
            core = site.stores[process].core
            work = cleanup.Cleanup(core, Replay(core, REDUCERS), nothing, age_min=nothing)
            stats = await self._tried(site, process, faults, lambda: work.run(GOVERNOR))
            self.told["cleanup"] += bool(stats and stats.events_deleted)
            await self.check(site, is_cleaned=True)

        self._run(clean())

    @rule(where=sites, process=processes, state=states, faults=faults)
    def keep_snapshot(self, where, process, state, faults) -> None:
        """Keep a snapshot now."""

        async def keep() -> None:
            site = self._site(where)
            store = site.stores[process]
            with suppress(StateNotFound):
                await self._tried(site, process, faults, lambda: store.create_snapshot(GOVERNOR, state))
            await self.check(site)

        self._run(keep())

    @rule(where=sites, process=processes, state=states, damage=damages, faults=faults)
    def recover(self, where, process, state, damage, faults) -> None:
        """A state that was lost or damaged behind the store's back is rebuilt, as soon as nothing fails."""

        async def mend() -> None:
            site = self._site(where)
            store, path = site.stores[1 - process], f"governors/{GOVERNOR}/states/{state}"
            if damage != "none" and await site.events(state):
                if damage == "lost":
                    await store.core.engine.commit([Delete(path, ANYTHING)])
                else:
                    await edit(store.core.engine, path, data={"n": -1}, deleted=False)
                self.told["damaged"] += 1
            await self._tried(site, process, faults, lambda: site.persister(process).recover())
            assert (await site.persister(process).recover()).consistent
            await self.check(site)

        self._run(mend())

    @rule(where=sites)
    def reopen(self, where) -> None:
        """Both processes end and begin again."""

        async def again() -> None:
            site = self._site(where)
            await site.close()
            await site.open()
            await self.check(site)

        self._run(again())

    @rule(seconds=st.integers(1, 100_000))
    def wait(self, seconds) -> None:
        """Time goes by."""
        self._clock.advance_us(seconds * 1_000_000)

    # Copies ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.on_disk)
    @rule(where=sites)
    def back_up(self, where) -> None:
        """Keep a backup of a site."""
        self._run(self._site(where).back_up())

    @precondition(lambda self: any(site.backup for site in self.sites))
    @rule(pick=st.integers(0, SITES_MAX))
    def put_back(self, pick) -> None:
        """A backup is put back."""

        async def back() -> None:
            there = [site for site in self.sites if site.backup]
            site = there[pick % len(there)]
            await site.put_back()
            self.told["put back"] += 1
            await self.check(site)

        self._run(back())

    @rule(where=sites, process=processes, faults=faults)
    def export(self, where, process, faults) -> None:
        """Export a site."""

        async def write_file() -> None:
            site = self._site(where)
            path = Path(self._folder.name) / f"{next(self._files)}.jsonl"
            states = {each: await site.data(each) for each in STATES}
            if not any(site.ledger.known.values()):
                return
            persister = site.persister(process)
            stats = await self._tried(site, process, faults, lambda: persister.export_history(GOVERNOR, path))
            if stats is None:
                assert not path.exists()
            else:
                self.exports.append((path, copy.deepcopy(site.ledger), states))

        self._run(write_file())

    @precondition(lambda self: self.exports and len(self.sites) < SITES_MAX)
    @rule(pick=st.integers(0, 9), faults=faults)
    def restore(self, pick, faults) -> None:
        """Make a new site of an export; a restore that failed goes on when it is run again."""

        async def read_file() -> None:
            path, ledger, states = self.exports[pick % len(self.exports)]
            site = await self._found()
            await self._tried(site, 0, faults, lambda: site.persister().import_history(path))
            await site.persister(1).import_history(path)
            site.ledger = copy.deepcopy(ledger)
            assert {each: await site.data(each) for each in STATES} == states
            self.told["restored"] += 1
            await self.check(site)

        self._run(read_file())

    @rule(where=sites, hears=sites)
    def move(self, where, hears) -> None:
        """A site goes for good, as another one may hear; in its place is a new one, made of its export."""

        async def go() -> None:
            site = self._site(where)
            if any(site.ledger.known.values()):
                path = Path(self._folder.name) / f"{next(self._files)}.jsonl"
                await site.persister().export_history(GOVERNOR, path)
                new = await self._found()
                await new.persister().import_history(path)
                new.ledger = site.ledger
                self.sites.remove(new)
                self.sites[self.sites.index(site)] = new
                self.gone.append(site.stores[0].store_id)
                await site.close()
                await self.check(new)
                if self._site(hears) is not new:
                    await self._retire(self._site(hears), 0, self.gone[-1], {})

        self._run(go())

    @precondition(lambda self: self.gone)
    @rule(where=sites, process=processes, pick=st.integers(0, 9), faults=faults)
    def retire(self, where, process, pick, faults) -> None:
        """A site hears that one that is gone will not write again."""
        self._run(self._retire(self._site(where), process, self.gone[pick % len(self.gone)], faults))

    async def _retire(self, site: Site, process: int, store_id: str, faults: Faults) -> None:
        act = partial(retire_store, site.stores[process], store_id)
        done = await self._tried(site, process, faults, act)
        report = await act()
        assert report.complete, report.failed
        self.told["retired"] += bool(report.retired or (done and done.retired))
        await self.check(site)

    @rule(first=sites, second=sites, resolver=st.sampled_from(RESOLVERS), faults=faults)
    def sync(self, first, second, resolver, faults) -> None:
        """Sync two sites."""
        one, other = self._site(first), self._site(second)
        if one is not other:
            self._run(self._sync(one, other, resolver, faults))

    async def _sync(self, one: Site, other: Site, resolver: Any, faults: Faults) -> None:
        sync_them = partial(sync, resolver=resolver, reducers=REDUCERS)
        if faults:
            await self._tried(one, 0, faults, lambda: sync_them(one.stores[0], other.stores[0]))
            await self.check(one)
            await self.check(other)
        sides = [
            {state: (await site.events(state), await site.data(state)) for state in STATES} for site in (one, other)
        ]
        report = await sync_them(one.stores[1], other.stores[1])
        assert report.complete, report.failed
        self.told["synced"] += report.sent + report.received > 0
        self.told["joined"] += report.joined > 0
        for state in STATES:
            data = await one.data(state)
            assert data == await other.data(state)
            (ours, our_data), (theirs, their_data) = (each[state] for each in sides)
            is_ours_known = not ours or ours[-1].event_id in other.ledger.known[state]
            is_theirs_known = not theirs or theirs[-1].event_id in one.ledger.known[state]
            if is_ours_known and not is_theirs_known:
                assert data == their_data, "what was removed or overwritten came back"
            elif is_theirs_known and not is_ours_known:
                assert data == our_data, "what was removed or overwritten came back"
            else:
                _check_merged(data, our_data, their_data)
            both = one.ledger.known[state] | other.ledger.known[state]
            one.ledger.known[state], other.ledger.known[state] = set(both), set(both)
        await self.check(one)
        await self.check(other)

    # Judging ---------------------------------------------------------------------------------------------------

    def _site(self, where: int) -> Site:
        return self.sites[where % len(self.sites)]

    async def _tried(self, site: Site, process: int, faults: Faults, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do longer work while calls fail; None if it failed, as it may only because of these."""
        try:
            return await site.under(faults, process, act)
        except (Unavailable, CommitOutcomeUnknown):
            assert faults
            self.told["broken off"] += 1
            return None

    async def check(self, site: Site, *, is_cleaned: bool = False) -> None:
        """What is there is what was written, each once, and nothing acknowledged is missing."""
        for process, state in enumerate(STATES):
            events = await site.events(state, process)
            first = events[0].version if events else 1
            ledger = site.ledger
            floor = ledger.floors.get(state, 1)
            assert first >= floor, "events that were cleaned up came back"
            assert is_cleaned or first == floor, "events are missing that no cleanup removed"
            ledger.floors[state] = first
            assert [event.version for event in events] == list(range(first, first + len(events)))
            ids = [event.event_id for event in events]
            assert len(set(ids)) == len(ids), "an id stands twice in a stream"
            numbers = [number for event in events if (number := number_of(event)) is not None]
            assert len(set(numbers)) == len(numbers), "a change was made twice"
            self._check_written(state, numbers)
            for number, (version, event_id) in ledger.results.items():
                if self._call(number).state == state and version >= first:
                    assert version < first + len(events), "an acknowledged change is missing"
                    assert ids[version - first] == event_id, "an acknowledged change was replaced"
            await self._check_state(site, process, state, events)
            ledger.known[state].update(ids)

    async def _check_state(self, site: Site, process: int, state: str, events: list[StateEvent[Any]]) -> None:
        """A state is what its events say, and so is its newest snapshot."""
        data, is_told, after = None, bool(events) and events[0].version == 1, {}
        for event in events:
            if event.action == "put":
                data, is_told = {"n": event.payload}, True
            elif event.action in ("delete", JOIN_ACTION) or event.to_state is not None:
                data, is_told = event.to_state, True
            after[event.version] = data if is_told else ...
        now = await site.data(state, process)
        assert not is_told or now == data, "the state is not what its events say"
        self._check_written(state, (now or {}).values())
        if events and (kept := await site.stores[process].load_snapshot(GOVERNOR, state)) is not None:
            assert after[kept.version] in (..., kept.data)

    def _check_written(self, state: str, numbers: Iterable[int]) -> None:
        wrong = [number for number in numbers if self._call(number).state != state]
        assert not wrong, "a read gave what was never written"

    def _call(self, number: int) -> Call:
        return next(call for call in self.calls if call.number == number)


class OnDisk(Features):
    """The same on SQLite."""

    on_disk = True


MACHINES = {"memory": Features, "sqlite": OnDisk}
"""By the name of the engine."""


def explore(machine: type[Features], examples: int, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """So many runs of the machine."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=phases,
        ),
    )


def _check_merged(data: Data, ours: Data, theirs: Data) -> None:
    """What a join made of two sides is of these, field by field."""
    if data is None:
        assert ours is None or theirs is None
        return
    for key, value in data.items():
        assert value in [side[key] for side in (ours, theirs) if side is not None and key in side]
