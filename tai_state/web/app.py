"""The monitoring endpoint: an application that shows the machines of a store, and changes nothing."""

from __future__ import annotations

from typing import Any, Final

try:
    import jinja2 as _  # noqa: F401 - looked for here, so that the error names the extra
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send
except ModuleNotFoundError as _error:
    _needed = 'the monitoring endpoint needs the extra web: run: pip install "tai-state[web]"'
    raise ModuleNotFoundError(_needed, name=_error.name) from _error

from tai_state.errors import TaiStateError
from tai_state.machines.catalogue import Catalogue, Definitions
from tai_state.streams.core import HasCore
from tai_state.web.addresses import encoded_path
from tai_state.web.answers import problem_answer
from tai_state.web.endpoints import Endpoints
from tai_state.web.problems import problem_of_status, problem_with


def monitor_app(store: HasCore, definitions: Definitions) -> Starlette:
    """An application that shows the machines of a store: as pages to browsers, and as JSON to others.

    ::

        app = FastAPI(lifespan=…)  # opens the store
        app.mount("/monitor", monitor_app(store, [ORDER]))

    It only reads. Each answer about a machine is of one committed version. What is damaged or unknown is shown, or
    named by a problem (RFC 9457). It shows no data that a machine keeps beside its state. It asks nobody who they are:
    whoever mounts it decides who may come.

    Args:
        store: the store. It may be opened later; as long as it is not open, answers are 503.
        definitions: the definition of each kind of machine, one or several. Of several with one name, a machine is read
            by the newest one, or by the one that wrote it if the newest does not know its state.

    Raises:
        InvalidData: there is no definition, or one is none; or the store is none.
    """
    endpoints = Endpoints(store, Catalogue(definitions))
    app = Starlette(
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.routes.items()],
        middleware=[Middleware(_AsSent)],
        exception_handlers={TaiStateError: _failed, HTTPException: _refused, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return app


_DETAILS: Final = {404: "there is nothing at this address", 405: "this endpoint only reads"}


class _AsSent:
    """Lets paths be compared as they were sent, so that an encoded slash belongs to an id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": encoded_path(scope), "root_path": ""}
        await self._app(scope, receive, send)


async def _failed(request: Request, error: Any) -> Response:
    """The answer to an error of the library."""
    return problem_answer(request, problem_with(error))


async def _refused(request: Request, error: Any) -> Response:
    """The answer where there is nothing, or where only GET is allowed."""
    detail = _DETAILS.get(error.status_code) or str(error.detail)
    return problem_answer(request, problem_of_status(error.status_code, detail, error.headers))


async def _broken(request: Request, _: Exception) -> Response:
    """The answer where something unexpected was raised; the server logs it."""
    return problem_answer(request, problem_of_status(500, "this is a mistake of the endpoint; its log says more"))
