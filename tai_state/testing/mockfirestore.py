"""An engine over a ``MockFirestore`` client (the ``mock`` extra), for test suites that already use one.

::

    client = MockFirestore()
    async with open_store(MockFirestoreEngine(client)) as store:
        await store.save_state("bank", "alice", {"balance": 100}, metadata)
    assert client.document("governors/bank/states/alice").get().to_dict()["data"] == {"balance": 100}

The client holds documents as Firestore would: as native maps. Each document has one field more than its own,
``_tai_state``, because a mock keeps neither revisions nor times. A mock also keeps the subcollections of a document
among its fields.

While the engine is open, nothing else may write to the client. The mock does not check preconditions or isolate
transactions; the engine does both itself, like the engine in memory.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import count
from typing import Any, Final

import msgspec

from tai_state.engines.api import Damage, Document, split
from tai_state.engines.memory import MemoryEngine
from tai_state.streams.settings import SystemClock
from tai_state.values.times import WallClock

OWN_FIELD: Final = "_tai_state"

# One counter for all clients, so that revisions grow even if an engine is replaced or a client is reset.
_revisions = count(1)


class _Own(msgspec.Struct, frozen=True):
    """What the engine keeps in ``_tai_state`` of a document.

    Attributes:
        revision: the revision of the last write.
        updated_us: the time of the last write.
        names: the names of the fields that the document holds; its other entries are subcollections.
        aside: the fields that cannot be held there, because a subcollection or ``_tai_state`` has the same name.
    """

    revision: int
    updated_us: int
    names: list[str]
    aside: dict[str, Any]


class _Data:
    """Takes the place of a client: what the client held at one moment."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data


class _MockDocuments:
    """Documents in a ``MockFirestore``, as :class:`~tai_state.engines.memory.Documents`."""

    def __init__(self, client: object) -> None:
        self._client = client

    def next_revision(self) -> int:
        return next(_revisions)

    def get(self, path: str) -> Document | None:
        entry = self._entry(path)
        own = None if entry is None else _own(entry)
        if entry is None or own is None:
            return None
        fields = own.aside | {name: entry[name] for name in own.names if name in entry}
        content: bytes | Damage
        try:
            content = msgspec.json.encode(fields)
        except (TypeError, ValueError, RecursionError) as error:
            content = Damage(f"is not a JSON object: {error}")
        return Document(*split(path), content, own.revision, own.updated_us)

    def ordered(self, collection: str, start: str, end: str | None) -> list[Document]:
        ids = sorted(each for each in self._entry(collection) or {} if each >= start and (end is None or each < end))
        documents = [self.get(f"{collection}/{each}") for each in ids]
        return [document for document in documents if document is not None]

    def parents(self, collection: str) -> set[str]:
        entries: dict[str, Any] = self._entry(collection) or {}
        return {name for name, entry in entries.items() if any(map(_has_document, _values(entry)))}

    def set(self, path: str, document: Document | None) -> None:
        if document is None:
            self._delete(path)
        else:
            self._put(document)

    def copy(self) -> _MockDocuments:
        return _MockDocuments(_Data(deepcopy(self._root())))

    def _put(self, document: Document) -> None:
        entry = self._ensure_entry(document.path)
        _remove_fields(entry)
        fields = document.fields()
        aside = {name: value for name, value in fields.items() if name in entry or name == OWN_FIELD}
        names = [name for name in fields if name not in aside]
        entry.update((name, fields[name]) for name in names)
        own = _Own(document.revision, document.updated_us, names, aside)
        entry[OWN_FIELD] = msgspec.to_builtins(own)

    def _delete(self, path: str) -> None:
        entry = self._entry(path)
        if entry is None:
            return
        _remove_fields(entry)
        collection, document_id = split(path)
        if not entry:
            (self._entry(collection) or {}).pop(document_id, None)

    def _root(self) -> dict[str, Any]:
        # The client's own methods would create a document when asked for it, and copy everything below it on reading.
        root: dict[str, Any] = getattr(self._client, "_data")  # noqa: B009 - resetting the client replaces it
        return root

    def _entry(self, path: str) -> dict[str, Any] | None:
        """The entry at the path of a document or a collection; None if there is none."""
        here: Any = self._root()
        for segment in path.split("/"):
            if not isinstance(here, dict) or segment not in here:
                return None
            here = here[segment]  # pyright: ignore[reportUnknownVariableType]
        return here if isinstance(here, dict) else None  # pyright: ignore[reportUnknownVariableType]

    def _ensure_entry(self, path: str) -> dict[str, Any]:
        """The same entry, created if there is none. A field with the name of a subcollection is set aside."""
        here = self._root()
        for segment in path.split("/"):
            own = _own(here)
            if own is not None and segment in own.names:
                own.names.remove(segment)
                own.aside[segment] = here.pop(segment)
                here[OWN_FIELD] = msgspec.to_builtins(own)
            here = here.setdefault(segment, {})
        return here


class MockFirestoreEngine(MemoryEngine):
    """Documents in a ``MockFirestore``; see :class:`~tai_state.engines.api.Engine` for the verbs.

    Args:
        client: a ``mockfirestore.MockFirestore``; another engine over it sees the same documents.
        clock: the engine's clock.

    Raises:
        TypeError: the client is not a ``MockFirestore``.
    """

    def __init__(self, client: object, clock: WallClock | None = None) -> None:
        if not isinstance(getattr(client, "_data", None), dict):
            raise TypeError(f"client must be a MockFirestore, not {type(client).__name__}")
        super().__init__(SystemClock() if clock is None else clock, _MockDocuments(client), "mockfirestore")


def _own(entry: dict[str, Any]) -> _Own | None:
    """What the engine keeps about an entry; None if the entry is not a document of the engine."""
    noted = entry.get(OWN_FIELD)
    try:
        return None if noted is None else msgspec.convert(noted, _Own)
    except msgspec.ValidationError:
        return None


def _has_document(collection: Any) -> bool:
    """Whether an entry is a collection with a document in it, or with one below it."""
    entries: list[dict[str, Any]] = [each for each in _values(collection) if isinstance(each, dict)]
    return any(_own(each) or any(map(_has_document, each.values())) for each in entries)


def _values(entry: Any) -> list[Any]:
    return list(entry.values()) if isinstance(entry, dict) else []  # pyright: ignore[reportUnknownArgumentType]


def _remove_fields(entry: dict[str, Any]) -> None:
    """Remove everything from an entry except its subcollections."""
    own = _own(entry)
    if own is not None:
        for name in (*own.names, OWN_FIELD):
            entry.pop(name, None)
