"""The paths of all documents. ``docs/format.md`` lists them."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import msgspec

from tai_state.engines.api import Document
from tai_state.errors import CorruptDocument, InvalidId
from tai_state.values.ids import VERSION_DIGITS, VERSION_MAX, escape_id, split_versioned, unescape_id, versioned

_GOVERNORS = "governors"


class Stream(msgspec.Struct, frozen=True):
    """The paths of one state, its events and its kept snapshots.

    Attributes:
        governor_id: as the caller gave it.
        state_id: as the caller gave it.
        governor: the path of the governor's document; the other paths begin with it.
        segment: the state's id as a path segment.
        state: the path of the state's document.
        place: the same path below the root and the namespace; it stays the same if the governor moves to another store.
        events: the collection of all events of the governor.
        snapshots: the collection of all kept snapshots of the governor.
        prefix: the beginning of the paths of its events; the version follows.
        timers: the collection of all time-outs of the store.
    """

    governor_id: str
    state_id: str
    governor: str
    segment: str
    state: str
    place: str
    events: str
    snapshots: str
    prefix: str
    timers: str

    def event(self, version: int) -> str:
        """The path of the event that made this version."""
        return self.prefix + str(version).zfill(VERSION_DIGITS)

    def snapshot(self, version: int) -> str:
        """The path of the snapshot kept at this version."""
        return f"{self.snapshots}/{versioned(self.segment, version)}"

    def marker(self, event_id: str) -> str:
        """The path of the marker for a caller's event id."""
        return f"{self.governor}/ids/{escape_id(event_id, 'event_id')}"

    @property
    def retired(self) -> str:
        """The path of the record of retired stores."""
        return f"{self.governor}/retired/{self.segment}"

    @property
    def cleaned(self) -> str:
        """The path of the note that first events may have been cleaned up."""
        return f"{self.governor}/cleaned/{self.segment}"

    def timer(self, due: str) -> str:
        """The path of its entry in the index of time-outs, for one that is due at a time, given as text."""
        return f"{self.timers}/{due}~{sha256(self.place.encode()).hexdigest()[:32]}"

    def range(self, first: int, last: int | None = None) -> tuple[str, str]:
        """The range of document ids for the versions from first to last, in both collections; the end is exclusive."""
        end = versioned(self.segment, VERSION_MAX if last is None else last) + "\x00"
        return versioned(self.segment, first), end


class Place(msgspec.Struct, frozen=True):
    """What a document's path names: a stream, and the version of an event or a kept snapshot (else 0)."""

    stream: Stream
    version: int


class Layout:
    """Maps ids to paths, under ``{root}/{namespace}/`` if a store shares its engine with others.

    Raises:
        InvalidId: only one of root and namespace is given; paths need both or neither.
    """

    def __init__(self, root: str = "", namespace: str = "") -> None:
        if bool(root) != bool(namespace):
            raise InvalidId("root and namespace", "given both or neither")
        prefix = f"{escape_id(root, 'root')}/{escape_id(namespace, 'namespace')}/" if root else ""
        self.governors: str = f"{prefix}{_GOVERNORS}"
        self.store: str = f"{prefix}meta/store"
        self.restores: str = f"{self.store}/restores"
        self.locks: str = f"{prefix}locks"
        self.lockbeats: str = f"{prefix}lockbeats"
        self.lockbreaks: str = f"{prefix}lockbreaks"
        self.timers: str = f"{prefix}timers"
        self._streams = lru_cache(maxsize=8192)(self._stream)

    def governor(self, governor_id: str) -> str:
        """The path of a governor's document."""
        return f"{self.governors}/{escape_id(governor_id, 'governor_id')}"

    def placed(self, governor_id: str, document: Document) -> Place | None:
        """What the path of a document of a stream names, markers excepted; None if no such document has that path."""
        try:
            segment, version = (document.id, 0) if _is_of_a_state(document) else split_versioned(document.id)
            stream = self.stream(governor_id, unescape_id(segment))
        except (ValueError, CorruptDocument, InvalidId):
            return None
        return Place(stream, version) if stream.segment == segment else None

    def states(self, governor_id: str) -> str:
        """The collection of a governor's states."""
        return f"{self.governor(governor_id)}/states"

    def events(self, governor_id: str) -> str:
        """The collection of a governor's events."""
        return f"{self.governor(governor_id)}/events"

    def snapshots(self, governor_id: str) -> str:
        """The collection of a governor's kept snapshots."""
        return f"{self.governor(governor_id)}/snapshots"

    def ids(self, governor_id: str) -> str:
        """The collection of the markers for callers' event ids."""
        return f"{self.governor(governor_id)}/ids"

    def retired(self, governor_id: str) -> str:
        """The collection of the records of retired stores."""
        return f"{self.governor(governor_id)}/retired"

    def cleaned(self, governor_id: str) -> str:
        """The collection of the notes that first events may have been cleaned up."""
        return f"{self.governor(governor_id)}/cleaned"

    def restore(self, governor_id: str) -> str:
        """The path of the note of a restore of this governor."""
        return f"{self.restores}/{escape_id(governor_id, 'governor_id')}"

    def lock(self, resource: str) -> str:
        """The path of the lock on a resource."""
        return f"{self.locks}/{escape_id(resource, 'resource')}"

    def lockbeat(self, resource: str) -> str:
        """The path of the last renewal of the lock on a resource."""
        return f"{self.lockbeats}/{escape_id(resource, 'resource')}"

    def lockbreak(self, nonce: str) -> str:
        """The path of the note that a tenure's lock was broken."""
        return f"{self.lockbreaks}/{nonce}"

    def waiters(self, resource: str) -> str:
        """The collection of the waiters for the lock on a resource."""
        return f"{self.lock(resource)}/waiters"

    def stream(self, governor_id: str, state_id: str) -> Stream:
        """The paths of one state.

        Raises:
            InvalidId: an id cannot be stored.
        """
        if type(governor_id) is not str or type(state_id) is not str:
            return self._stream(governor_id, state_id)  # refuses it; the cache might not
        return self._streams(governor_id, state_id)

    def _stream(self, governor_id: str, state_id: str) -> Stream:
        governor = self.governor(governor_id)
        segment = escape_id(state_id, "state_id")
        state = f"{governor}/states/{segment}"
        return Stream(
            governor_id=governor_id,
            state_id=state_id,
            governor=governor,
            segment=segment,
            state=state,
            place=state[len(self.governors) - len(_GOVERNORS) :],
            events=f"{governor}/events",
            snapshots=f"{governor}/snapshots",
            prefix=f"{governor}/events/{segment}~",
            timers=self.timers,
        )


def _is_of_a_state(document: Document) -> bool:
    return document.collection.endswith(("/states", "/retired", "/cleaned"))
