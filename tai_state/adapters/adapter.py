"""What the adapters share: a kind of machine of another library, and the handles on those that are stored."""

from __future__ import annotations

from typing import Generic

from tai_state.adapters.attributes import Attributes, C
from tai_state.adapters.handle import AdaptedMachine, AfterCommit
from tai_state.adapters.library import Library
from tai_state.streams.core import HasCore, core_of
from tai_state.values.checks import check_callable
from tai_state.values.metadata import ChangeMetadata, check_default


class Adapter(Generic[C]):
    """A kind of machine of another library, and a store. The base of the adapters."""

    def __init__(
        self,
        store: HasCore,
        library: Library,
        attributes: Attributes[C],
        after_commit: AfterCommit[C] | None,
        timeout_seconds: float,
        metadata: ChangeMetadata | None,
    ) -> None:
        """For the library's own use; not part of the public interface."""
        core_of(store)
        if after_commit is not None:
            check_callable(after_commit, "after_commit")
        self._store = store
        self._library = library
        self._attributes = attributes
        self._after_commit = after_commit
        self._timeout_seconds = timeout_seconds
        self._metadata = check_default(metadata)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._library.name!r}>"

    def machine(self, governor_id: str, state_id: str, *, metadata: ChangeMetadata | None = None) -> AdaptedMachine[C]:
        """A handle on one stored machine. It reads nothing.

        Args:
            governor_id: the owner and namespace.
            state_id: the machine under it.
            metadata: who makes the changes through this handle and why, unless a change names it; by default, what the
                adapter or the store was made with.

        Raises:
            InvalidId: the ids cannot be stored.
            InvalidData: the metadata cannot be stored.
        """
        return AdaptedMachine(
            self._store,
            self._store.core.layout.stream(governor_id, state_id),
            self._library,
            self._attributes,
            self._after_commit,
            self._timeout_seconds,
            check_default(metadata) or self._metadata,
        )
