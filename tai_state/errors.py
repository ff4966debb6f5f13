"""Every error that tai-state raises, under one root.

::

    TaiStateError
    ├── NotFound
    │   ├── StateNotFound          no such state, or it is deleted
    │   ├── GovernorNotFound       no such governor
    │   ├── StoreNotFound          no store at that address
    │   └── EmulatorNotFound       no Firestore emulator is installed here
    ├── Rejected                   refused before anything was sent
    │   ├── InvalidId              an id that cannot be stored
    │   ├── InvalidData            data that is not plain JSON
    │   ├── DocumentTooLarge       one document over the engine's limit
    │   ├── CommitTooLarge         one commit over the engine's limit
    │   ├── UnindexedField         a query on a field the store does not index
    │   └── UnknownStore           an address or option that names no store
    ├── Conflict                   somebody else was first; nothing was written
    │   ├── VersionConflict        the state is not at the expected version
    │   ├── IdempotencyConflict    the event id already stands for other content
    │   ├── GovernorExists         a restore would write into what is there
    │   ├── ImportConflict         a row's place is taken by another event
    │   ├── StaleRead              what was read is older than what is known
    │   ├── CausalityViolation     what was read lacks what the reader has seen
    │   ├── ConflictResolutionFailed  rival versions, and nothing decides between them
    │   ├── TransactionFailed      others were faster each time
    │   ├── LockAlreadyHeld        somebody holds the lock, and the caller does not wait
    │   ├── LockAcquisitionFailed  the lock was not to be had in the time given
    │   ├── LockLost               the lease is over
    │   ├── DeadlockDetected       leases that wait for each other in a circle
    │   └── CommitRefused          a precondition failed (engines only)
    ├── CommitOutcomeUnknown       the commit may or may not have happened
    ├── Inconsistent               what is stored does not add up
    │   ├── EventSourcingError     stream and state disagree
    │   │   └── ReducerMissing     a stream needs a reducer that was not given
    │   ├── NotRetained            the past asked for was cleaned up
    │   ├── CorruptDocument        a stored document is damaged
    │   ├── IncompatibleFormat     written by another program or a newer release
    │   └── SerializationError     stored data does not fit the type asked for
    └── Unavailable                the engine could not do it now
        ├── StoreUnavailable       unreachable, disk full, disk error
        │   └── StoreUnusable      no such folder, no permission: until somebody changes that
        └── StoreTimeout           no answer in time

Errors carry fields, not only text: ``error.fields()`` gives them by name. ``is_transient`` says whether the
same call may succeed later, ``backoff_seconds`` how long to wait first, ``exit_code`` what the command line
ends with. No error text contains state data.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(eq=False)
class TaiStateError(Exception):
    """The root of all errors of tai-state. Catch this to catch them all."""

    is_transient: ClassVar[bool] = False
    backoff_seconds: ClassVar[float] = 5.0
    exit_code: ClassVar[int] = 70

    def __post_init__(self) -> None:
        # Exception.__reduce__ rebuilds from args: with the fields in there, errors pickle.
        self.args: tuple[Any, ...] = tuple(getattr(self, field.name) for field in fields(self))

    def fields(self) -> dict[str, Any]:
        """The error's facts by name, as the command line prints them with ``--json``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(eq=False)
class NotFound(TaiStateError):
    """What was asked for does not exist."""

    path: str
    exit_code: ClassVar[int] = 1


@dataclass(eq=False)
class StateNotFound(NotFound):
    """The state was never written, or its newest version is a deletion.

    You do not get it from ``batch_get_states`` (``None`` stands for a missing one) nor from ``save_state``
    with ``NO_STATE``. What to do: create the state, or look at ``history`` for who deleted it.
    """

    def __str__(self) -> str:
        return f"there is no state at {self.path!r}"


@dataclass(eq=False)
class GovernorNotFound(NotFound):
    """Nothing was ever written under this governor. What to do: check the id's spelling."""

    def __str__(self) -> str:
        return f"there is no governor at {self.path!r}"


@dataclass(eq=False)
class StoreNotFound(NotFound):
    """There is no store at this address, and the call was not allowed to create one.

    What to do: check the path, the root and the namespace, or write something first; reading never creates a store.
    """

    def __str__(self) -> str:
        return f"there is no store at {self.path!r}; check the address, its root and namespace (reading creates none)"


