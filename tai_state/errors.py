"""Every error that tai-state raises, under one root.

::

    TaiStateError
    ├── NotFound
    │   ├── StateNotFound          no such state, or it is deleted
    │   ├── GovernorNotFound       no such governor
    │   ├── StoreNotFound          no store at that address
    │   ├── LockNotFound           no lock to take away (command line only)
    │   ├── StoreNotNamed          no store to retire (command line only)
    │   └── EmulatorNotFound       no Firestore emulator is installed here
    ├── Rejected                   refused before anything was sent
    │   ├── InvalidId              an id that cannot be stored
    │   ├── InvalidData            data that is not plain JSON
    │   ├── DocumentTooLarge       one document over the engine's limit
    │   ├── CommitTooLarge         one commit over the engine's limit
    │   ├── UnindexedField         a query on a field the store does not index
    │   ├── InvalidDefinition      a machine's definition contradicts itself
    │   └── UnknownStore           an address or option that this installation does not know
    ├── Conflict                   another writer was first; nothing was written
    │   ├── VersionConflict        the state is not at the expected version
    │   ├── IdempotencyConflict    the event id is already used by a different change
    │   ├── GovernorExists         a restore would write into a governor that exists
    │   ├── ImportConflict         a different event is stored where a row would go
    │   ├── StaleRead              the value read is older than a version known to exist
    │   ├── CausalityViolation     the value read lacks changes that its reader has seen
    │   ├── ConflictResolutionFailed  rival versions, and no rule decides between them
    │   ├── TransactionFailed      other writers were faster at every attempt
    │   ├── LockAlreadyHeld        another holder has the lock, and the caller does not wait
    │   ├── LockAcquisitionFailed  the lock could not be acquired in time
    │   ├── LockLost               the lease has ended
    │   ├── DeadlockDetected       lock holders wait for each other in a circle
    │   └── CommitRefused          a precondition failed (engines only)
    ├── TransitionRefused          a machine must not take a step; nothing was written
    │   ├── InvalidTransition      its rules do not allow the step
    │   ├── PreconditionFailed     an obligation of the step is not proven
    │   ├── InvariantViolation     an invariant would not hold after the step
    │   └── ConcurrentModification the machine is not at the version that its caller expected
    ├── CommitOutcomeUnknown       the commit may or may not have happened
    ├── Inconsistent               the stored data contradicts itself
    │   ├── EventSourcingError     stream and state disagree
    │   │   └── ReducerMissing     a stream needs a reducer that was not given
    │   ├── NotRetained            the history asked for was cleaned up
    │   ├── CorruptDocument        a stored document is damaged
    │   ├── IncompatibleFormat     written by another program or a newer release
    │   ├── SerializationError     stored data does not fit the type asked for
    │   └── UnknownMachineState    a stored machine is in a state that its definition does not know
    └── Unavailable                the engine cannot do it now
        ├── StoreUnavailable       unreachable, disk full, disk error
        │   └── StoreUnusable      fails until something changes: no such folder, no permission
        └── StoreTimeout           no answer in time

Errors carry fields as well as text: ``error.fields()`` returns them by name. ``is_transient`` says whether the same
call may succeed later, and ``backoff_seconds`` how long to wait before that. ``exit_code`` is the code with which the
command line ends. No error text contains state data.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(eq=False)
class TaiStateError(Exception):
    """The root of all tai-state errors. Catch it to catch them all."""

    is_transient: ClassVar[bool] = False
    backoff_seconds: ClassVar[float] = 5.0
    exit_code: ClassVar[int] = 70

    def __post_init__(self) -> None:
        # Exception.__reduce__ rebuilds an error from args: with the fields in there, errors can be pickled.
        self.args: tuple[Any, ...] = tuple(getattr(self, field.name) for field in fields(self))

    def fields(self) -> dict[str, Any]:
        """The error's fields by name, as the command line prints them with ``--json``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(eq=False)
