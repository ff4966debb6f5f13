"""Changing states: every method is one atomic commit of the new state and the event that explains it."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from tai_state.errors import IdempotencyConflict, NotRetained
from tai_state.store.changes import Append, Appended, Fence, always, append_of
from tai_state.store.core import StoreCore
from tai_state.store.layout import Stream
from tai_state.store.planning import Composition, Draft
from tai_state.store.records import MARKER, Head, state_after
from tai_state.store.streams import Folded
from tai_state.store.walking import Walk
from tai_state.values.digests import NO_STATE_TEXT, content_digest, state_hash
from tai_state.values.events import JsonEvent
from tai_state.values.expected import EXISTS, NO_STATE, Expected
from tai_state.values.json import encode, normalise, normalise_object
from tai_state.values.metadata import ChangeMetadata, check_metadata, check_text
from tai_state.values.states import JsonSnapshot
from tai_state.values.times import format_time, format_us


class StateWriting(StoreCore):
    """The part of a store that changes states."""

    async def save_state(
        self,
        governor_id: str,
        state_id: str,
        data: dict[str, Any],
        metadata: ChangeMetadata,
        *,
        expected: Expected = NO_STATE,
        action: str = "save",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonSnapshot:
        """Write a state, by default one that is not there yet.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            data: a JSON object, the whole new state.
            metadata: who and why.
            expected: what the writer believes the version to be.
            action: what happened; the event's name.
            event_id: the caller's own, so that the same call again changes nothing and returns the first result.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change happens only as long as its lock is held.

        Returns:
            The state as written, its new version inside.

        Raises:
            LockLost: the lease given as fence is over; nothing was written.
            VersionConflict, StateNotFound: the state is not what was expected; nothing was written.
            IdempotencyConflict: the event id already stands for something else.
            CommitOutcomeUnknown: no answer in time; call again with the same ``event_id``.
            InvalidId, InvalidData, DocumentTooLarge: the input cannot be stored; nothing was sent.
            StoreUnavailable, StoreTimeout: nothing was written.
        """
        append = self._saved(governor_id, state_id, data, metadata, expected, action, event_id, timestamp)
        [appended] = await self.appender.append([append], self.guards(fence))
        return self.snapshot(append.stream, appended.state, appended.recorded_us)

    async def update_state(
        self,
        governor_id: str,
        state_id: str,
        data: dict[str, Any],
        metadata: ChangeMetadata,
        *,
        expected: Expected,
        action: str = "update",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonSnapshot:
        """Write a state anew. As :meth:`save_state`, but what is expected must be said."""
        append = self._saved(governor_id, state_id, data, metadata, expected, action, event_id, timestamp)
        [appended] = await self.appender.append([append], self.guards(fence))
        return self.snapshot(append.stream, appended.state, appended.recorded_us)

    def _saved(
        self,
        governor_id: str,
        state_id: str,
        data: dict[str, Any],
        metadata: ChangeMetadata,
        expected: Expected,
        action: str,
        event_id: str | None,
        timestamp: datetime | None,
    ) -> Append:
        stream = self.layout.stream(governor_id, state_id)
        text, copy = normalise_object(data, "state data")
        draft = self.draft(stream, metadata, action, event_id, timestamp, payload=None, state=text)
        return append_of(stream, expected, (draft,), always(Composition((draft,), copy)))

    async def delete_state(
        self,
        governor_id: str,
        state_id: str,
        metadata: ChangeMetadata,
        *,
        expected: Expected,
        action: str = "delete",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonSnapshot:
        """Delete a state: one more event. Its history stays, and writing it again goes on at the next version.

        Returns:
            The deleted state: no data, and the version of the deletion.

        Raises:
            StateNotFound: there is nothing to delete. Otherwise as :meth:`save_state`.
        """
        stream = self.layout.stream(governor_id, state_id)
        draft = self.draft(stream, metadata, action, event_id, timestamp, payload=None, state=NO_STATE_TEXT)
        append = append_of(stream, expected, (draft,), always(Composition((draft,), None)), must_live=True)
        [appended] = await self.appender.append([append], self.guards(fence))
        return self.snapshot(stream, appended.state, appended.recorded_us)

    async def log_event(
        self,
        governor_id: str,
        state_id: str,
        action: str,
        metadata: ChangeMetadata,
        *,
        payload: Any = None,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonEvent:
        """Record that something happened to a state and left it as it is. The version moves all the same.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            action: what happened.
            metadata: who and why.
            payload: any JSON value, kept with the event.
            expected: what the writer believes the version to be.
            event_id: as for :meth:`save_state`.
            timestamp: when it happened; now, if not given.
            fence: as for :meth:`save_state`.

        Raises:
            StateNotFound: there is no state to log about. Otherwise as :meth:`save_state`.
        """
        stream = self.layout.stream(governor_id, state_id)
        text = None if payload is None else normalise(payload, "payload")[0]
        draft = self.draft(stream, metadata, action, event_id, timestamp, payload=text, state=None)
        compose = partial(self._unchanged, stream, draft)
        append = append_of(stream, expected, (draft,), compose, needs_state=True, must_live=True)
        [appended] = await self.appender.append([append], self.guards(fence))
        if appended.is_repeated:
            version = appended.state.version
            walk = Walk(self.streams, stream, after=version - 1)
            [event] = [each async for each in walk.over(self.engine, version)]
            return event
        return self.events_of(stream, appended, appended.state.data)[0]

    async def result_of(
        self, governor_id: str, state_id: str, event_id: str, action: str, metadata: ChangeMetadata
    ) -> JsonSnapshot | None:
        """What the change with this event id of the caller's made of the state; None if it is not recorded (so far).

        Raises:
            IdempotencyConflict: the id stands for another change: of another state, or another action, or by
                somebody else, or for another reason.
            NotRetained: the change was recorded, and its event was cleaned up.
        """
        stream = self.layout.stream(governor_id, state_id)
        [document] = (await self.engine.read([stream.marker(event_id)])).documents
        if document is None:
            return None
        marker = document.decode(MARKER)
        if marker.state_id != state_id:
            raise IdempotencyConflict(event_id, stream.state)
        stored = await self.streams.one(stream, marker.version)
        if stored is None:
            raise NotRetained(stream.event(marker.version), "the change was made, and its event was cleaned up since")
        record = stored.record
        said = (action, metadata.changed_by, metadata.reason, check_metadata(metadata))
        found = (record.action, record.metadata.changed_by, record.metadata.reason, record.metadata.context)
        if said != found or record.to_state is None:
            raise IdempotencyConflict(event_id, stream.state)
        return self.snapshot(stream, state_after(record), stored.recorded_us)

    def _unchanged(self, stream: Stream, draft: Draft, head: Head, data: dict[str, Any] | None) -> Composition:
        """The state as it is; where its shape is an old one, in the present shape and carried by the event."""
        upcasting = self.settings.upcasting
        if data is None or upcasting.is_current(head.schema):
            return Composition((draft,), data)
        current = upcasting.state(data, head.schema, stream.state)
        return Composition((msgspec.structs.replace(draft, state=encode(current), carries_state=True),), current)

    def events_of(self, stream: Stream, appended: Appended, from_state: dict[str, Any] | None) -> list[JsonEvent]:
        """The events that an append recorded, with the states before and after them.

        Args:
            stream: of the events.
            appended: what was recorded.
            from_state: the data before the first of them; None where there was none.
        """
        text = NO_STATE_TEXT if from_state is None else encode(from_state)
        before = Folded(text, self.settings.upcasting.schema, state_hash(text))
        events: list[JsonEvent] = []
        for record in appended.events:
            now = before.then(record)
            # The record stays in use as the head: the caller gets a clock of its own.
            given = msgspec.structs.replace(record, causality=dict(record.causality))
            events.append(self.streams.event(stream, given, appended.recorded_us, before, now))
            before = now
        return events

    def draft(
        self,
        stream: Stream,
        metadata: ChangeMetadata,
        action: str,
        event_id: str | None,
        timestamp: datetime | None,
        *,
        payload: str | None,
        state: str | None,
    ) -> Draft:
        """One event to be, its id fixed. For a caller's own id, with the digest of what it stands for.

        Raises:
            InvalidId, InvalidData: a part of it cannot be stored.
        """
        check_text(action, "action")
        context = check_metadata(metadata)
        said = None if timestamp is None else format_time(timestamp)
        marker = None
        if event_id is not None:
            stream.marker(event_id)
            marker = content_digest(
                stream.state_id, action, payload, state, metadata.changed_by, metadata.reason, context, said
            )
        return Draft(
            event_id=event_id or self.settings.new_id(),
            action=action,
            timestamp=said or format_us(self.settings.clock.now_us()),
            changed_by=metadata.changed_by,
            reason=metadata.reason,
            context=context,
            payload=payload,
            state=state,
            carries_state=state is not None,
            marker=marker,
        )