@dataclass(eq=False)
class EmulatorNotFound(NotFound):
    """No Firestore emulator can be started here; ``path`` names what was looked for. What to do: install one."""

    def __str__(self) -> str:
        return (
            f"no Firestore emulator: there is no {self.path}; install Java and one of"
            " `gcloud components install cloud-firestore-emulator`,"
            " `apt-get install google-cloud-cli-firestore-emulator`, `firebase setup:emulators:firestore`,"
            " or set FIRESTORE_EMULATOR_HOST to one that runs"
        )


@dataclass(eq=False)
class Rejected(TaiStateError):
    """The input cannot be stored; nothing was sent to the engine."""

    exit_code: ClassVar[int] = 2


@dataclass(eq=False)
class InvalidId(Rejected):
    """An id is empty, too long, not text, or not valid Unicode.

    You do not get it for ``/``, ``..`` or control characters: those are escaped.
    """

    what: str
    limit: str

    def __str__(self) -> str:
        return f"{self.what} must be {self.limit}"


@dataclass(eq=False)
class InvalidData(Rejected):
    """Data is not plain JSON (or not a JSON object where one is needed).

    What to do: convert it first; dates as text, sets as lists, no NaN or infinity.
    """

    what: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.what} (at {self.path})" if self.path else self.what


@dataclass(eq=False)
class DocumentTooLarge(Rejected):
    """One document would be larger than the engine takes. What to do: split the state, or store a reference."""

    path: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.path!r} would take {self.size:,} bytes and the limit is {self.limit:,}: split the state"


@dataclass(eq=False)
class CommitTooLarge(Rejected):
    """One atomic commit would be larger than the engine takes; it is never split silently."""

    what: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"a commit of {self.size:,} {self.what} is over the limit of {self.limit:,}: write less at once"


@dataclass(eq=False)
class UnindexedField(Rejected):
    """``find_states`` was asked about a field that the store was not opened with."""

    what: str
    indexed: Sequence[str]

    def __str__(self) -> str:
        named = ", ".join(self.indexed) or "none"
        return f"the field {self.what!r} is not indexed (indexed: {named}); open the store with indexed=(…)"


@dataclass(eq=False)
class UnknownStore(Rejected):
    """A store's address or option means nothing to this installation."""

    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}"


@dataclass(eq=False)
class Conflict(TaiStateError):
    """Somebody else was first. Nothing was written."""

    exit_code: ClassVar[int] = 3


@dataclass(eq=False)
class VersionConflict(Conflict):
    """The state is not at the version the writer expected.

    ``events`` holds the events the writer had not seen (at most 100, oldest first). What to do: read the
    state again and decide again; ``handle.update`` does that for you. Never re-send blindly.
    """

    path: str
    expected: int | str
    actual: int
    events: Sequence[Any] = ()
    backoff_seconds: ClassVar[float] = 0.01

    def __str__(self) -> str:
        return f"{self.path!r} is at version {self.actual}, expected {self.expected}: read it again and decide again"

    def fields(self) -> dict[str, Any]:
        """As for every error; the unseen events by version and id only (no state data)."""
        seen = [{"version": event.version, "id": event.event_id, "action": event.action} for event in self.events]
        return {"path": self.path, "expected": self.expected, "actual": self.actual, "events": seen}


@dataclass(eq=False)
class IdempotencyConflict(Conflict):
    """The caller's event id was used before, for something else. What to do: use a new id for a new change.

    ``differs`` names what differs: action, payload, data, changed_by, reason, context or timestamp. It is empty where
    the id stands at another state or in another batch, or where the event was cleaned up since.
    """

    event_id: str
    path: str
    differs: Sequence[str] = ()

    def __str__(self) -> str:
        what = f": it differs in {', '.join(self.differs)}" if self.differs else ""
        return f"event id {self.event_id!r} is already used by a different change of {self.path!r}{what}"


@dataclass(eq=False)
class GovernorExists(Conflict):
    """A governor to be restored exists already. What to do: restore it into another store, or under another root."""

    path: str

    def __str__(self) -> str:
        return f"the governor of {self.path!r} exists already: restore into another store"


