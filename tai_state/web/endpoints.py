"""What is behind each address of the endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from msgspec import structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tai_state.engines.paging import take
from tai_state.errors import InvalidData, StateNotFound
from tai_state.machines.catalogue import Catalogue
from tai_state.streams.core import Core, HasCore
from tai_state.streams.layout import Stream
from tai_state.streams.reading import list_governors
from tai_state.web.addresses import id_in, query, sent_path
from tai_state.web.answers import answered, in_form, is_known, tag_of, unchanged
from tai_state.web.listing import LOOKED_AT_MAX, page_of
from tai_state.web.looking import (
    Machine,
    diagram_view,
    event_view,
    events_of,
    machine_at,
    machine_view,
    picture,
    recent_steps,
    state_view,
)
from tai_state.web.pages import drawn
from tai_state.web.views import EpochView, HealthView, HistoryView, ListView
from tai_state.web.wanted import (
    DOT,
    HTML,
    JSON,
    MERMAID,
    SVG,
    Wanted,
    cursor_at,
    wanted_before,
    wanted_form,
    wanted_limit,
    wanted_machines,
)

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

NODES: Final = frozenset({"coordinator", "worker"})
TASKS: Final = frozenset({"inference_request"})
SYSTEM: Final = "system"
"""The names of ready-made machines, and the id of the machine of a system, to which the original's addresses lead."""

_BOTH: Final = (JSON, HTML)


