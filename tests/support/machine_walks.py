"""Stored machines of random definitions, and all that happens to them, in an order left to chance.

What must be true of them is worked out by brute force from the rules as they were drawn. Each event of each stream is a
step that a rule allows, unless it was forced or merged. What was merged is what one side had, and no rule forbids it.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Coroutine
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tai_state import (
    CommitOutcomeUnknown,
    ConcurrentModification,
    StateEvent,
    StateNotFound,
    Transaction,
    TransitionRefused,
    VersionConflict,
    sync,
)
from tai_state.conflicts import machines as merging
from tai_state.conflicts.joins import JOIN_ACTION
from tai_state.errors import Unavailable
from tai_state.testing import ManualClock
from tai_state.values.times import from_us

from .features import early_faults
from .machine_sites import EVERY_EVENT, FACTS, GO, Ask, MachineSite, Seen, Side
from .machine_worlds import World, worlds
from .sites import GOVERNOR, LOG, STATES, Data, Faults

SITES_MAX = 3
T = TypeVar("T")

sites = st.integers(0, SITES_MAX - 1)
processes = st.integers(0, 1)
states = st.sampled_from([*STATES, STATES[0]])
hows = st.sampled_from([*["step"] * 6, *["event"] * 3, "force", "log", "delete", "begin", "begin"])
moves = st.sampled_from([*["step"] * 4, "event", "force", "log"])
numbers = st.integers(0, 4)
sures = st.sampled_from([True, True, True, False])
expectations = st.sampled_from(["any", "any", "any", "now", "stale"])


class Walks(RuleBasedStateMachine):
    """Sites and what is done to their machines.

    Attributes:
        on_disk: whether the sites are on SQLite.
        told: what happened, over all runs, so that a test that did too little is seen to have failed.
    """

    on_disk: ClassVar[bool] = False
    told: ClassVar[Counter[str]] = Counter()

    @initialize(world=worlds(are_open=True))
    def begin(self, world: World) -> None:
        """Open two sites, on which both machines begin."""
        self._runner = asyncio.Runner()
        self._folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self._clock = ManualClock(step_us=1)
        self._ids, self._numbers, self._files = count(1), count(1), count(1)
        self.world = world
        self.asks: list[Ask] = []
        self.sites: list[MachineSite] = []
        self.parents: dict[str, set[str]] = {}
        self.told["run"] += 1
        self._run(self._begun())

    async def _begun(self) -> None:
        one, other = await self._found(), await self._found()
        for state in STATES:
            await self.ask(one, 0, self._new(state, "begin", 0, sure=True), {})
        await self._sync(one, other, {}, None)

    async def _found(self) -> MachineSite:
        folder = Path(self._folder.name) / f"site-{next(self._files)}"
        site = MachineSite(folder, self._clock, self._ids, self.world.definition, on_disk=self.on_disk)
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

    def _new(self, state: str, how: str, what: int, *, sure: bool, with_id: bool = False) -> Ask:
        number = next(self._numbers)
        ask = Ask(number, state, how, what, sure, f"id-{number}" if with_id else None)
        self.asks.append(ask)
        return ask

    @rule(
        where=sites, process=processes, state=states, how=hows, what=numbers, sure=sures, with_id=st.booleans(),
        expecting=expectations, faults=early_faults, wisely=st.booleans(),
    )  # fmt: skip
    def call(self, where, process, state, how, what, sure, with_id, expecting, faults, wisely) -> None:
        """A new call."""

        async def new() -> None:
            site = self._site(where)
            goal = await self._wise(site, state, how, what) if wisely else what
            ask = self._new(state, how, goal, sure=sure, with_id=with_id)
            await self.ask(site, process, ask, faults, expecting)

        self._run(new())

    async def _wise(self, site: MachineSite, state: str, how: str, what: int) -> int:
        """A step or an event that may be taken, if there is one."""
        present = await self._present(site, state)
        if present is None:
            return what
        names = [each.name for each in EVERY_EVENT]
        members = range(len(self.world.members))
        ways = {
            "step": [each for each in members if each != present.state and self.world.asked(present.state, each)],
            "event": [each for each, name in enumerate(names) if self.world.fired(present.state, name)],
        }
        possible = ways.get(how) or [what]
        return possible[what % len(possible)]

    @rule(
        where=sites, process=processes, state=states,
        some=st.lists(st.tuples(hows, numbers), min_size=2, max_size=6), alternating=st.booleans(),
    )  # fmt: skip
    def call_often(self, where, process, state, some, alternating) -> None:
        """Several new calls, of one process or of both in turn."""

        async def often() -> None:
            site = self._site(where)
            for number, (how, what) in enumerate(some):
                ask = self._new(state, how, await self._wise(site, state, how, what), sure=True)
                await self.ask(site, (process + number * alternating) % 2, ask, {})

        self._run(often())

    @rule(pick=st.integers(0, 40), where=sites, process=processes, faults=early_faults)
    def ask_again(self, pick, where, process, faults) -> None:
        """A call with an id that was made before, at the same site or at one that was made from its export."""
        site = self._site(where)
        asked = [ask for ask in self.asks if ask.event_id and ask.number in site.said.asked]
        if pick % 2:
            asked = [ask for ask in asked if ask.number in site.said.results]
        if asked:
            self._run(self.ask(site, process, asked[pick % len(asked)], faults))

    async def ask(self, site: MachineSite, process: int, ask: Ask, faults: Faults, expecting: str = "any") -> None:
        """Make a call, and judge the answer."""
        before, present = await site.events(ask.state), await self._present(site, ask.state)
        made = [event.version for event in before if ask.event_id is not None and event.event_id == ask.event_id]
        version = len(before)
        right = {"any": {}, "now": {"expected": version}, "stale": {"expected": max(0, version - 1)}}
        given = right[expecting if present is not None and ask.how not in ("begin", "delete", "log") else "any"]
        expected: Any = (made[0],) if made else self._expected(ask, present, is_stale=given == right["stale"] != {})
        site.said.asked.add(ask.number)
        store, machine = site.stores[process], site.machines[process][ask.state]
        try:
            answer = await site.under(faults, process, lambda: ask.make(store, machine, given))
        except CommitOutcomeUnknown:
            assert faults, "unknown, though the engine answers"
            self.told["unknown"] += 1
        except (TransitionRefused, StateNotFound, VersionConflict) as error:
            assert type(error) is expected, f"{error!r}, and {expected} was expected"  # noqa: PT017
            await self._unchanged(site, ask.state, before)
            self.told["refused"] += 1
        except Unavailable as error:
            if not faults and error.code != "CONTENTION":
                raise
            await self._unchanged(site, ask.state, before)
            self.told["failed"] += 1
        else:
            assert isinstance(expected, tuple), f"{ask} was done, and {expected} was expected"
            assert answer == (made[0] if made else version + 1)
            self.told["again" if made else ask.how] += 1
            self._acknowledged(site, ask, answer, await site.events(ask.state))
        await self._is_done(site, ask.state, before, None if made else expected)
        await self.check(site)

    def _expected(self, ask: Ask, present: Seen | None, *, is_stale: bool) -> Any:
        """What becomes of a call: an error, or the machine after it."""
        if ask.how == "begin":
            return (0, 0, 0) if present is None else VersionConflict
        if present is None:
            return StateNotFound
        if is_stale:
            return ConcurrentModification
        if ask.how == "delete":
            return ()
        source, epoch, n = present.facts
        target = ask.what % len(self.world.members)
        if ask.how in ("log", "force"):
            return (source if ask.how == "log" else target, epoch, n)
        edges = [(each, target) for each in self.world.asked(source, target)]
        if ask.how == "event":
            edges = self.world.fired(source, EVERY_EVENT[ask.what % len(EVERY_EVENT)].name)
        return self.world.outcome(edges, epoch, n, sure=ask.sure)

    async def _unchanged(self, site: MachineSite, state: str, before: list[StateEvent[Any]]) -> None:
        found = [event.event_id for event in await site.events(state)]
        assert found == [event.event_id for event in before], "reported as failed, and happened"

    async def _is_done(self, site: MachineSite, state: str, before: list[StateEvent[Any]], expected: Any) -> None:
        """Nothing became of a call but what was to become of it."""
        after = await site.events(state)
        assert [event.event_id for event in after[: len(before)]] == [event.event_id for event in before]
        assert len(after) - len(before) in (0, 1), "a call was done twice"
        if len(after) > len(before):
            assert isinstance(expected, tuple), "a call that was to be refused was done"
            present = await self._present(site, state)
            assert (() if present is None else present.facts) == expected

    def _acknowledged(self, site: MachineSite, ask: Ask, version: int, events: list[StateEvent[Any]]) -> None:
        """Note the result of a call; it is the first one."""
        assert site.said.results.get(ask.number, (version,))[0] == version, "the same call again has another result"
        site.said.results[ask.number] = version, events[version - 1].event_id

    @rule(where=sites, state=states, one=st.tuples(hows, numbers), other=st.tuples(hows, numbers))
    def call_at_once(self, where, state, one, other) -> None:
        """Two processes make calls at once: each is done once, or refused."""

        async def at_once() -> None:
            site = self._site(where)
            before = await site.events(state)
            asks = [self._new(state, how, what, sure=True) for how, what in (one, other)]
            works = [
                ask.make(site.stores[process], site.machines[process][state], {}) for process, ask in enumerate(asks)
            ]
            answers = await asyncio.gather(*works, return_exceptions=True)
            done = [each for each in answers if not isinstance(each, BaseException)]
            for each in answers:
                if isinstance(each, BaseException) and not isinstance(
                    each, TransitionRefused | StateNotFound | VersionConflict | Unavailable
                ):
                    raise each
            assert sorted(done) == list(range(len(before) + 1, len(before) + 1 + len(done)))
            assert len(await site.events(state)) == len(before) + len(done)
            self.told["at once"] += bool(done)
            await self.check(site)

        self._run(at_once())

    @rule(where=sites, process=processes, whats=st.tuples(numbers, numbers), sure=sures, faults=early_faults)
    def call_together(self, where, process, whats, sure, faults) -> None:
        """A transaction moves both machines, or none."""

        async def together() -> None:
            site = self._site(where)
            store, machines = site.stores[process], site.machines[process]
            asks = [Ask(0, state, "step", what, sure, None) for state, what in zip(STATES, whats, strict=True)]
            before = [await site.events(each) for each in STATES]
            expected = [self._expected(ask, await self._present(site, ask.state), is_stale=False) for ask in asks]
            wrong = [each for each in expected if not isinstance(each, tuple)]

            async def move(transaction: Transaction) -> None:
                for ask in asks:
                    machine = machines[ask.state]
                    transaction.machine(machine).transition_to(ask.target(machine), GO, ask.metadata)

            try:
                await site.under(faults, process, lambda: store.transact(move, asks[0].metadata))
            except (TransitionRefused, StateNotFound) as error:
                assert type(error) in wrong  # noqa: PT017
                for state, events in zip(STATES, before, strict=True):
                    await self._unchanged(site, state, events)
            except (Unavailable, CommitOutcomeUnknown):
                assert faults
            else:
                assert not wrong, "a transaction wrote what was to be refused"
                self.told["together"] += 1
            grown = {len(await site.events(each)) - len(was) for each, was in zip(STATES, before, strict=True)}
            assert grown in ({0}, {1}), "a transaction was done by half"
            for state, events, each in zip(STATES, before, expected, strict=True):
                await self._is_done(site, state, events, ConcurrentModification if wrong else each)
            await self.check(site)

        self._run(together())

    # Upkeep and copies -----------------------------------------------------------------------------------------

    @rule(where=sites)
    def reopen(self, where) -> None:
        """Both processes end and begin again."""

        async def again() -> None:
            site = self._site(where)
            await site.close()
            await site.open()
            await self.check(site)

        self._run(again())

    @rule(seconds=st.integers(1, 1_000))
    def wait(self, seconds) -> None:
        """Time goes by."""
        self._clock.advance_us(seconds * 1_000_000)

    @precondition(lambda self: self.on_disk)
    @rule(where=sites)
    def back_up(self, where) -> None:
        """Keep a backup of a site."""
        self._run(self._site(where).back_up())

    @precondition(lambda self: any(site.kept for site in self.sites))
    @rule(pick=st.integers(0, SITES_MAX))
    def put_back(self, pick) -> None:
        """A backup is put back."""

        async def back() -> None:
            there = [site for site in self.sites if site.kept]
            await there[pick % len(there)].put_back()
            self.told["put back"] += 1
            await self.check(there[pick % len(there)])

        self._run(back())

    @precondition(lambda self: len(self.sites) < SITES_MAX)
    @rule(where=sites)
    def fork(self, where) -> None:
        """Make a new site of the export of another one."""

        async def forked() -> None:
            site = self._site(where)
            path = Path(self._folder.name) / f"{next(self._files)}.jsonl"
            await site.persister().export_history(GOVERNOR, path)
            new = await self._found()
            await new.persister().import_history(path)
            new.said = copy.deepcopy(site.said)
            self.told["forked"] += 1
            await self.check(new)

        self._run(forked())

    @rule(first=sites, second=sites, faults=early_faults, mending=st.none() | numbers)
    def sync(self, first, second, faults, mending) -> None:
        """Sync two sites."""
        one, other = self._site(first), self._site(second)
        if one is not other:
            self._run(self._sync(one, other, faults, mending))

    @rule(
        first=sites, second=sites, state=states, faults=early_faults, mending=st.none() | numbers,
        rounds=st.lists(st.tuples(moves, numbers, moves, numbers), min_size=1, max_size=3),
    )  # fmt: skip
    def move_apart(self, first, second, state, faults, mending, rounds) -> None:
        """Two sites move a machine apart from one another, and are synced, some times."""
        one, other = self._site(first), self._site(second)

        async def moved(site: MachineSite, how: str, what: int) -> None:
            self._clock.advance_us(1_000)
            how = "begin" if await self._present(site, state) is None else how
            ask = self._new(state, how, await self._wise(site, state, how, what), sure=True)
            await self.ask(site, 0, ask, {})

        async def apart() -> None:
            for how, what, their_how, their_what in rounds:
                await moved(one, how, what)
                await moved(other, their_how, their_what)
                await self._sync(one, other, faults, mending)

        if one is not other:
            self._run(apart())

    async def _sync(self, one: MachineSite, other: MachineSite, faults: Faults, mending: int | None) -> None:
        merge = merging.MachineMerge(self.world.definition)
        if faults:
            try:
                await one.under(faults, 0, lambda: sync(one.stores[0], other.stores[0], resolver=merge))
            except (Unavailable, CommitOutcomeUnknown):
                self.told["broken off"] += 1
            await self.check(one)
            await self.check(other)
        sides = {state: await self._sides(one, other, state) for state in STATES}
        report = await sync(one.stores[1], other.stores[1], resolver=merge)
        failed = {path.split()[1]: why for path, why in report.failed}
        self.told["synced"] += report.sent + report.received > 0
        for state, (ours, theirs) in sides.items():
            right, may_object = self._merged(ours, theirs)
            assert state not in failed or may_object, failed[state]
            found = [await one.data(state), await other.data(state)]
            if state in failed:
                assert found == [ours.data, theirs.data]
                self.told["objected"] += 1
            else:
                assert found[0] == found[1]
                assert found[0] in right, f"merged to {found[0]}, and not to one of {right}: against the rules"
                both = one.said.known[state] | other.said.known[state]
                one.said.known[state], other.said.known[state] = set(both), set(both)
                self.told["joined"] += ours.tip not in theirs.known and theirs.tip not in ours.known
        await self.check(one)
        await self.check(other)
        if failed and mending is not None:
            await self._mended(one, other, next(iter(failed)), mending, sides)

    async def _mended(self, one: MachineSite, other: MachineSite, state: str, what: int, sides: Any) -> None:
        """As the error advises, a forced step resolves a conflict."""
        ours, theirs = sides[state]
        later = one if ours.hybrid > theirs.hybrid else other
        await self.ask(later, 0, self._new(state, "force", what, sure=True), {})
        await self._sync(one, other, {}, None)
        present = await self._present(one, state)
        assert present is not None
        assert present.state == what % len(self.world.members)
        self.told["mended"] += 1

    async def _sides(self, one: MachineSite, other: MachineSite, state: str) -> tuple[Side, Side]:
        return await self._side(one, state), await self._side(other, state)

    async def _side(self, site: MachineSite, state: str) -> Side:
        events = await site.events(state)
        tip = events[-1].event_id if events else ""
        lives = [Seen(self.world, event.to_state).machine for event in events if event.to_state is not None]
        last = lives[-1] if lives else ""
        return Side(await site.data(state), tip, set(site.said.known[state]), last, await site.hybrid(state))

    def _merged(self, ours: Side, theirs: Side) -> tuple[list[Data], bool]:
        """What two sides can be merged to; and whether the merge may be refused. It must be if there is nothing."""
        if not ours.tip or not theirs.tip:
            return [ours.data if ours.tip else theirs.data], False
        if (ours.tip in theirs.known) is not (theirs.tip in ours.known):
            return [theirs.data if ours.tip in theirs.known else ours.data], False
        is_behind = self._is_before(ours.last, theirs.last), self._is_before(theirs.last, ours.last)
        if ours.data is None or theirs.data is None:
            live, is_old = (theirs, is_behind[1]) if ours.data is None else (ours, is_behind[0])
            return [None if is_old else live.data], False
        if any(is_behind):
            newer = [each.data for each, is_old in ((theirs, is_behind[0]), (ours, is_behind[1])) if is_old]
            return newer, False
        return self._rivals_merged(*sorted((ours, theirs), key=lambda each: each.hybrid))

    def _rivals_merged(self, loser: Side, winner: Side) -> tuple[list[Data], bool]:
        """The same, of two machines that were both moved."""
        assert loser.data is not None
        assert winner.data is not None
        before, after = Seen(self.world, loser.data), Seen(self.world, winner.data)
        self.told["rivals"] += before.state != after.state
        if self._is_forbidden(before.state, after.state) and not after.is_forced:
            return [], True
        both: list[Data] = [{**winner.data, "context": each["context"]} for each in (loser.data, winner.data)]
        # A machine may begin in the state that breaks the invariant; merged with another context, it would be written.
        return both, after.state == self.world.banned and not after.is_forced

    # Judging ---------------------------------------------------------------------------------------------------

    def _site(self, where: int) -> MachineSite:
        return self.sites[where % len(self.sites)]

    async def _present(self, site: MachineSite, state: str) -> Seen | None:
        data = await site.data(state)
        return None if data is None else Seen(self.world, data)

    def _is_forbidden(self, source: int, target: int) -> bool:
        """Whether a rule forbids the step from one state to another."""
        rules, number = self.world.kinds, len(self.world.members)
        return source != target and any(each.is_forbidding and each.covers(source, target, number) for each in rules)

    def _is_before(self, machine: str, other: str) -> bool:
        """Whether a machine is what another one was once, or is that one."""
        seen, ahead = {other}, [other]
        while ahead:
            new = self.parents.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        return machine in seen

    async def check(self, site: MachineSite) -> None:
        """Each machine is where its events lead, each of these is right, and nothing acknowledged is missing."""
        for state in STATES:
            events = await site.events(state)
            ids = [event.event_id for event in events]
            assert [event.version for event in events] == list(range(1, len(events) + 1)), "a history has a gap"
            assert len(set(ids)) == len(ids), "an id stands twice in a stream"
            last = ""
            for event in events:
                last = self._judge(event, last)
            present = await self._present(site, state)
            assert (None if not events else events[-1].to_state) == await site.data(state)
            if present is not None:
                machine = await site.machines[2][state].get()
                facts = self.world.members.index(machine.state), machine.epoch, machine.context.n
                assert facts == present.facts
            await self._check_history(site, state, events)
            site.said.known[state].update(ids)
            for number, (version, event_id) in site.said.results.items():
                if self._ask(number).state == state:
                    assert ids[version - 1 : version] == [event_id], "an acknowledged step is missing"

    def _judge(self, event: StateEvent[Any], last: str) -> str:
        """Judge one event by the rules as they were drawn; the last machine that the stream has shown."""
        before, after = (
            None if each is None else Seen(self.world, each) for each in (event.from_state, event.to_state)
        )
        if after is None:
            assert event.action in ("delete", JOIN_ACTION)
            return last
        if event.action == JOIN_ACTION:
            if before is not None and not self._is_before(before.machine, after.machine):
                is_forbidden = self._is_forbidden(before.state, after.state)
                assert after.is_forced or not is_forbidden, "a merge led where a rule forbids it"
        elif event.action == LOG:
            assert before is not None
            assert (before.machine, before.facts) == (after.machine, after.facts)
        else:
            assert after.facts == self._meant(event, before), f"{event.action} led where it does not"
            assert after.is_forced is (event.action == "force")
            seconds = self.world.seconds(after.state)
            assert after.wait_us == (seconds * 1_000_000 if seconds else None), "a time-out is due at another time"
        if last and last != after.machine:
            self.parents.setdefault(after.machine, set()).add(last)
        return after.machine

    def _meant(self, event: StateEvent[Any], before: Seen | None) -> Any:
        """Where an event leads, by what was asked for."""
        names = [each.name for each in self.world.members]
        if event.action == "initialize":
            assert before is None
            return 0, 0, 0
        assert before is not None
        source, epoch, n = before.facts
        if event.action == "force":
            return names.index(event.payload["to"]), epoch, n
        assert event.action == "transition"
        trigger, sure = event.payload["trigger"], event.metadata.context == FACTS
        if trigger["type"] == "event":
            return self.world.outcome(self.world.fired(source, trigger["event"]), epoch, n, sure=sure)
        target = names.index(event.payload["to"])
        return self.world.outcome([(each, target) for each in self.world.asked(source, target)], epoch, n, sure=sure)

    async def _check_history(self, site: MachineSite, state: str, events: list[StateEvent[Any]]) -> None:
        """The machine's own history tells the same as its events."""
        history = await site.history(state) if events else []
        assert [(each.version, each.event_id, each.kind) for each in history] == [
            (event.version, event.event_id, event.action) for event in events
        ]
        for record, event in zip(history, events, strict=True):
            before, after = (None if each is None else each["machine"] for each in (event.from_state, event.to_state))
            assert record.from_state == (None if before is None else before["state"])
            assert record.to_state == (None if after is None else after["state"])
            assert record.epoch == (0 if before is None else before["epoch"])
            assert (record.trigger is None) is (event.action in (LOG, "delete", JOIN_ACTION))
            assert record.timestamp <= from_us(self._clock.now_us())

    def _ask(self, number: int) -> Ask:
        return self.asks[number - 1]


class WalksOnDisk(Walks):
    """The same on SQLite."""

    on_disk = True


WALKS = {"memory": Walks, "sqlite": WalksOnDisk}
"""By the name of the engine."""
