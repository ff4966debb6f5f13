"""What each of gRPC's status codes means here: one table."""

from __future__ import annotations

from typing import Final

import msgspec

from tai_state.errors import CommitRefused, InvalidData, StoreTimeout, StoreUnavailable, TaiStateError


class Meaning(msgspec.Struct, frozen=True):
    """What a status code tells.

    Attributes:
        what: happened, and what to do.
        unknown: a commit so answered may have been applied all the same.
        lasting: the same call fails again until somebody changes something.
        refuses: a commit's requirement did not hold, where it has one.
        error: the error of the tree.
    """

    what: str
    unknown: bool = False
    lasting: bool = False
    refuses: bool = False
    error: type[TaiStateError] = StoreUnavailable


MEANINGS: Final = {
    "CANCELLED": Meaning("the call was broken off", unknown=True),
    "UNKNOWN": Meaning("Firestore failed without saying why", unknown=True),
    "INVALID_ARGUMENT": Meaning("Firestore refuses the request", lasting=True, error=InvalidData),
    "DEADLINE_EXCEEDED": Meaning("no answer in time", unknown=True, error=StoreTimeout),
    "NOT_FOUND": Meaning(
        "there is no such project or database: check the address, or create the database", lasting=True, refuses=True
    ),
    "ALREADY_EXISTS": Meaning("a document is there already", lasting=True, refuses=True),
    "PERMISSION_DENIED": Meaning(
        "access is denied: give the account the role roles/datastore.user, and enable the Firestore API", lasting=True
    ),
    "UNAUTHENTICATED": Meaning(
        "the credentials are not accepted: run `gcloud auth application-default login`", lasting=True
    ),
    "RESOURCE_EXHAUSTED": Meaning("a quota is used up, or the request is too large", unknown=True),
    "FAILED_PRECONDITION": Meaning(
        "the database cannot do this: is it in native mode, and are its indexes deployed?", lasting=True, refuses=True
    ),
    "ABORTED": Meaning("too many writers at once; nothing was applied", refuses=True),
    "OUT_OF_RANGE": Meaning("Firestore refuses the request", lasting=True, error=InvalidData),
    "UNIMPLEMENTED": Meaning("this server does not know the call: is it Firestore?", lasting=True),
    "INTERNAL": Meaning("Firestore failed", unknown=True),
    "UNAVAILABLE": Meaning("Firestore cannot be reached", unknown=True),
    "DATA_LOSS": Meaning("Firestore lost data: restore a backup", unknown=True, lasting=True),
}

OTHER: Final = Meaning("the connection failed", unknown=True)
"""For what is raised without a status code."""

_DETAILS_MAX: Final = 300


def code_of(error: Exception) -> str:
    """The status code's name; where the error has none, the name of its class."""
    code = getattr(error, "code", None)
    name = getattr(code(), "name", None) if callable(code) else None
    return name if isinstance(name, str) else type(error).__name__


def is_lasting(error: Exception) -> bool:
    """Whether trying again by itself is of no use."""
    return MEANINGS.get(code_of(error), OTHER).lasting


def mapped(error: Exception, operation: str, *, required: str | None = None) -> TaiStateError:
    """The error of the tree that a driver's error stands for.

    Args:
        error: whatever the driver raised.
        operation: the verb under way.
        required: for a commit that requires something, the path of the document it is required of, or an empty
            text for several; else None.
    """
    code = code_of(error)
    meaning = MEANINGS.get(code, OTHER)
    if meaning.refuses and required is not None:
        found: TaiStateError = CommitRefused(required)
    else:
        what = f"{meaning.what} ({_details(error)})"
        if meaning.error is InvalidData:
            found = InvalidData(f"{operation}: {what}")
        else:
            kind = StoreTimeout if meaning.error is StoreTimeout else StoreUnavailable
            found = kind(operation, code, what, meaning.unknown and operation == "commit")
    found.__cause__ = error
    return found


def _details(error: Exception) -> str:
    """What the server says: the first line, cut short."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return f"{text}".partition("\n")[0][:_DETAILS_MAX]
