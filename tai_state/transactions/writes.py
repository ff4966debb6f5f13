"""The writes that a transaction will make at its end. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tai_state.errors import InvalidData
from tai_state.streams.changes import Appended
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.repeating import Results
from tai_state.transactions.recent import SeenState, met
from tai_state.transactions.steps import Step, Written
from tai_state.values.expected import Expected, expectation


class Writes:
    """What a transaction will write, by the path of each state, in the order of their first writes.

    Args:
        core: the core of the store.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._written: dict[str, Written] = {}
        self._ids: set[str] = set()
        self._committed: list[tuple[Written, Appended]] = []

    def __len__(self) -> int:
        return len(self._written)

    def __iter__(self) -> Iterator[Written]:
        return iter(self._written.values())

    def __contains__(self, path: str) -> bool:
        return path in self._written

    def get(self, path: str) -> Written | None:
        """What will be written to a state; None: nothing."""
        return self._written.get(path)

    @property
    def paths(self) -> set[str]:
        """The paths of the states."""
        return set(self._written)

    def committed(self, results: Results) -> list[tuple[Written, Appended]]:
        """Each state that was written, with what was recorded of it, by the results of the commit."""
        self._committed = [(each, done) for each, done in zip(self, results, strict=True) if done is not None]
        return self._committed

    async def run_afterwards(self) -> None:
        """Run what the steps want to run once they are committed."""
        for written, appended in self._committed:
            await written.run_afterwards(appended)

    def add(self, stream: Stream, step: Step, expected: Expected | None, seen: SeenState | None) -> None:
        """Add a write.

        Args:
            stream: the stream of the state.
            step: the write.
            expected: what it expects.
            seen: the state as the transaction has read it; None: it has not.

        Raises:
            InvalidData: two events have the same id, or it is not known what a further write would find.
            VersionConflict: after the writes so far, the state is not as expected.
        """
        if expected is not None:
            expectation(expected, stream.governor_id, stream.state_id)
        ids = [stream.marker(draft.event_id) for draft in step.drafts if draft.marker is not None]
        if not self._ids.isdisjoint(ids):
            raise InvalidData("two events of one transaction have the same event id")
        written = self._written.get(stream.state)
        if written is None:
            written = Written(self._core, stream, expected)
        elif expected is not None:
            self._check_left(written, expected, seen, has_ids=bool(self._ids or ids))
        self._ids.update(ids)
        written.steps.append(step)
        self._written[stream.state] = written

    def _check_left(self, written: Written, expected: Expected, seen: SeenState | None, *, has_ids: bool) -> None:
        """Check that the writes so far leave a state as a further write expects it, unless an id may be known."""
        if seen is None:
            raise InvalidData("a second write of a state can have expected only after a read of that state")
        is_deleted = written.compose(seen.known).data is None
        unmet = written.unmet_by(expected, seen.version + len(written.drafts), deleted=is_deleted)
        if unmet is not None and not has_ids:
            raise met(self._core, unmet)
        written.unmet = written.unmet or unmet
