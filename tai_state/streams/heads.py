"""The heads that this store last saw. They save reads; they never decide a conflict."""

from __future__ import annotations

from collections import OrderedDict

from tai_state.streams.records import Head

HEADS_MAX = 8_192


class Heads:
    """Heads by the path of their state; the least recently stored head is dropped first."""

    def __init__(self) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heads)

    def get(self, path: str) -> Head | None:
        """The head last seen, if it is still remembered."""
        return self._heads.get(path)

    def put(self, path: str, head: Head) -> None:
        """Remember a head from an acknowledged commit or a read; an older head never replaces a newer one."""
        known = self._heads.get(path)
        if known is not None and (known.revision or 0) > (head.revision or 0):
            return
        self._heads[path] = head
        self._heads.move_to_end(path)
        if len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)

    def is_known(self, path: str, revision: int) -> bool:
        """Whether the head at this revision, or a newer one, is remembered."""
        known = self._heads.get(path)
        return known is not None and (known.revision or 0) >= revision

    def drop(self, path: str) -> None:
        """Forget a head that may be out of date."""
        self._heads.pop(path, None)
