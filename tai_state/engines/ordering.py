"""The order of commits, for engines that can read it cheaply; feeds of a whole store are based on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

from tai_state.engines.api import Document, Engine
from tai_state.engines.paging import Fetch, Paged
from tai_state.values.checks import whole_option

_REVISION_MAX: Final = 2**63 - 2


class CommitOrdered(Protocol):
    """What an engine offers, besides the verbs, if it can read the order of its commits cheaply."""

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:
        """The documents of a collection of events that were last written after a revision, in the order of revisions.

        A document that becomes visible later, to any user of the store, has a greater revision than all documents
        returned here. So a caller that continues after the last document's revision misses nothing. A document that was
        written again appears only at its newest revision; a deleted document does not appear. Documents of one commit
        come in the order of their ids.

        Args:
            collection: a collection of events; its path ends in ``/events``.
            after: a revision; 0 is before all others.
            limit: stop after the commit with which this many documents are reached; that commit is returned as a whole,
                so a few more may come. None: no limit.

        Raises:
            ValueError: the collection is not a collection of events, or a number is negative or too large.
            TypeError: ``after`` or ``limit`` is not a whole number.
        """
        ...


def commit_ordered(engine: Engine) -> CommitOrdered | None:
    """The engine as :class:`CommitOrdered`; None if it does not offer that."""
    return cast("CommitOrdered", engine) if engine.capabilities.commit_order else None


def is_of_events(collection: str) -> bool:
    """Whether a collection holds events: that of a governor, or any other of that name."""
    return collection.endswith("/events")


def check_changed(collection: str, after: int, limit: int | None) -> None:
    """Check the arguments of :meth:`CommitOrdered.changed`; it says what is raised."""
    whole_option(after, "after", 0, _REVISION_MAX)
    if limit is not None:
        whole_option(limit, "limit", 0)
    if not is_of_events(collection):
        raise ValueError(f"the order of commits can be read only for collections of events, not for {collection!r}")


def whole_commits(fetch: Callable[[], Awaitable[Sequence[Document] | None]], limit: int | None) -> Fetch[Document]:
    """The same pages, cut after the commit with which ``limit`` documents are reached.

    Args:
        fetch: returns pages of documents in the order of their revisions.
        limit: how many documents to reach; None: no limit.
    """
    given = 0
    last: int | None = None
    is_full = limit == 0

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
