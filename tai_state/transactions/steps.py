"""A transaction's pending writes: for each state, its steps in order. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import msgspec

from tai_state.errors import StateNotFound, VersionConflict
from tai_state.history.folding import Reducers
from tai_state.history.recording import fold_drafts
from tai_state.streams.changes import Appended, Known
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.writing import Keep, kept_unknown, unchanged
from tai_state.transactions.recent import SeenState
from tai_state.values.expected import EXISTS, Expected, expectation, matches
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonState, StateSnapshot, with_data

Compose: TypeAlias = Callable[[Known], Composition]


class Step(msgspec.Struct, frozen=True):
    """Events of one state that are written together.

    Attributes:
        drafts: the events to write.
        metadata: who and why.
        compose: makes the composition from what is known of the state before the step.
        needs_state: whether compose uses the data before the step.
        must_live: whether the state must exist before the step and not be deleted.
        after_commit: runs once the transaction is committed and over, with the version of the state after the step.
    """

    drafts: tuple[Draft, ...]
    metadata: ChangeMetadata
    compose: Compose
    needs_state: bool = False
    must_live: bool = False
    after_commit: Callable[[int], Awaitable[None]] | None = None


def put_step(
    core: Core, stream: Stream, draft: Draft, metadata: ChangeMetadata, data: dict[str, Any], keep: Keep | None
) -> Step:
    """Write a state as a whole; with ``keep``, also with the fields of the state before it that its model ignores."""

    def compose(known: Known) -> Composition:
        whole = Composition((draft,), data)
        return whole if keep is None else kept_unknown(core, stream, whole, keep, known)

    if keep is None or draft.marker is not None:
        return Step((draft,), metadata, compose, needs_state=keep is not None)
    # An id that was made here stands for the event, whatever fields it keeps.
    return Step((msgspec.structs.replace(draft, state=None),), metadata, compose, needs_state=True)


def delete_step(draft: Draft, metadata: ChangeMetadata) -> Step:
    """Delete a state."""
    deletion = Composition((draft,), None)
    return Step((draft,), metadata, lambda _: deletion, must_live=True)


def log_step(core: Core, stream: Stream, draft: Draft, metadata: ChangeMetadata) -> Step:
    """Record an event that leaves the state as it is."""
    return Step((draft,), metadata, partial(unchanged, core, stream, draft), needs_state=True, must_live=True)


def record_step(
    core: Core, stream: Stream, drafts: tuple[Draft, ...], metadata: ChangeMetadata, reducers: Reducers
) -> Step:
    """Record events that the reducers fold into the state."""

    def compose(known: Known) -> Composition:
        return fold_drafts(core, reducers, stream, known, drafts)[0]

    return Step(drafts, metadata, compose, needs_state=True)


class Written:
    """What a transaction will write to one state.

    Args:
        core: the core of the store.
        stream: the state's paths.
        expected: what the first step expects; None: the version that was read, or any version if it was not read.

    Attributes:
        stream: as given.
        expected: as given.
        steps: the steps, in order.
        unmet: the error for a step whose expectation is not met; it counts unless an earlier call recorded all of the
            transaction.
        is_wrong: whether the first step expects something else than what was read.
        refusal: what composing for the commit raised: an error of the transaction's own, not of what others did.
    """

    def __init__(self, core: Core, stream: Stream, expected: Expected | None) -> None:
        self.stream = stream
        self.expected = expected
        self.steps: list[Step] = []
        self.unmet: VersionConflict | StateNotFound | None = None
        self.is_wrong: bool = False
        self.refusal: Exception | None = None
        self._core = core
        self._base: Known | None = None
        self._composed: list[Composition] = []  # of the first steps, on that base: what is read anew goes on from there

    @property
    def drafts(self) -> tuple[Draft, ...]:
        """The events of all steps."""
        return tuple([draft for step in self.steps for draft in step.drafts])

    @property
    def metadata(self) -> ChangeMetadata:
        """The metadata of the last step."""
        return self.steps[-1].metadata

    async def run_afterwards(self, appended: Appended) -> None:
        """Run what the steps want to run, unless an earlier call took them."""
        version = appended.events[0].version - 1
        for step in self.steps:
            version += len(step.drafts)
            if step.after_commit is not None and not appended.is_repeated:
                await step.after_commit(version)

    def unmet_by(self, expected: Expected, version: int, *, deleted: bool) -> VersionConflict | StateNotFound | None:
        """The error if the state, before a step, is not as the step expects it.

        Args:
            expected: what the step expects.
            version: the version of the state before the step.
            deleted: whether the state is deleted before the step.
        """
        said = expectation(expected, self.stream.governor_id, self.stream.state_id)
        if matches(said, version, deleted=deleted):
            return None
        path, name = self.stream.state, said if isinstance(said, int) else said.value
        return StateNotFound(path) if said is EXISTS else VersionConflict(path, name, version)

    def compose_as_expected(self, known: Known) -> Composition:
        """As :meth:`compose`, if all steps find the state as they expect it. What it raises is noted.

        Raises:
            VersionConflict, StateNotFound: a step does not.
        """
        try:
            if self.unmet is not None:
                raise self.unmet
            return self.compose(known)
        except Exception as error:
            self.refusal = error
            raise

    def compose(self, known: Known) -> Composition:
        """The composition of all steps, made from what is known of the state before the first one.

        Raises:
            StateNotFound: a step needs a live state, and the steps before it leave none.
        """
        if known is not self._base:
            self._base, self._composed = known, []
        for step in self.steps[len(self._composed) :]:
            self._composed.append(self._composed_by(step, known))
        drafts = [draft for composition in self._composed for draft in composition.drafts]
        return Composition(tuple(drafts), self._composed[-1].data)

    def _composed_by(self, step: Step, known: Known) -> Composition:
        """The composition of one more step."""
        if not self._composed:
            return step.compose(known)
        data = self._composed[-1].data
        if step.must_live and data is None:
            raise StateNotFound(self.stream.state)
        events = sum(len(composition.drafts) for composition in self._composed)
        head = msgspec.structs.replace(
            known.head,
            version=known.head.version + events,
            schema=self._core.settings.upcasting.schema,
            deleted=data is None,
        )
        return step.compose(Known(head, data))


def overlaid(seen: SeenState, written: Written) -> JsonState:
    """A state as it will be once written: new data, version, metadata and deletion; all else as before."""
    stream, composition = written.stream, written.compose(seen.known)
    before = seen.state or StateSnapshot[dict[str, Any]].unsaved(stream.governor_id, stream.state_id, {})
    version = before.version + len(composition.drafts)
    metadata = msgspec.structs.replace(written.metadata, parent_version=version - 1)
    return msgspec.structs.replace(with_data(before, composition.data), version=version, metadata=metadata)