class Endpoints:
    """The addresses, and what answers there.

    Args:
        store: the store that is shown.
        catalogue: the definitions of its machines.
    """

    def __init__(self, store: HasCore, catalogue: Catalogue) -> None:
        if not hasattr(type(store), "core"):
            raise InvalidData(f"a store is needed, not {type(store).__name__}")
        self._store = store
        self._catalogue = catalogue
        self._names = tuple(sorted(catalogue.newest))

    @property
    def routes(self) -> dict[str, Endpoint]:
        """What answers at each path. Those below ``/api/v1`` are the original's."""
        machine, node, task = "/machines/{governor}/{state}", "/api/v1/nodes/{state}", "/api/v1/tasks/{state}"
        return {
            "/": self._front,
            "/health": self._health,
            "/machines": self._machines,
            machine: self._machine,
            f"{machine}/state": self._state,
            f"{machine}/history": self._history,
            f"{machine}/diagram": self._diagram,
            "/api/v1/health": self._health,
            "/api/v1/system/state": self._system,
            "/api/v1/epochs/current": self._epoch,
            "/api/v1/nodes": self._of_kind(NODES),
            f"{node}/state": self._state_of_kind(NODES),
            "/api/v1/tasks": self._of_kind(TASKS),
            f"{task}/state": self._state_of_kind(TASKS),
        }

    def _core(self) -> Core:
        try:
            return self._store.core
        except RuntimeError:
            raise HTTPException(503, "the store is not open") from None

    async def _front(self, request: Request) -> Response:
        """Lead to the list."""
        here = sent_path(request.scope).rpartition("/")[2]
        return in_form("", HTML, status=307, headers={"Location": f"./{here}/machines" if here else "./machines"})

    async def _health(self, request: Request) -> Response:
        """Whether the store can be read: 200, else 503."""
        form = wanted_form(request, _BOTH)
        core = self._core()
        await core.engine.read([core.layout.store])
        view = HealthView("ok", core.store_id, self._names)
        return answered(request, view, "facts", form, title="Health")

    async def _machines(self, request: Request) -> Response:
        """The machines of all governors, or of one."""
        return await self._listed(request, wanted_machines(request))

    async def _listed(self, request: Request, wanted: Wanted) -> Response:
        form = wanted_form(request, _BOTH)
        page = await page_of(self._core(), self._catalogue, wanted)
        following = None if page.next is None else query(**{**request.query_params, "after": cursor_at(*page.next)})
        view = ListView(tuple(page.entries), tuple(page.problems), following)
        names = self._names
        return answered(
            request, view, "machines", form, given=request.query_params, names=names, looked_at=LOOKED_AT_MAX
        )

    async def _machine(self, request: Request) -> Response:
        """A machine, and what it may do next."""
        form = wanted_form(request, _BOTH)
        core, machine = await self._found(_stream(self._core(), request))
        tag = _tag(machine, form)
        if is_known(request, tag):
            return unchanged(tag)
        steps = await recent_steps(core, self._catalogue, machine)
        return answered(
            request,
            machine_view(core, machine, steps),
            "machine",
            form,
            tag,
            picture=drawn(picture(machine, steps)) if form == HTML else "",
        )

    async def _state(self, request: Request) -> Response:
        """A machine's state, as the original endpoint shows it."""
        return await self._state_at(request, _stream(self._core(), request))

    async def _state_at(self, request: Request, stream: Stream, names: frozenset[str] | None = None) -> Response:
        """The state of a machine; only of one of a definition with one of these names, if any are given."""
        form = wanted_form(request, _BOTH)
        core, machine = await self._found(stream)
        if names is not None and machine.known.definition.name not in names:
            raise StateNotFound(stream.state)
        tag = _tag(machine, form)
        if is_known(request, tag):
            return unchanged(tag)
        view = state_view(core, machine, await recent_steps(core, self._catalogue, machine))
        return answered(request, view, "state", form, tag, stream=stream)

    async def _history(self, request: Request) -> Response:
        """The events of a machine, newest first."""
        form, before, limit = wanted_form(request, _BOTH), wanted_before(request), wanted_limit(request)
        core = self._core()
        stream = _stream(core, request)
        found = await core.read_state(stream)
        if found is None:
            raise await core.reader.absence_error(stream)
        version = found[1].version
        tag = tag_of(version, None, form)
        if is_known(request, tag):
            return unchanged(tag)
        until = version if before is None else min(version, before - 1)
        events = await events_of(core, self._catalogue, stream, until, limit)
        view = HistoryView(
            governor=stream.governor_id,
            state_id=stream.state_id,
            version=version,
            events=tuple(map(event_view, events.events)),
            problems=tuple(events.problems),
            next=query(**{**request.query_params, "before": events.oldest}) if events.oldest else None,
        )
        return answered(request, view, "history", form, tag)

    async def _diagram(self, request: Request) -> Response:
        """A machine's definition, drawn."""
        form = wanted_form(request, (SVG, HTML, JSON, MERMAID, DOT))
        core, machine = await self._found(_stream(self._core(), request))
        tag = _tag(machine, form)
        if is_known(request, tag):
            return unchanged(tag)
        steps = await recent_steps(core, self._catalogue, machine)
        if form == SVG:
            return in_form(picture(machine, steps), SVG, tag)
        view = diagram_view(machine, steps)
        if form in {MERMAID, DOT}:
            return in_form(view.mermaid if form == MERMAID else view.dot, form, tag)
        return answered(
            request, view, "diagram", form, tag, picture=drawn(picture(machine, steps)) if form == HTML else ""
        )

    async def _system(self, request: Request) -> Response:
        """The state of the machine of a system."""
        core = self._core()
        return await self._state_at(
            request, core.layout.stream(await _cluster(core, request), SYSTEM), frozenset({SYSTEM})
        )

    async def _epoch(self, request: Request) -> Response:
        """The epoch of a system."""
        form = wanted_form(request, _BOTH)
        core = self._core()
        _, machine = await self._found(core.layout.stream(await _cluster(core, request), SYSTEM))
        if machine.known.definition.name != SYSTEM:
            raise StateNotFound(machine.stream.state)
        return answered(request, EpochView(machine.known.snapshot.epoch), "facts", form, title="Current epoch")

    def _of_kind(self, names: frozenset[str]) -> Endpoint:
        """Lists the machines of the definitions with these names."""

        async def listed(request: Request) -> Response:
            wanted = wanted_machines(request)
            machines = names if wanted.machines is None else names & wanted.machines
            return await self._listed(request, structs.replace(wanted, machines=machines))

        return listed

    def _state_of_kind(self, names: frozenset[str]) -> Endpoint:
        """Shows the state of a machine of one of the definitions with these names."""

        async def state(request: Request) -> Response:
            core = self._core()
            state_id = id_in(request.path_params["state"], "state_id")
            return await self._state_at(request, core.layout.stream(await _cluster(core, request), state_id), names)

        return state

    async def _found(self, stream: Stream) -> tuple[Core, Machine]:
        core = self._core()
        return core, await machine_at(core, self._catalogue, stream)


def _stream(core: Core, request: Request) -> Stream:
    """The paths of the machine that an address names.

    Raises:
        InvalidId: it cannot be.
    """
    governor, state = request.path_params["governor"], request.path_params["state"]
    return core.layout.stream(id_in(governor, "governor_id"), id_in(state, "state_id"))


async def _cluster(core: Core, request: Request) -> str:
    """The governor whose machines the original's addresses name: the one that is given, else the only one.

    Raises:
        InvalidData: none is given, and there is not exactly one.
    """
    given = request.query_params.get("governor")
    if given:
        return given
    found = await take(list_governors(core), 2)
    if len(found) != 1:
        raise InvalidData("name the governor, as in ?governor=cluster: the store has none, or more than one")
    return found[0]


def _tag(machine: Machine, form: str) -> str:
    return tag_of(machine.known.snapshot.version, machine.known.definition, form)
