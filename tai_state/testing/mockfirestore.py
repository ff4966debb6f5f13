"""The engine over a ``MockFirestore`` client (the ``mock`` extra), for suites that have its fixtures.

::

    client = MockFirestore()
    async with open_store(MockFirestoreEngine(client)) as store:
        await store.save_state("bank", "alice", {"balance": 100}, metadata)
    assert client.document("governors/bank/states/alice").get().to_dict()["data"] == {"balance": 100}

Documents stand in the client as Firestore would hold them, as native maps. Beside its own fields each has one more,
``_tai_state``, because a mock keeps neither revisions nor times. What a mock also does: it keeps a document's
subcollections among its fields.

The engine must be the client's only writer while it is open, in one process. The mock knows no preconditions and
isolates no transactions; the engine decides about both itself, as the one in memory does, and never asks the mock.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Final

import msgspec

from tai_state.engines.api import Damage, Document, split
from tai_state.engines.memory import MemoryEngine
from tai_state.streams.settings import SystemClock
from tai_state.values.times import WallClock

OWN_FIELD: Final = "_tai_state"

# One for all clients, so that revisions grow whatever becomes of an engine or of what its client holds.
_revisions = count(1)


class _Own(msgspec.Struct, frozen=True):
    """What the engine keeps in a document's ``_tai_state``.

    Attributes:
        revision: of the last write.
        updated_us: when it was last written.
        names: of the fields that stand in the document; its other entries are subcollections.
        aside: the fields for which that place is taken, by a subcollection or by this.
    """

    revision: int
    updated_us: int
    names: list[str]
    aside: dict[str, Any]


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
        except (TypeError, ValueError) as error:
            content = Damage(f"is not a JSON object: {error}")
        return Document(*split(path), content, own.revision, own.updated_us)

    def ordered(self, collection: str, start: str, end: str | None) -> list[Document]:
        ids = sorted(each for each in self._entry(collection) or {} if each >= start and (end is None or each < end))
        documents = [self.get(f"{collection}/{each}") for each in ids]
        return [document for document in documents if document is not None]

    def set(self, path: str, document: Document | None) -> None:
        if document is None:
            self._delete(path)
        else:
            self._put(document)

    def _put(self, document: Document) -> None:
        entry = self._made(document.path)
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
        # Asking the client for a document makes one, and reading one copies all that is below it.
        root: dict[str, Any] = getattr(self._client, "_data")  # noqa: B009 - resetting the client replaces it
        return root

    def _entry(self, path: str) -> dict[str, Any] | None:
        """What stands at the path of a document or a collection."""
        here: Any = self._root()
        for segment in path.split("/"):
            if not isinstance(here, dict) or segment not in here:
                return None
            here = here[segment]  # pyright: ignore[reportUnknownVariableType]
        return here if isinstance(here, dict) else None  # pyright: ignore[reportUnknownVariableType]

    def _made(self, path: str) -> dict[str, Any]:
        """The same, made where nothing is; a field in the way of a subcollection steps aside."""
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
        TypeError: it is none.
    """

    def __init__(self, client: object, clock: WallClock | None = None) -> None:
        if not isinstance(getattr(client, "_data", None), dict):
            raise TypeError(f"a MockFirestore is needed, not a {type(client).__name__}")
        super().__init__(SystemClock() if clock is None else clock, _MockDocuments(client), "mockfirestore")


def _own(entry: dict[str, Any]) -> _Own | None:
    """What the engine noted about an entry; None where there is no document of its."""
    noted = entry.get(OWN_FIELD)
    try:
        return None if noted is None else msgspec.convert(noted, _Own)
    except msgspec.ValidationError:
        return None


def _remove_fields(entry: dict[str, Any]) -> None:
    """Leave the subcollections only."""
    own = _own(entry)
    if own is not None:
        for name in (*own.names, OWN_FIELD):
            entry.pop(name, None)
