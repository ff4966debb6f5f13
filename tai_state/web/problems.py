"""What went wrong with a request, as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any, Final

import msgspec

from tai_state.errors import Conflict, Inconsistent, NotFound, NotRetained, Rejected, TaiStateError, Unavailable
from tai_state.web.views import brief

_STATUSES: Final = {
    NotFound: HTTPStatus.NOT_FOUND,
    Rejected: HTTPStatus.BAD_REQUEST,
    NotRetained: HTTPStatus.GONE,
    Inconsistent: HTTPStatus.CONFLICT,
    Conflict: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status for each family of errors, the most specific first. What is stored wrongly is no fault of this server."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem.

    Attributes:
        type: names the kind of problem: the error's class, else nothing beyond the status.
        title: what it is about.
        status: the status of the answer.
        detail: what is wrong, and what to do.
        fields: the fields of the error.
        headers: headers of the answer that belong to it.
    """

    type: str
    title: str
    status: int
    detail: str
    fields: dict[str, Any] = {}
    headers: dict[str, str] = {}

    def members(self, instance: str) -> dict[str, Any]:
        """The problem as a JSON object.

        Args:
            instance: the path of the request, percent-encoded.
        """
        own = {name: getattr(self, name) for name in ("type", "title", "status", "detail")}
        return {**self.fields, **own, "instance": instance}


def problem_with(error: TaiStateError) -> Problem:
    """The problem that an error of the library is."""
    status = next(
        (found for family, found in _STATUSES.items() if isinstance(error, family)), HTTPStatus.INTERNAL_SERVER_ERROR
    )
    name = type(error).__name__
    again = {"Retry-After": str(ceil(error.backoff_seconds))} if error.is_transient else {}
    fields = {key: brief(value) if isinstance(value, str) else value for key, value in error.fields().items()}
    return Problem(
        type=f"urn:tai-state:{name}",
        title=status.phrase,
        status=status,
        detail=brief(str(error)),
        fields=fields,
        headers=again,
    )


def problem_of_status(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem that a status alone says all of."""
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=detail, headers=dict(headers or {}))