@dataclass(eq=False)
class ImportConflict(Conflict):
    """A machine has another event where a row of the file would go.

    What to do: import into a governor of its own, or undo the change of the file's earlier rows.
    """

    row: int
    path: str

    def __str__(self) -> str:
        return f"row {self.row} does not fit: {self.path!r} holds another event"


@dataclass(eq=False)
class TransactionFailed(Conflict):
    """A transaction's function ran again and again, and each time others were faster; nothing was written.

    You do not get it for an error of the function's own, nor where an answer was lost (``CommitOutcomeUnknown``).
    What to do: try later, or let the writers of hot states take turns with a lock.
    """

    attempts: int
    cause: str
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 0.05

    def __str__(self) -> str:
        return f"others were faster {self.attempts} times: {self.cause}"


@dataclass(eq=False)
class StaleRead(Conflict):
    """What was read is older than a version that is known to exist; ``clocks`` are its clock and the known one's.

    You do not get it for versions that are concurrent, nor from the store's own reads, which see every acknowledged
    change. What to do: read again, or let ``EventualConsistency.read_repair`` bring the store up to date.
    """

    path: str
    clocks: Sequence[Mapping[str, int]]
    is_transient: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"what was read of {self.path!r} is older than a version known: read again, or repair it"


@dataclass(eq=False)
class CausalityViolation(Conflict):
    """What was read does not include what its reader has seen; ``clocks`` are its clock and the reader's.

    Unlike for ``StaleRead``, it may hold changes that the reader has not seen. What to do: read where those changes
    were made, or sync the two stores first.
    """

    path: str
    clocks: Sequence[Mapping[str, int]]

    def __str__(self) -> str:
        return f"what was read of {self.path!r} does not include what its reader has seen: sync the stores first"


@dataclass(eq=False)
class ConflictResolutionFailed(Conflict):
    """Two versions are concurrent and the resolver has no rule to decide between them; ``clocks`` are theirs.

    You do not get it where one version knew of the other. What to do: give ``Causal`` a fallback.
    """

    path: str
    clocks: Sequence[Mapping[str, int]]

    def __str__(self) -> str:
        return f"versions of {self.path!r} are concurrent and nothing decides between them: give a fallback resolver"


@dataclass(eq=False)
class LockAlreadyHeld(Conflict):
    """Somebody else holds the lock, and the caller does not wait (``wait_seconds=0``).

    ``remaining`` is how many seconds are left if the holder does not renew; None where that is not known. You do not
    get it for a lock whose time is over: that is taken over. What to do: wait for it, or try later.
    """

    resource: str
    holder: str | None
    remaining: float | None
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 1.0

    def __str__(self) -> str:
        left = "" if self.remaining is None else f", for {self.remaining:.1f} s unless that is renewed"
        return f"{self.resource!r} is locked by {self.holder or 'somebody'}{left}"


@dataclass(eq=False)
class LockAcquisitionFailed(Conflict):
    """The lock was not to be had in the time given, or the engine's answers did not come in that time.

    ``holder`` and ``remaining`` are as last seen; None where nothing was seen. The caller holds nothing: a lock that
    was granted by an answer that never came ends by itself. What to do: try later, or look who holds it so long.
    """

    resource: str
    holder: str | None
    remaining: float | None
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 1.0

    def __str__(self) -> str:
        seen = "" if self.holder is None else f" (last seen held by {self.holder})"
        return f"the lock on {self.resource!r} was not to be had in time{seen}"


@dataclass(eq=False)
class LockLost(Conflict):
    """The lease is over: it was not renewed in time, was released, or somebody took the lock over.

    ``holder`` has the lock now, for ``remaining`` seconds if they do not renew; None where that is not known. From a
    write with a fence it means that nothing was written; out of a ``lock`` block, that its last steps may have happened
    without the lock. What to do: acquire it again, read again, decide again.
    """

    resource: str
    holder: str | None = None
    remaining: float | None = None

    def __str__(self) -> str:
        now = "" if self.holder is None else f" to {self.holder}"
        return f"the lock on {self.resource!r} was lost{now}: acquire it again and decide again"


