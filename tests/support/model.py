"""A store as simple as can be: lists of events. What the real one does is compared with it, step by step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from tai_state import ANY, EXISTS, NO_STATE, DeletedState, StateEvent, StateSnapshot, TaiStateError

Data: TypeAlias = dict[str, Any] | None
Place: TypeAlias = tuple[str, str]
"""A governor's and a state's id."""

SNAPSHOT_EVERY = 4
SNAPSHOTS_KEPT = 2


def add(state: Data, payload: Any) -> Data:
    """Add to a number."""
    return {**(state or {}), "n": (state or {}).get("n", 0) + payload}


def put(state: Data, payload: Any) -> Data:
    """Replace the whole state."""
    return {"n": 0, "kind": payload}


def clear(state: Data, payload: Any) -> Data:
    """Remove the state."""
    return None


FOLDS: dict[str, Callable[[Data, Any], Data]] = {"add": add, "put": put, "clear": clear}
REDUCERS = {action: (lambda state, event, fold=fold: fold(state, event.payload)) for action, fold in FOLDS.items()}


def text(data: Any) -> str:
    """The same for two values only if they are the same JSON: ``true`` is not ``1``."""
    return json.dumps(data, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One event, with the states before and after it."""

    version: int
    id: str
    action: str
    payload: Any
    before: Data
    after: Data
    carries_state: bool
    timestamp: datetime
    as_of: datetime
    who: tuple[str, str, str]


@dataclass
class Stream:
    """The events of one state, and the versions of which a snapshot is kept."""

    events: list[Recorded] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @property
    def version(self) -> int:
        """How many events there are."""
        return len(self.events)

    @property
    def data(self) -> Data:
        """The state."""
        return self.events[-1].after if self.events else None

    @property
    def is_live(self) -> bool:
        """Whether there is a state."""
        return self.data is not None

    def keep(self) -> None:
        """Keep a snapshot of the present version."""
        if not self.kept or self.kept[-1] != self.version:
            self.kept = [*self.kept, self.version][-SNAPSHOTS_KEPT:]

    def at_time(self, moment: datetime) -> int:
        """The version at a time; 0 where there was none yet."""
        return max((event.version for event in self.events if event.as_of <= moment), default=0)


class Refused(Exception):
    """What the real store must raise: the name of the error, and its fields."""

    def __init__(self, name: str, **fields: Any) -> None:
        super().__init__(name, fields)
        self.name, self.fields = name, fields


@dataclass(frozen=True)
class Wanted:
    """One event to be recorded, with a caller's own id or None."""

    action: str
    payload: Any
    state: Any
    event_id: str | None
    said: datetime | None

    @property
    def carries_state(self) -> bool:
        """Whether the state is given, and not folded."""
        return self.state is not _FOLDED


_FOLDED = object()


def folded(action: str, payload: Any, event_id: str | None, said: datetime | None = None) -> Wanted:
    """An event whose state follows from its payload, or stays as it was."""
    return Wanted(action, payload, _FOLDED, event_id, said)


