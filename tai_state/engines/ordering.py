"""The order of commits, for engines where it can be read cheaply: what feeds of a whole store rest on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, cast

from tai_state.engines.api import Document, Engine
from tai_state.engines.paging import Fetch, Paged


class CommitOrdered(Protocol):
    """What an engine has besides the verbs where its commits have an order that can be read cheaply."""

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:
        """The documents of a collection of events that were last written after a revision, in the order of revisions.

        Whatever becomes visible later, to any user of the store, has a greater revision than all that is given here: so
        the revision of the last document is where to go on, and nothing is missed. A document that was written again
        has its newest revision only; one that was deleted is not told. Documents of one commit come in the order of
        their ids.

        Args:
            collection: one of events: its path ends in ``/events``.
            after: a revision; 0 is before all.
            limit: about as many documents: at most those of the commit with which so many are reached are given, and
                of that one all. None: all that there are.

        Raises:
            ValueError: the collection is not one of events.
        """
        ...


def commit_ordered(engine: Engine) -> CommitOrdered | None:
    """The engine by the order of its commits; None where it has none."""
    return cast("CommitOrdered", engine) if engine.capabilities.commit_order else None


def is_of_events(collection: str) -> bool:
    """Whether a collection is one of events: those of a governor, and any other of that name."""
    return collection.endswith("/events")


def check_is_of_events(collection: str) -> None:
    """Refuse the order of commits of any other collection.

    Raises:
        ValueError: it is not one of events.
    """
    if not is_of_events(collection):
        raise ValueError(f"the order of commits is kept for collections of events, not for {collection!r}")


def whole_commits(fetch: Callable[[], Awaitable[Sequence[Document] | None]], limit: int | None) -> Fetch[Document]:
    """The same pages of documents in the order of their revisions, up to the commit with which so many are reached.

    Args:
        fetch: gives the pages.
        limit: None: to the end.
    """
    given = 0
    last: int | None = None
    is_full = limit is not None and limit <= 0

    async def fetch_some() -> Sequence[Document] | None:
        nonlocal given, last, is_full
        found = None if is_full else await fetch()
        if found is None or limit is None:
            return found
        taken: list[Document] = []
        for document in found:
            if given >= limit and document.revision != last:
                is_full = True
                break
            taken.append(document)
            given, last = given + 1, document.revision
        return taken

    return fetch_some