@dataclass(eq=False)
class DeadlockDetected(Conflict):
    """Holders of locks wait for each other, and the one that began to wait last gives up.

    ``cycle`` names the resources: each is held by somebody who waits for the next one, the last by somebody who waits
    for the first. What to do: leave the block of the lock that you hold, so that the others go on, and try again; take
    locks in the same order everywhere, or all at once.
    """

    cycle: Sequence[str]
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 0.1

    def __str__(self) -> str:
        return f"a deadlock: {' → '.join([*self.cycle, self.cycle[0]])}; release a lock and try again"


@dataclass(eq=False)
class CommitRefused(Conflict):
    """A precondition of an engine's commit did not hold; nothing of the commit was applied.

    Only engines raise it; the store turns it into the conflict it means. ``path`` is the first write that was
    refused, or empty where the engine cannot tell.
    """

    path: str

    def __str__(self) -> str:
        return f"the precondition on {self.path!r} did not hold"


@dataclass(eq=False)
class CommitOutcomeUnknown(TaiStateError):
    """The engine did not answer in time, so the change may or may not be stored.

    It is never reported as failed. What to do: where the caller gave ids, ``event_ids`` names them: call again with the
    same ``event_id``; if the first one was applied its result comes back, else it is applied now. Without ids, look
    whether it was applied before trying again.
    """

    event_ids: Sequence[str]
    paths: Sequence[str]
    exit_code: ClassVar[int] = 5

    def __str__(self) -> str:
        advice = "retry with the same event ids" if self.event_ids else "read what is stored before you retry"
        return f"the outcome of the change to {', '.join(self.paths)} is unknown; {advice}"


@dataclass(eq=False)
class Inconsistent(TaiStateError):
    """What is stored does not add up. ``tai-state verify`` shows where, ``recover`` mends states."""

    path: str
    what: str
    exit_code: ClassVar[int] = 4

    def __str__(self) -> str:
        return f"{self.path!r}: {self.what}"


@dataclass(eq=False)
class EventSourcingError(Inconsistent):
    """A stream and its state disagree. What to do: ``tai-state verify`` shows where.

    ``recover`` mends states. It cannot mend events: for them, restore a backup.
    """


@dataclass(eq=False)
class ReducerMissing(EventSourcingError):
    """A stream cannot be folded without a reducer that was not given: pass ``reducers``, or ``--app``."""


@dataclass(eq=False)
class NotRetained(Inconsistent):
    """The version asked for was removed by cleanup. What to do: ask for a later one, or restore an export."""


@dataclass(eq=False)
class CorruptDocument(Inconsistent):
    """A stored document (or the file itself) is damaged; it is reported and never served."""


@dataclass(eq=False)
class IncompatibleFormat(Inconsistent):
    """Written by another program, or by a newer release. What to do: use that release."""


@dataclass(eq=False)
class SerializationError(Inconsistent):
    """Stored data is intact but does not fit the model asked for. What to do: add an upcaster."""


@dataclass(eq=False)
class Unavailable(TaiStateError):
    """The engine could not do it now.

    From ``Engine.commit``, ``unknown`` tells whether the commit may have been applied all the same.
    """

    operation: str
    code: str
    what: str = ""
    unknown: bool = False
    is_transient: ClassVar[bool] = True
    exit_code: ClassVar[int] = 5

    def __str__(self) -> str:
        return f"{self.operation} failed with {self.code}" + (f": {self.what}" if self.what else "")


@dataclass(eq=False)
class StoreUnavailable(Unavailable):
    """The engine is unreachable, its disk is full or failing. What to do: see ``what``, then try again."""

    backoff_seconds: ClassVar[float] = 0.5


@dataclass(eq=False)
class StoreUnusable(StoreUnavailable):
    """The engine cannot do it until somebody changes something, such as a folder or a permission.

    The same call fails until then, so a loop that tries again must end. What to do: see ``what``.
    """

    is_transient: ClassVar[bool] = False


@dataclass(eq=False)
class StoreTimeout(Unavailable):
    """The engine gave no answer in time, or another process held it too long. What to do: try again."""

    backoff_seconds: ClassVar[float] = 1.0
