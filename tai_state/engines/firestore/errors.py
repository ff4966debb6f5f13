"""The meaning of gRPC's status codes: one table."""

from __future__ import annotations

from typing import Final

import msgspec

from tai_state.errors import CommitRefused, InvalidData, StoreTimeout, StoreUnavailable, TaiStateError


class Meaning(msgspec.Struct, frozen=True):
    """The meaning of a status code.

    Attributes:
        what: what happened, and what to do.
        unknown: whether a commit with this answer may have been applied all the same.
        lasting: whether the same call fails again until a person changes something.
        refuses: whether it means, for a commit with requirements, that one of them did not hold.
        error: the class of the error to raise.
    """

    what: str
    unknown: bool = False
    lasting: bool = False
    refuses: bool = False
    error: type[TaiStateError] = StoreUnavailable


MEANINGS: Final = {
    "CANCELLED": Meaning("the call was cancelled", unknown=True),
    "UNKNOWN": Meaning("Firestore failed without saying why", unknown=True),
    "INVALID_ARGUMENT": Meaning("Firestore refuses the request", lasting=True, error=InvalidData),
    "DEADLINE_EXCEEDED": Meaning("no answer in time", unknown=True, error=StoreTimeout),
    "NOT_FOUND": Meaning(
        "there is no such project or database: check the address, or create the database", lasting=True, refuses=True
    ),
    "ALREADY_EXISTS": Meaning("a document already exists", lasting=True, refuses=True),
    "PERMISSION_DENIED": Meaning(
        "access is denied: grant the account the role roles/datastore.user, and enable the Firestore API", lasting=True
    ),
    "UNAUTHENTICATED": Meaning(
        "the credentials are not accepted: run `gcloud auth application-default login`", lasting=True
    ),
    "RESOURCE_EXHAUSTED": Meaning("a quota is used up, or the request is too large", unknown=True),
    "FAILED_PRECONDITION": Meaning(
        "the database cannot do this: check that it is in native mode, and that its indexes are deployed",
        lasting=True,
        refuses=True,
    ),
    "ABORTED": Meaning("too many writers at once; nothing was applied", refuses=True),
    "OUT_OF_RANGE": Meaning("Firestore refuses the request", lasting=True, error=InvalidData),
    "UNIMPLEMENTED": Meaning("the server does not know this call: check that it is Firestore", lasting=True),
    "INTERNAL": Meaning("Firestore failed", unknown=True),
    "UNAVAILABLE": Meaning("Firestore cannot be reached", unknown=True),
    "DATA_LOSS": Meaning("Firestore lost data: restore a backup", unknown=True, lasting=True),
}

OTHER: Final = Meaning("the connection failed", unknown=True)
"""The meaning of an error without a status code."""

_DETAILS_MAX: Final = 300


def code_of(error: Exception) -> str:
    """The name of an error's status code; if it has none, the name of its class."""
    code = getattr(error, "code", None)
    name = getattr(code(), "name", None) if callable(code) else None
    return name if isinstance(name, str) else type(error).__name__


def is_lasting(error: Exception) -> bool:
    """Whether a mere retry cannot succeed."""
    return MEANINGS.get(code_of(error), OTHER).lasting


def mapped_error(error: Exception, operation: str, *, required: str | None = None) -> TaiStateError:
    """The error to raise for a driver's error.

    Args:
        error: the error that the driver raised.
        operation: the verb that failed.
        required: for a commit with requirements, the path of the one document with a requirement, or an empty text if
            there are several; otherwise None.
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
    """The first line of the server's message, shortened."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return f"{text}".partition("\n")[0][:_DETAILS_MAX]
