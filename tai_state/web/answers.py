"""Answers: what is shown, in the form that was asked for, with the headers that all answers have."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tai_state.machines.definition import Definition
from tai_state.values.json import to_bytes
from tai_state.web.addresses import machine_in_path, query, sent_path, upwards
from tai_state.web.pages import page, policy
from tai_state.web.problems import Problem
from tai_state.web.wanted import HTML, JSON, MEDIA_TYPES, accepted_form

PROBLEM: Final = "application/problem+json"

_HEADERS: Final = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": policy(),
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


def answered(
    request: Request, view: msgspec.Struct, template: str, form: str, tag: str | None = None, **more: Any
) -> Response:
    """The answer that shows something as JSON or as a page.

    Args:
        request: the request.
        view: what is shown.
        template: the template of the page.
        form: JSON or HTML.
        tag: the answer's entity tag.
        more: what else stands in the page.
    """
    if form == JSON:
        return in_form(msgspec.json.encode(view), JSON, tag)
    as_json = query(**{**request.query_params, "format": JSON})
    return in_form(page(template, view=view, base=upwards(request.scope["path"]), as_json=as_json, **more), HTML, tag)


def in_form(
    content: str | bytes, form: str, tag: str | None = None, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in one of the forms."""
    tagged = {} if tag is None else {"ETag": tag}
    return Response(content, status, {**_HEADERS, **tagged, **(headers or {})}, MEDIA_TYPES[form])


def problem_answer(request: Request, problem: Problem) -> Response:
    """The answer that tells a problem: as problem details, or as a page for a browser."""
    if accepted_form(request, (JSON, HTML)) == HTML:
        path = str(request.scope["path"])
        content = page("problem", view=problem, base=upwards(path), machine=machine_in_path(path))
        return in_form(content, HTML, status=problem.status, headers=problem.headers)
    body = msgspec.json.encode(problem.members(sent_path(request.scope)), enc_hook=str)
    return Response(body, problem.status, {**_HEADERS, **problem.headers}, PROBLEM)


def tag_of(version: int, definition: Definition[Any, Any] | None, form: str) -> str:
    """The entity tag of an answer: of the machine's version, of all that its definition says, and of the form.

    It is weak, since answers that it does not tell apart differ in how long the machine has been in its state.

    Args:
        version: the version of the machine's state.
        definition: its definition; None if the answer does not depend on it.
        form: the form of the answer.
    """
    outline = b"" if definition is None else to_bytes(msgspec.to_builtins(definition.outline))
    return f'W/"{version}-{sha256(outline).hexdigest()[:16]}-{form}"'


def is_known(request: Request, tag: str) -> bool:
    """Whether the client has the answer with this tag already."""
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return "*" in given or tag.removeprefix("W/") in given


def unchanged(tag: str) -> Response:
    """The answer to a client that has it already."""
    return Response(None, 304, {**_HEADERS, "ETag": tag})
