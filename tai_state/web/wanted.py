"""What a request asks for, checked: the form of the answer, filters, and where a page begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.requests import Request

from tai_state.errors import InvalidData
from tai_state.values.ids import VERSION_MAX, escape_id
from tai_state.web.addresses import id_in, segment_of

HTML: Final = "html"
JSON: Final = "json"
SVG: Final = "svg"
MERMAID: Final = "mermaid"
DOT: Final = "dot"

MEDIA_TYPES: Final = {
    HTML: "text/html",
    JSON: "application/json",
    SVG: "image/svg+xml",
    MERMAID: "text/plain",
    DOT: "text/plain",
}

LIMIT: Final = 50
LIMIT_MAX: Final = 200


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which machines are listed.

    Attributes:
        governor: those of this governor; None: of all.
        machines: those of the definitions with these names; None: of all.
        state: those in the state of this name; None: in any.
        after: those after this governor and id; None: from the first.
        limit: how many at most.
    """

    governor: str | None = None
    machines: frozenset[str] | None = None
    state: str | None = None
    after: tuple[str, str] | None = None
    limit: int = LIMIT


def wanted_machines(request: Request) -> Wanted:
    """Which machines a request asks for.

    Raises:
        InvalidData, InvalidId: a value of its query cannot be.
    """
    governor, machine, state = (_text(request, name) for name in ("governor", "machine", "state"))
    if governor is not None:
        escape_id(governor, "governor")
    return Wanted(
        governor=governor,
        machines=None if machine is None else frozenset([machine]),
        state=state,
        after=_cursor(_text(request, "after")),
        limit=wanted_limit(request),
    )


def wanted_limit(request: Request) -> int:
    """How many items a request asks for at most.

    Raises:
        InvalidData: it asks for none, or for too many.
    """
    return _whole(request, "limit", LIMIT_MAX) or LIMIT


def wanted_before(request: Request) -> int | None:
    """The version before which the events are that a request asks for; None: all.

    Raises:
        InvalidData: it is not a version.
    """
    return _whole(request, "before", VERSION_MAX)


def wanted_form(request: Request, forms: Sequence[str]) -> str:
    """The form in which a request wants its answer: ``format`` in its query, else what it accepts best.

    Args:
        request: the request.
        forms: the forms that there are; the first for those who accept anything.

    Raises:
        InvalidData: ``format`` is none of them.
    """
    given = _text(request, "format")
    if given is None:
        return accepted_form(request, forms)
    if given not in forms:
        raise InvalidData(f"format must be one of {', '.join(forms)}, not {given!r}")
    return given


def accepted_form(request: Request, forms: Sequence[str]) -> str:
    """The form that a request accepts best; the first one if it accepts none, or says nothing."""
    best, form = 0.0, forms[0]
    ranges = dict(_ranges(request.headers.get("accept", "*/*")))
    for each in forms:
        media = MEDIA_TYPES[each]
        kinds = (media, f"{media.partition('/')[0]}/*", "*/*")
        quality = next((ranges[kind] for kind in kinds if kind in ranges), 0.0)
        if quality > best:
            best, form = quality, each
    return form


def cursor_at(governor_id: str, state_id: str) -> str:
    """The ids of a machine as a cursor: as its address has them."""
    return f"{segment_of(governor_id)}/{segment_of(state_id)}"


def _cursor(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    governor, separator, state = text.partition("/")
    if not separator or not governor or not state or "/" in state:
        raise InvalidData(f"after must be a governor and an id, as an address has them, not {text!r}")
    found = id_in(governor, "after"), id_in(state, "after")
    for each in found:
        escape_id(each, "after")
    return found


def _text(request: Request, name: str) -> str | None:
    """A value of the query; None if it is empty or not there."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidData(f"{name} must be given once, not {len(values)} times")
    return values[0] if values and values[0] else None


def _whole(request: Request, name: str, most: int) -> int | None:
    """A value of the query as a whole number from 1 up; None if it is not there."""
    text = _text(request, name)
    if text is None:
        return None
    digits = len(str(most))
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= digits else 0
    if not 1 <= number <= most:
        raise InvalidData(f"{name} must be a whole number from 1 to {most:,}, not {text[:40]!r}")
    return number


def _ranges(accept: str) -> list[tuple[str, float]]:
    """The kinds of media that a header accepts, each with its quality."""
    found: list[tuple[str, float]] = []
    for part in accept[:2000].split(","):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        text = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            quality = float(text)
        except ValueError:
            continue
        found.append((kind, quality if 0 <= quality <= 1 else 0.0))
    return found