class Model:
    """The model of one store.

    Args:
        now: the time of changes that come without one.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.streams: dict[Place, Stream] = {}
        self.markers: dict[tuple[str, str], tuple[str, int]] = {}
        self.calls: list[tuple[Place, list[Recorded]]] = []

    def stream(self, place: Place) -> Stream:
        """A state's stream, which may be empty."""
        return self.streams.get(place, Stream())

    def governors(self) -> list[str]:
        """Those that have states, in order."""
        return sorted({governor for governor, _ in self.streams})

    def states(self, governor: str) -> list[str]:
        """The states of a governor, deleted ones included, in order."""
        return sorted(state for each, state in self.streams if each == governor)

    def change(
        self,
        place: Place,
        wanted: Sequence[Wanted],
        who: tuple[str, str, str],
        expected: Any,
        made: Callable[[], str],
        *,
        must_live: bool = False,
        asserted: Any = _FOLDED,
    ) -> list[Recorded]:
        """Record events; what an earlier call with the same ids recorded, if there was one.

        Raises:
            Refused: with the error that the store must raise.
        """
        governor, state = place
        contents = [
            (each.event_id, repr((state, each.action, text(each.payload), self._state_text(each), who, each.said)))
            for each in wanted
        ]
        seen = [self.markers.get((governor, event_id)) for event_id, _ in contents if event_id is not None]
        if any(seen):
            for event_id, content in contents:
                mark = self.markers.get((governor, event_id or ""))
                if mark is None or mark[0] != content:
                    raise Refused("IdempotencyConflict", event_id=event_id, path=path_of(place))
            assert seen[0] is not None
            return self.calls[seen[0][1]][1]
        stream = self.stream(place)
        self._check(place, stream, expected, must_live=must_live)
        if asserted is not _FOLDED and text(asserted) != text(stream.data):
            raise Refused(
                "InvalidData", what=f"from_state is not what is stored at version {stream.version}", path=path_of(place)
            )
        self.streams[place] = stream
        new = [self._append(stream, each, who, made) for each in wanted]
        if stream.version - (stream.kept[-1] if stream.kept else 0) >= SNAPSHOT_EVERY:
            stream.keep()
        for event_id, content in contents:
            if event_id is not None:
                self.markers[governor, event_id] = (content, len(self.calls))
        self.calls.append((place, new))
        return new

    def _state_text(self, wanted: Wanted) -> str:
        return text(wanted.state) if wanted.carries_state else "folded"

    def _append(self, stream: Stream, wanted: Wanted, who: tuple[str, str, str], made: Callable[[], str]) -> Recorded:
        before = stream.data
        if wanted.carries_state:
            after = wanted.state
        elif wanted.action in FOLDS:
            after = FOLDS[wanted.action](before, wanted.payload)
        else:
            after = before
        timestamp = wanted.said or self._now()
        event = Recorded(
            version=stream.version + 1,
            id=wanted.event_id or made(),
            action=wanted.action,
            payload=wanted.payload,
            before=before,
            after=after,
            carries_state=wanted.carries_state,
            timestamp=timestamp,
            as_of=max(timestamp, stream.events[-1].as_of) if stream.events else timestamp,
            who=who,
        )
        stream.events.append(event)
        return event

    def _check(self, place: Place, stream: Stream, expected: Any, *, must_live: bool) -> None:
        number = expected.version if isinstance(expected, StateSnapshot | DeletedState) else expected
        if number is NO_STATE:
            fits = not stream.is_live
        elif number is EXISTS:
            fits = stream.is_live
        else:
            fits = number is ANY or number == stream.version
        if fits and not (must_live and not stream.is_live):
            return
        if number is EXISTS or stream.version == 0 or fits:
            raise Refused("StateNotFound", path=path_of(place))
        after = number if isinstance(number, int) else 0
        raise Refused(
            "VersionConflict",
            path=path_of(place),
            expected=number if isinstance(number, int) else number.value,
            actual=stream.version,
            events=[
                {"version": event.version, "id": event.id, "action": event.action} for event in stream.events[after:]
            ],
        )


def path_of(place: Place) -> str:
    """The path of a state; the model's ids need no escaping."""
    return f"governors/{place[0]}/states/{place[1]}"


def shown(stream: Stream, after: int, until: int | None) -> list[tuple[Any, ...]]:
    """What reading events without reducers gives: the states that an event carries, or that it left as they were.

    What is shown of an event does not depend on where reading began.
    """
    result: list[tuple[Any, ...]] = []
    previous: Recorded | None = None
    before: Data = None
    for event in stream.events[:until]:
        if event.carries_state:
            now = event.after
        elif previous is not None and text(previous.after) == text(event.after):
            now = before
        else:
            now = None
        if event.version > after:
            result.append(plain_event(event, before, now))
        previous, before = event, now
    return result


def plain_event(event: Recorded, before: Data, after: Data) -> tuple[Any, ...]:
    """An event of the model, to be compared with one of the store."""
    return (
        event.version, event.id, event.action, event.payload, text(before), text(after), event.timestamp, event.who,
        event.version - 1,
    )  # fmt: skip


def plain_state(event: Recorded) -> tuple[Any, ...]:
    """The state right after an event of the model, to be compared with one of the store."""
    return (event.version, text(event.after), event.timestamp, event.who, event.version - 1, event.after is None)


def plain(place: Place, value: Any) -> Any:
    """A state or an event of the store, to be compared with the model's."""
    if isinstance(value, list):
        return [plain(place, each) for each in value]
    metadata = value.metadata
    who = (metadata.changed_by, metadata.reason, text(metadata.context))
    if isinstance(value, StateEvent):
        assert (value.governor_id, value.state_id) == place
        return (
            value.version, value.event_id, value.action, value.payload, text(value.from_state), text(value.to_state),
            value.timestamp, who, metadata.parent_version,
        )  # fmt: skip
    assert (value.governor_id, value.state_id) == place
    return (value.version, text(value.data), value.timestamp, who, metadata.parent_version, value.deleted)


def plain_error(error: TaiStateError) -> tuple[str, dict[str, Any]]:
    """An error of the store, to be compared with the model's."""
    facts = error.fields()
    facts.pop("differs", None)  # the model does not say in what
    return type(error).__name__, facts
