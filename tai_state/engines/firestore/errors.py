"""The meaning of gRPC's status codes: one table."""

from __future__ import annotations

from typing import Final

import msgspec

from tai_state.errors import (
    CommitRefused,
    InvalidData,
    StoreTimeout,
    StoreUnavailable,
    StoreUnusable,
    TaiStateError,
    Unavailable,
)


class Meaning(msgspec.Struct, frozen=True):
    """The meaning of a status code.

    Attributes:
        what: what happened, and what to do.
        unknown: whether a commit with this answer may have been applied all the same.
        refuses: whether it means, for a commit with requirements, that one of them did not hold.
        error: the class of the error to raise, which also says whether the same call may succeed later.
    """

    what: str
    unknown: bool = False
    refuses: bool = False
    error: type[Unavailable | InvalidData] = StoreUnavailable


MEANINGS: Final = {
    "CANCELLED": Meaning("the call was cancelled", unknown=True),
    "UNKNOWN": Meaning("Firestore failed without saying why", unknown=True),
    "INVALID_ARGUMENT": Meaning("Firestore refuses the request", error=InvalidData),
    "DEADLINE_EXCEEDED": Meaning("no answer in time", unknown=True, error=StoreTimeout),
    "NOT_FOUND": Meaning(
        "there is no such project or database: check the address, or create the database",
        error=StoreUnusable,
        refuses=True,
    ),
    "ALREADY_EXISTS": Meaning("a document already exists", error=StoreUnusable, refuses=True),
    "PERMISSION_DENIED": Meaning(
        "access is denied: grant the account the role roles/datastore.user, and enable the Firestore API",
        error=StoreUnusable,
    ),
    "UNAUTHENTICATED": Meaning("the credentials are not accepted: run `gcloud auth application-default login`"),
    "RESOURCE_EXHAUSTED": Meaning("a quota is used up, or the request is too large", unknown=True),
    "FAILED_PRECONDITION": Meaning(
        "the database cannot do this: check that it is in native mode, and that its indexes are deployed",
        error=StoreUnusable,
        refuses=True,
    ),
    "ABORTED": Meaning("too many writers at once; nothing was applied", refuses=True),
    "OUT_OF_RANGE": Meaning("Firestore refuses the request", error=InvalidData),
    "UNIMPLEMENTED": Meaning("the server does not know this call: check that it is Firestore", error=StoreUnusable),
    "INTERNAL": Meaning("Firestore failed", unknown=True),
    "UNAVAILABLE": Meaning("Firestore cannot be reached", unknown=True),
    "DATA_LOSS": Meaning("Firestore lost data: restore a backup", unknown=True, error=StoreUnusable),
}

_WITHOUT_CODE: Final = {
    "DefaultCredentialsError": Meaning(
        "there are no credentials: run `gcloud auth application-default login`", error=StoreUnusable
    ),
    "CancelledError": Meaning("the store was closed during the call", unknown=True),
}
"""The meaning of errors without a status code, by the name of their class."""
_OTHER: Final = Meaning("the connection failed", unknown=True)
"""The meaning of any other error without a status code."""

_DETAILS_MAX: Final = 300


def code_of(error: BaseException) -> str:
    """The name of an error's status code; if it has none, the name of its class."""
    code = getattr(error, "code", None)
    name = getattr(code(), "name", None) if callable(code) else None
    return name if isinstance(name, str) else type(error).__name__


def mapped_error(
    error: BaseException, operation: str, *, required: str | None = None, is_sent: bool = True
) -> TaiStateError:
    """The error to raise for a driver's error.

    Args:
        error: the error that the driver raised.
        operation: the verb that failed.
        required: for a commit with requirements, the path of the one document with a requirement, or an empty text if
            there are several; otherwise None.
        is_sent: whether the call may have reached the server.
    """
    code = code_of(error)
    meaning = MEANINGS.get(code) or _without_code(error)
    if meaning.refuses and required is not None:
        found: TaiStateError = CommitRefused(required)
    else:
        found = _made(meaning, code, _details(error), operation, is_unknown=meaning.unknown and is_sent)
    found.__cause__ = error
    return found


def removal_error(code: str, details: str) -> TaiStateError:
    """The error to raise for a watch whose target Firestore has removed, with the code and the details of the cause."""
    return _made(MEANINGS[code], code, details, "watch")


def incomplete_error(named: int, asked: int) -> TaiStateError:
    """The error to raise for an answer that does not name every document: those left out need not be absent."""
    return StoreUnavailable("read", "INCOMPLETE", f"the answer names {named} of {asked} documents")


def _made(meaning: Meaning, code: str, details: str, operation: str, *, is_unknown: bool = False) -> TaiStateError:
    line = details.partition("\n")[0][:_DETAILS_MAX]
    what = f"{meaning.what} ({line})" if line else meaning.what
    if issubclass(meaning.error, Unavailable):
        return meaning.error(operation, code, what, is_unknown and operation == "commit")
    return InvalidData(f"{operation}: {what}")


def _without_code(error: BaseException) -> Meaning:
    names = [each.__name__ for each in type(error).__mro__]
    return next((_WITHOUT_CODE[name] for name in names if name in _WITHOUT_CODE), _OTHER)


def _details(error: BaseException) -> str:
    """The server's message."""
    details = getattr(error, "details", None)
    return f"{details() if callable(details) else error}"
