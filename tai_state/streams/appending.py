"""The one write path: a change is planned, committed and, if the commit is refused or not answered, settled."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from tai_state.engines.api import Committed, Engine
from tai_state.engines.matters import Bounds, Look
from tai_state.engines.settling import settle
from tai_state.errors import CorruptDocument, InvalidData, TaiStateError, VersionConflict
from tai_state.streams.changes import Append, Appended, Change, Compose, Guard, Known
from tai_state.streams.heads import Heads
from tai_state.streams.judging import Judge, Sent
from tai_state.streams.planning import Author, Plan
from tai_state.streams.reader import StreamReader
from tai_state.streams.records import EMPTY, checked_state, head_of
from tai_state.streams.repeating import Results
from tai_state.streams.turns import Turns
from tai_state.streams.walking import Walk
from tai_state.values.expected import NO_STATE
from tai_state.values.times import WallClock

_logger = logging.getLogger("tai_state.store")

GOVERNORS_MAX = 10_000
"""How many governors are remembered whose document is known to exist."""


class Appender:
    """Appends changes to streams, in one commit each.

    Args:
        engine: the store's engine.
        reader: reads the events for a version conflict.
        author: this store's id, schema and snapshot policy.
        clock: the clock of this store.
        bounds: how long and how often a change is tried.
        turns: the turns of this process's tasks, taken where they would otherwise hinder each other.

    Attributes:
        heads: the heads last seen.
    """

    def __init__(
        self, engine: Engine, reader: StreamReader, author: Author, clock: WallClock, bounds: Bounds, turns: Turns
    ) -> None:
        self.heads: Heads = Heads()
        self._engine = engine
        self._reader = reader
        self._author = author
        self._clock = clock
        self._bounds = bounds
        self._turns = turns
        self._governors: OrderedDict[str, None] = OrderedDict()

    async def append(self, change: Change) -> Results:
        """Record a change, all of it or nothing, and only if all guards hold.

        Returns:
            For each append, what it recorded; None if it has no events.

        Raises:
            VersionConflict, StateNotFound: a state is not as its change expects it; nothing was written.
            IdempotencyConflict: a caller's event id is already used by a different change.
            CommitOutcomeUnknown: no answer came in time; call again with the same ids.
            TaiStateError: the error of a guard that does not hold; nothing was written.
            EventSourcingError: a state has events but no document; ``recover`` repairs it.
            StoreUnavailable, StoreTimeout, CommitTooLarge, DocumentTooLarge: nothing was written.
        """
        return await self._begun(change)

    async def append_one(self, append: Append, compose: Compose, guards: tuple[Guard, ...] = ()) -> Appended:
        """Record a change of one stream that always has events; as :meth:`append`."""
        [done] = await self._begun(Change((append,), compose, guards))
        if done is None:
            raise AssertionError("compose always says something here")
        return done

    def _begun(self, change: Change) -> Awaitable[Results]:
        """Take turns only where needed."""
        turns: list[str] = []
        may_register = False
        for append in change.appends:
            if not (append.has_version or change.is_in_turn):
                turns.append(append.stream.state)
            may_register = may_register or self._may_register(append)
        if may_register:
            return self._registering(change, turns)
        if len(turns) == 1 and self._turns.take_free(turns[0]):
            return self._settled(change, (), turns[0])
        return self._in_turn(change, turns) if turns else self._settled(change, ())

    async def _registering(self, change: Change, turns: list[str]) -> Results:
        if unregistered := self._unregistered(change):
            # The first state of a governor is written together with the governor's document: one task is enough for it.
            async with self._turns.of(turns, unregistered):
                if still := self._unregistered(change):
                    return await self._settled(change, still)
        return await self._in_turn(change, turns)

    async def _in_turn(self, change: Change, turns: list[str]) -> Results:
        async with self._turns.of(turns):
            return await self._settled(change, ())

    async def _settled(self, change: Change, unregistered: Sequence[str], turn: str | None = None) -> Results:
        """Settle a change; a turn that was taken for it is given back."""
        try:
            judge = Judge(change, self._author, self._clock.now_us(), self._reader, unregistered, self._recorded)
            known = None if unregistered else self._remembered(change)
            first = None if known is None else _planned(judge, known)
            done = await settle(self._engine, judge, self._bounds, first, on_look=partial(self._note, change))
        except VersionConflict as conflict:
            await self._show_states(change, conflict)
            _logger.warning("version conflict", extra={"path": conflict.path, "actual": conflict.actual})
            raise
        except TaiStateError:
            raise
        except BaseException as error:
            for append in change.appends:
                self.heads.drop(append.stream.state)
            if isinstance(error, ValueError) and change.guards_itself:
                raise InvalidData("the fence guards a document that the change itself reads or writes") from error
            raise
        finally:
            if turn is not None:
                self._turns.give(turn)
        if unregistered:
            self._register(append.stream.governor for append, each in zip(change.appends, done, strict=True) if each)
        return done

    async def _show_states(self, change: Change, conflict: VersionConflict) -> None:
        """Give the events of a conflict the states between which they stand, if events before them show these."""
        if not conflict.events or conflict.events[0].version == 1 or conflict.events[0].from_state is not None:
            return
        stream = next(append.stream for append in change.appends if append.stream.state == conflict.path)
        first, last = conflict.events[0].version, conflict.events[-1].version
        with suppress(TaiStateError):  # the conflict itself is what the caller has to know
            walk = Walk(self._reader, stream, after=first - 1)
            conflict.events = tuple([event async for event in walk.over(self._engine, last)])

    def _register(self, governors: Iterable[str]) -> None:
        """Remember that each of these governors has a state, and so a document."""
        for path in governors:
            self._governors[path] = None
            if len(self._governors) > GOVERNORS_MAX:
                self._governors.popitem(last=False)

    def _note(self, change: Change, look: Look) -> None:
        """Remember the heads that were seen, for the caller's next change; forget what is there no longer."""
        for append in change.appends:
            document = look.documents.get(append.stream.state)
            if document is None:
                if self.heads.get(append.stream.state) is not None:  # it was there, and its governor may be gone too
                    self.heads.drop(append.stream.state)
                    self._governors.pop(append.stream.governor, None)
            elif not self.heads.is_known(append.stream.state, document.revision):
                with suppress(CorruptDocument):  # the judgement handles the damage
                    self.heads.put(append.stream.state, head_of(checked_state(document), document.revision))

    def _unregistered(self, change: Change) -> list[str]:
        """The governors whose first state this change may create, and whose document may not exist yet."""
        return sorted({each.stream.governor for each in change.appends if self._may_register(each)})

    def _may_register(self, append: Append) -> bool:
        if append.stream.governor in self._governors or append.must_live:
            return False
        return not isinstance(append.expected, int) or append.expected == 0

    def _remembered(self, change: Change) -> list[Known] | None:
        """The heads to build on without a read; None if one of them is not known well enough."""
        if change.documents:
            return None
        known: list[Known] = []
        for append in change.appends:
            each = append.seen
            if each is None:
                head = self.heads.get(append.stream.state)
                if head is None and append.expected in (NO_STATE, 0):
                    head = EMPTY
                if head is None or append.needs_state or not append.has_version:
                    return None
                each = Known(head)
            if not append.fits(each.head):
                return None
            known.append(each)
        return known

    def _recorded(self, plans: Sequence[Plan | None], known: Sequence[Known], committed: Committed) -> Results:
        """Make the results of an acknowledged commit, and remember its heads."""
        results: Results = []
        for index, plan in enumerate(plans):
            if plan is None:
                results.append(None)
                continue
            self.heads.put(plan.stream.state, head_of(plan.state, committed.revision))
            if _logger.isEnabledFor(logging.INFO):
                for event in plan.events:
                    facts = {"path": plan.stream.state, "version": event.version, "event_id": event.event_id}
                    _logger.info("recorded", extra=facts)
            results.append(Appended(plan.events, plan.state, known[index].data, committed.time_us))
        return results


def _planned(judge: Judge, known: Sequence[Known]) -> Sent | None:
    """What to send without looking; None: look first.

    What compose raises is raised once it was looked: what is known may be out of date, and an earlier call with the
    same ids may have been recorded.
    """
    try:
        planned = judge.planned(known, {})
    except Exception:  # noqa: BLE001 - it comes again where it still holds
        return None
    return planned if planned.writes else None