class NotFound(TaiStateError):
    """What was asked for does not exist."""

    path: str
    exit_code: ClassVar[int] = 1


@dataclass(eq=False)
class StateNotFound(NotFound):
    """The state was never written, or its newest version is a deletion.

    ``batch_get_states`` does not raise it (it returns ``None`` for a missing state), nor does ``save_state`` with
    ``NO_STATE``. What to do: create the state, or read its ``history`` to see who deleted it.

    If a version was asked for that the state has not reached, ``version`` is that version, and ``newest`` the newest
    one that there is.
    """

    version: int | None = None
    newest: int | None = None

    def __str__(self) -> str:
        if self.version is None:
            return f"there is no state at {self.path!r}"
        return f"there is no version {self.version} of {self.path!r}: its newest version is {self.newest}"

    def fields(self) -> dict[str, Any]:
        """As for every error; the versions only if one was asked for."""
        return {name: value for name, value in super().fields().items() if value is not None}


@dataclass(eq=False)
class GovernorNotFound(NotFound):
    """Nothing was ever written under this governor. What to do: check the spelling of the id."""

    def __str__(self) -> str:
        return f"there is no governor at {self.path!r}"


@dataclass(eq=False)
class StoreNotFound(NotFound):
    """There is no store at this address, and the call was not allowed to create one.

    What to do: check the path, the root and the namespace, or write something first. Reading never creates a store.
    """

    def __str__(self) -> str:
        return f"there is no store at {self.path!r}; check the address, root and namespace (reading never creates one)"


@dataclass(eq=False)
class LockNotFound(NotFound):
    """``tai-state unlock`` found no lock to take away. What to do: check the spelling, or list the locks."""

    def __str__(self) -> str:
        return f"there is no lock to take away at {self.path!r}; `tai-state locks` lists those that there are"


@dataclass(eq=False)
class StoreNotNamed(NotFound):
    """``tai-state retire`` found no state that a store with the id ``path`` had changed. What to do: check the id."""

    def __str__(self) -> str:
        return f"no clock of a state names a store {self.path!r}: `tai-state history --json` shows clocks"


@dataclass(eq=False)
class EmulatorNotFound(NotFound):
    """No Firestore emulator can be started here; ``path`` names what is missing. What to do: install it."""

    def __str__(self) -> str:
        return (
            f"no Firestore emulator: {self.path} not found; install Java and one of"
            " `gcloud components install cloud-firestore-emulator`,"
            " `apt-get install google-cloud-cli-firestore-emulator`, `firebase setup:emulators:firestore`,"
            " or set FIRESTORE_EMULATOR_HOST to the address of a running emulator"
        )


@dataclass(eq=False)
class Rejected(TaiStateError):
    """The input cannot be stored; nothing was sent to the engine."""

    exit_code: ClassVar[int] = 2


@dataclass(eq=False)
class InvalidId(Rejected):
    """An id is empty, too long, not text, or not valid Unicode.

    ``/``, ``..`` and control characters are allowed: they are escaped.
    """

    what: str
    limit: str

    def __str__(self) -> str:
        return f"{self.what} must be {self.limit}"


@dataclass(eq=False)
class InvalidData(Rejected):
    """Data is not plain JSON (or not a JSON object where one is needed).

    What to do: convert it first: dates to text, sets to lists, NaN and infinity to something else.
    """

    what: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.what} (at {self.path})" if self.path else self.what


@dataclass(eq=False)
class DocumentTooLarge(Rejected):
    """One document would be larger than the engine allows. What to do: split the state, or store a reference."""

    path: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.path!r} would take {self.size:,} bytes, but the limit is {self.limit:,}: split the state"


@dataclass(eq=False)
class CommitTooLarge(Rejected):
    """One atomic commit would be larger than the engine allows; it is never split silently."""

    what: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"a commit of {self.size:,} {self.what} is over the limit of {self.limit:,}: write less at once"


@dataclass(eq=False)
class InvalidDefinition(Rejected):
    """The definition of a machine, named by ``path``, contradicts itself or has a part that can never be used.

    A machine of another library has a part that cannot be stored.

    What to do: see ``what``.
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"the definition {self.path!r} is not valid: {self.what}"


@dataclass(eq=False)
class UnindexedField(Rejected):
    """``find_states`` was asked about a field that the store does not index."""

    what: str
    indexed: Sequence[str]

    def __str__(self) -> str:
        named = ", ".join(self.indexed) or "none"
        return f"the field {self.what!r} is not indexed (indexed: {named}); open the store with indexed=(…)"


@dataclass(eq=False)
class UnknownStore(Rejected):
    """This installation does not understand the address of a store, or one of its options."""

    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}"


@dataclass(eq=False)
class Conflict(TaiStateError):
    """Another writer was first. Nothing was written."""

    exit_code: ClassVar[int] = 3


@dataclass(eq=False)
class VersionConflict(Conflict):
    """The state is not at the version that the writer expected.

    ``events`` holds the newest events that the writer had not seen, oldest first: at most 100, and at most 1 MiB (but
    at least the last one). ``left_out`` says how many older ones are not among them. What to do: read the state again
    and decide again; ``handle.update`` does that for you. Never send the same change again blindly.
    """

    path: str
    expected: int | str
    actual: int
    events: Sequence[Any] = ()
    backoff_seconds: ClassVar[float] = 0.01

    def __str__(self) -> str:
        names_version = isinstance(self.expected, int)
        advice = "read it again and decide again" if names_version else "to change it, pass the version that you expect"
        said = f"{self.path!r} is at version {self.actual}, expected {self.expected}: {advice}"
        return f"{said} (events leaves out the oldest {self.left_out})" if self.events and self.left_out else said

    @property
    def left_out(self) -> int:
        """How many events that the writer had not seen are not in ``events``."""
        after = self.expected if isinstance(self.expected, int) else 0
        return max(0, self.actual - after - len(self.events))

    def fields(self) -> dict[str, Any]:
        """As for every error; the unseen events are given by version, id and action only (no state data)."""
        seen = [{"version": event.version, "id": event.event_id, "action": event.action} for event in self.events]
        return {"path": self.path, "expected": self.expected, "actual": self.actual, "events": seen}


@dataclass(eq=False)
class IdempotencyConflict(Conflict):
    """The caller's event id is already used by a different change. What to do: use a new id for a new change.

    ``differs`` names what differs: action, payload, data, changed_by, reason, context or timestamp. It is empty if the
    id belongs to another state or another batch, or if its event has been cleaned up since.
    """

    event_id: str
    path: str
    differs: Sequence[str] = ()

    def __str__(self) -> str:
        what = f": it differs in {', '.join(self.differs)}" if self.differs else ""
        return f"event id {self.event_id!r} is already used by a different change of {self.path!r}{what}"


@dataclass(eq=False)
class GovernorExists(Conflict):
    """The governor to be restored already exists. What to do: restore it into another store, or under another root.

    ``is_unfinished``: a restore of another file was interrupted. Restore that file again; if it is lost, restore this
    one with ``keep_changed`` (``--keep-changed``). ``is_overtaken``: another restore went on from this one, or it was
    ended. ``changed``: the restore had been interrupted, and these paths could not be restored, because others changed
    them since; all else is. Restore with ``keep_changed`` to leave them as they are. To get the file's side too,
    restore the file into another store, and ``sync`` the two.
    """

    path: str
    changed: tuple[str, ...] = ()
    is_unfinished: bool = False
    is_overtaken: bool = False

    def __str__(self) -> str:
        if self.is_overtaken:
            return f"{self.path!r} was overtaken: another `restore`, or `recover --end-restore`, has gone on from here"
        if self.is_unfinished:
            what = "says that a restore of another file is unfinished: restore that file again"
            return f"{self.path!r} {what}; if it is lost, restore this one with --keep-changed, which goes on from here"
        if not self.changed:
            return f"the governor of {self.path!r} already exists: restore into another store"
        others = f" and {count} other{'s' * (count > 1)} were" if (count := len(self.changed) - 1) else " was"
        return (
            f"{self.path!r}{others} changed since the restore began; all else is restored: restore the file again"
            " with --keep-changed to keep what is there, or restore it into another store and sync the two"
        )


@dataclass(eq=False)
class ImportConflict(Conflict):
    """A machine already has a different event at the version that a row of the file would become.

    What to do: import into a new governor, or change the earlier rows of the file back.
    """

    row: int
    path: str

    def __str__(self) -> str:
        return f"row {self.row} does not fit: {self.path!r} holds a different event"


@dataclass(eq=False)
class TransactionFailed(Conflict):
    """A transaction's function ran several times, and each time another writer was faster. Nothing was written.

    An error raised by the function itself comes out unchanged, and a lost answer raises ``CommitOutcomeUnknown``.
    What to do: try later, or let the writers of busy states take turns with a lock.
    """

    attempts: int
    cause: str
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 0.05

    def __str__(self) -> str:
        return f"other writers were faster at every attempt (of {self.attempts}): {self.cause}"


@dataclass(eq=False)
class StaleRead(Conflict):
    """The value read is older than a version known to exist; ``clocks`` are the clocks of the two.

    Concurrent versions do not raise it, nor do the store's own reads, which see every acknowledged change. What to do:
    read again, or let ``EventualConsistency.read_repair`` bring the store up to date.
    """

    path: str
    clocks: Sequence[Mapping[str, int]]
    is_transient: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"the value read of {self.path!r} is older than a version known to exist: read again, or repair it"


@dataclass(eq=False)
class CausalityViolation(Conflict):
    """The value read lacks changes that its reader has seen; ``clocks`` are its clock and the reader's.

    Unlike with ``StaleRead``, the value may also hold changes that the reader has not seen. What to do: read from the
    store in which the missing changes were made, or sync the two stores first.
    """

    path: str
    clocks: Sequence[Mapping[str, int]]

    def __str__(self) -> str:
        return f"the value read of {self.path!r} lacks changes that its reader has seen: sync the stores first"


@dataclass(eq=False)
class ConflictResolutionFailed(Conflict):
    """Two versions are concurrent and the resolver has no rule to decide between them; ``clocks`` are their clocks.

    It is not raised if one version knew of the other. What to do: give ``Causal`` a fallback. From ``MachineMerge``,
    ``what`` says why the two versions of a machine cannot be one, and what to do.
    """

    path: str
    clocks: Sequence[Mapping[str, int]]
    what: str = "no rule decides between them: give a fallback resolver"

    def __str__(self) -> str:
        return f"versions of {self.path!r} are concurrent, and {self.what}"


@dataclass(eq=False)
class LockAlreadyHeld(Conflict):
    """Another holder has the lock, or others wait for it, and the caller does not wait (``wait_seconds=0``).

    ``remaining`` is the seconds left unless the holder renews, or None if that is not known. ``holder`` is None if
    nobody held the lock when last seen. A lock that has expired is taken over and does not raise this error. What to
    do: wait for the lock, or try later.
    """

    resource: str
    holder: str | None
    remaining: float | None
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 1.0

    def __str__(self) -> str:
        left = "" if self.remaining is None else f", for {self.remaining:.1f} s unless renewed"
        who = "left to others who want it" if self.holder is None else f"locked by {self.holder}"
        return f"{self.resource!r} is {who}{left}"


@dataclass(eq=False)
class LockAcquisitionFailed(Conflict):
    """The lock could not be acquired in time, or the engine did not answer in time.

    ``holder`` and ``remaining`` are as last seen, or None if they were not seen. The caller holds nothing: if the lock
    was granted but the answer was lost, the lease expires by itself. What to do: try later, or find out who holds the
    lock for so long.
    """

    resource: str
    holder: str | None
    remaining: float | None
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 1.0

    def __str__(self) -> str:
        seen = "" if self.holder is None else f" (last seen held by {self.holder})"
        return f"could not acquire the lock on {self.resource!r} in time{seen}"


@dataclass(eq=False)
class LockLost(Conflict):
    """The lease has ended: it expired, it was released, or another holder took the lock over.

    ``holder`` has the lock now, for ``remaining`` seconds unless it renews; both are None if that is not known. Raised
    by a write with a fence, it means that nothing was written. Raised by a ``lock`` block or by a release, it means
    that the last steps may have run without the lock: another caller had it, or nobody can tell. What to do: acquire
    it again, read again, decide again.
    """

    resource: str
    holder: str | None = None
    remaining: float | None = None

    def __str__(self) -> str:
        now = "" if self.holder is None else f" to {self.holder}"
        return f"the lock on {self.resource!r} was lost{now}: acquire it again and decide again"


@dataclass(eq=False)
class DeadlockDetected(Conflict):
    """Lock holders wait for each other in a circle; the most recent waiter gets this error.

    ``cycle`` names the resources: the holder of each waits for the next one, and the holder of the last waits for the
    first. What to do: leave the block of the lock that you hold, so that the others can go on, and try again. To avoid
    it, take locks in the same order everywhere, or all at once.
    """

    cycle: Sequence[str]
    is_transient: ClassVar[bool] = True
    backoff_seconds: ClassVar[float] = 0.1

    def __str__(self) -> str:
        return f"a deadlock: {' → '.join([*self.cycle, self.cycle[0]])}; release a lock and try again"


@dataclass(eq=False)
class CommitRefused(Conflict):
    """A precondition of an engine's commit did not hold, and no part of the commit was applied.

    Only engines raise it; the store turns it into the conflict that it means. ``path`` names the first write that was
    refused; it is empty if the engine cannot tell.
    """

    path: str

    def __str__(self) -> str:
        return f"the precondition on {self.path!r} did not hold"


@dataclass(eq=False)
class TransitionRefused(TaiStateError):
    """A machine must not take a step, by its definition. Nothing was written.

    ``machine`` is the name of its definition, or the path of its state; ``from_state`` and ``to_state`` are the names
    of the states. ``rule`` names what refuses the step, and ``allowed`` the states that rules lead to from here; of a
    machine of another library, the events that lead on. What to do: look at the machine's state, and ask for a step
    that it allows.
    """

    machine: str
    from_state: str
    to_state: str
    rule: str
    reason: str
    allowed: tuple[str, ...]
    exit_code: ClassVar[int] = 3

    def __str__(self) -> str:
        from_state = f" from {self.from_state}" if self.from_state else ""
        to_state = f" to {self.to_state}" if self.to_state else ""
        rule = f" (rule {self.rule!r})" if self.rule else ""
        advice = self.advice or f"allowed: {', '.join(self.allowed) or 'nothing'}"
        return f"{self.machine}: {self.verb}{from_state}{to_state}: {self.reason}{rule}; {advice}"

    verb: ClassVar[str] = "no step"
    advice: ClassVar[str] = ""


@dataclass(eq=False)
class InvalidTransition(TransitionRefused):
    """The rules of a machine do not allow the step, or one of them forbids it."""

    verb: ClassVar[str] = "invalid transition"


@dataclass(eq=False)
class PreconditionFailed(TransitionRefused):
    """The rules of a machine allow the step, but what must be proven before it is not."""

    verb: ClassVar[str] = "precondition failed for the step"


@dataclass(eq=False)
class InvariantViolation(TransitionRefused):
    """The rules of a machine allow the step, but an invariant would not hold after it."""

    verb: ClassVar[str] = "invariant broken by the step"


@dataclass(eq=False)
class ConcurrentModification(TransitionRefused):
    """The machine is not at the version that its caller expected; ``actual`` is the version that it is at.

    Raised only where the caller gave ``expected``. What to do: read the machine, and decide anew.
    """

    actual: int
    verb: ClassVar[str] = "wrong version for the step"
    advice: ClassVar[str] = "read it again and decide again"


@dataclass(eq=False)
class CommitOutcomeUnknown(TaiStateError):
    """The engine did not answer in time, so the change may or may not be stored.

    Such a change is never reported as failed. What to do: if the caller gave event ids, ``event_ids`` holds them: call
    again with the same ids. If the first call was applied, the second returns its result; if not, the change is applied
    now. Without ids, read what is stored before you try again.
    """

    event_ids: Sequence[str]
    paths: Sequence[str]
    exit_code: ClassVar[int] = 5

    def __str__(self) -> str:
        advice = "retry with the same event ids" if self.event_ids else "read what is stored before you retry"
        return f"the outcome of the change to {', '.join(self.paths)} is unknown; {advice}"


@dataclass(eq=False)
class Inconsistent(TaiStateError):
    """The stored data contradicts itself. ``tai-state verify`` shows where, and ``recover`` repairs states."""

    path: str
    what: str
    exit_code: ClassVar[int] = 4

    def __str__(self) -> str:
        return f"{self.path!r}: {self.what}"


@dataclass(eq=False)
class EventSourcingError(Inconsistent):
    """A stream and its state disagree. What to do: ``tai-state verify`` shows where.

    ``recover`` repairs states. It cannot repair events: to get those back, restore a backup.
    """


@dataclass(eq=False)
class ReducerMissing(EventSourcingError):
    """A stream cannot be folded because a reducer was not given. What to do: pass ``reducers``, or ``--app``."""


@dataclass(eq=False)
class NotRetained(Inconsistent):
    """Cleanup removed the version asked for. What to do: ask for a later one, or restore an export."""


@dataclass(eq=False)
class CorruptDocument(Inconsistent):
    """A stored document, or the file itself, is damaged, or no SQLite file at all; its content is never returned.

    What to do: check the address; see ``what``; ``tai-state verify`` shows all of the damage.
    """


@dataclass(eq=False)
class IncompatibleFormat(Inconsistent):
    """Written by another program, or by a newer release. What to do: check the address, or use that release."""


@dataclass(eq=False)
class SerializationError(Inconsistent):
    """The stored data is intact but does not fit the type asked for. What to do: add an upcast."""


@dataclass(eq=False)
class UnknownMachineState(Inconsistent):
    """A stored machine is of another definition, or in a state that its definition does not know.

    ``stored`` names the definition that wrote it, ``known`` the one that it was opened with. What to do: open it with
    the definition that wrote it. If that is an older one of the same name, ``tai-state machines migrate`` moves it.
    """

    state: str
    stored: str
    known: str


@dataclass(eq=False)
class Unavailable(TaiStateError):
    """The engine cannot do it now.

    When ``Engine.commit`` raises it, ``unknown`` says whether the commit may have been applied all the same.
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
    """The engine is unreachable, or its disk is full or failing. What to do: see ``what``, then try again."""

    backoff_seconds: ClassVar[float] = 0.5


@dataclass(eq=False)
class StoreUnusable(StoreUnavailable):
    """The engine cannot do it until something is changed, such as a folder or a permission.

    The same call fails until then, so do not retry it in a loop. What to do: see ``what``.
    """

    is_transient: ClassVar[bool] = False


@dataclass(eq=False)
class StoreTimeout(Unavailable):
    """The engine did not answer in time, or another process held it too long. What to do: try again."""

    backoff_seconds: ClassVar[float] = 1.0
