"""Hostile names, damage, unknown machines and mistaken requests: shown, or named by a problem."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin
from xml.etree import ElementTree as ET

import httpx2
import pytest

from tai_state import StateStore
from tai_state.errors import StoreUnavailable
from tai_state.machines import ComponentState, allow, define, described, ready
from tai_state.web import monitor_app
from tai_state.web.addresses import id_in, segment_of

from ..support.orders import ORDER
from ..support.stores import METADATA, AroundEngine, Place, edit
from .conftest import DEFINITIONS, ODD_IDS, client_of, odd
from .test_machines import HTML, got

pytestmark = pytest.mark.anyio


class Unreachable(AroundEngine):
    """Cannot be read while it is told so."""

    is_unreachable = False

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if self.is_unreachable:
            raise StoreUnavailable("read", "TEST")
        return await self._engine.read(paths)


class Links(HTMLParser):
    """The links of a page, and its elements; forms and scripts among them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.elements: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append(tag)
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs), attrs
        self.links += [value or "" for name, value in attrs if name == "href" and tag == "a"]


@pytest.mark.parametrize("state_id", [*ODD_IDS, "..!", ".!", "%2E", ";", "+", "a b", "x" * 1480])
async def test_an_id_in_an_address_is_that_id(client: httpx2.AsyncClient, shop: StateStore, state_id: str) -> None:
    """An id goes into an address and comes back, no two are one, and the machine is found there."""
    assert id_in(segment_of(state_id), "id") == state_id
    assert urljoin("http://x/machines/shop/", f"./{segment_of(state_id)}").count("/") == 5
    await shop.machine("odd", state_id, ORDER, metadata=METADATA).initialize(context=ORDER.context())  # type: ignore[misc]
    found = await got(client, f"/machines/odd/{segment_of(state_id)}")
    assert (found["governor"], found["state_id"]) == ("odd", state_id)
    await shop.machine(state_id, "m", ORDER, metadata=METADATA).initialize(context=ORDER.context())  # type: ignore[misc]
    assert (await got(client, f"/machines/{segment_of(state_id)}/m"))["governor"] == state_id


async def test_every_link_of_every_page_leads_somewhere(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """From the list, all pages are reached by links, each is well-formed and has no script, and none is our error."""
    await odd(shop)
    seen: dict[str, int] = {}
    waiting = ["http://monitor/machines?limit=7"]
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        answer = await client.get(address, headers=HTML)
        seen[address] = answer.status_code
        assert answer.status_code in {200, 409}, (address, answer.text)
        assert "script-src" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if answer.headers["Content-Type"].startswith("text/html"):
            page = Links(answer.text)
            assert not {"script", "iframe", "object", "embed", "img"} & set(page.elements)
            waiting += [urljoin(address, link) for link in page.links]
        elif answer.headers["Content-Type"] == "image/svg+xml":
            ET.fromstring(answer.text)
    assert len(seen) > 8 * len(ODD_IDS)


async def test_a_list_goes_on_past_what_is_odd(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """What no definition reads is in the list with its problem, and what is damaged is named beside it."""
    await odd(shop)
    core = shop.core
    await edit(core.engine, core.layout.stream("shop", "A-3").state, state_hash="0" * 64)
    page = await got(client, "/machines?governor=shop&limit=200")
    assert {each["state_id"] for each in page["machines"]} == {*ODD_IDS, "plain", "unknown", "alien", "timeless"}
    kinds = {each["state_id"]: each["problem"]["kind"] for each in page["machines"] if each["problem"]}
    assert kinds == {
        "plain": "SerializationError",
        "timeless": "SerializationError",
        "unknown": "UnknownMachineState",
        "alien": "UnknownMachineState",
    }
    [damaged] = page["problems"]
    assert (damaged["path"], damaged["kind"]) == ("governors/shop/states/A-3", "CorruptDocument")
    shown = (await client.get("/machines?governor=shop", headers=HTML)).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "x\\u{202e}y\\u{a}" in shown


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/machines/shop/plain", 409, "SerializationError"),
        ("/machines/shop/unknown/state", 409, "UnknownMachineState"),
        ("/machines/shop/alien/diagram", 409, "UnknownMachineState"),
        ("/machines/shop/timeless", 409, "SerializationError"),
        ("/machines/shop/nobody", 404, "StateNotFound"),
        ("/machines/shop/nobody/history", 404, "StateNotFound"),
        ("/machines/%FF/x", 400, "InvalidId"),
        (f"/machines/shop/{'x' * 2000}", 400, "InvalidId"),
        ("/machines?after=x", 400, "InvalidData"),
        ("/machines?after=a/%25FF", 400, "InvalidId"),
        ("/machines?limit=0", 400, "InvalidData"),
        ("/machines?limit=201", 400, "InvalidData"),
        (f"/machines?limit={'9' * 5000}", 400, "InvalidData"),
        ("/machines?limit=1&limit=2", 400, "InvalidData"),
        ("/machines?format=xml", 400, "InvalidData"),
        ("/machines/shop/A-3/history?before=x", 400, "InvalidData"),
        ("/machines/shop/A-3/history?before=1", 200, ""),
    ],
)
async def test_a_problem_has_its_details(
    client: httpx2.AsyncClient, shop: StateStore, path: str, status: int, kind: str
) -> None:
    """What cannot be shown is told by problem details with the error's name and fields, to a browser as a page."""
    await odd(shop)
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    if status != 200:
        problem = answer.json()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (problem["type"], problem["status"]) == (f"urn:tai-state:{kind}", status)
        assert problem["detail"]
        assert problem["instance"] == path.partition("?")[0]
        page = await client.get(path, headers=HTML)
        assert (page.status_code, page.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
        assert "<b>Gone" not in page.text


async def test_nothing_else_is_answered(client: httpx2.AsyncClient) -> None:
    """Where nothing is, the answer is 404, and whoever wants to change something gets 405 and what is allowed."""
    for path in ("/nothing", "/machines/", "/machines/shop", "/machines/shop/A-3/state/", "/machines//A-3"):
        assert (await got(client, path, 404))["type"] == "about:blank"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = await client.request(method, "/machines/shop/A-3")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD") or "GET" in answer.headers["Allow"]
        assert answer.json()["detail"] == "this endpoint only reads"
    head = await client.head("/machines/shop/A-3")
    assert head.status_code == 200


async def test_a_history_goes_on_past_damage(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """An event that is damaged is named in its place, those before and after it are shown, and pages go on below it."""
    core = shop.core
    stream = core.layout.stream("cluster", "node-1")
    await edit(core.engine, stream.event(3), to_state="{")
    page = await got(client, "/machines/cluster/node-1/history")
    assert [each["version"] for each in page["events"]] == [5, 4, 2, 1]
    assert [each["path"] for each in page["problems"]] == [stream.event(3)]
    page = await got(client, "/machines/cluster/node-1/history?limit=3")
    assert ([each["version"] for each in page["events"]], page["next"]) == ([5, 4], "?limit=3&before=3")
    machine = await got(client, "/machines/cluster/node-1")
    assert [each["path"] for each in machine["problems"]] == [stream.event(3)]
    assert (await got(client, "/machines/cluster/node-1/state"))["state"] == "Ready"


async def test_a_damaged_state_is_named(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """A state whose own document is damaged is a problem at each of its addresses, and no error of the server."""
    core = shop.core
    await edit(core.engine, core.layout.stream("shop", "A-3").state, state_hash="0" * 64)
    for path in ("", "/state", "/history", "/diagram"):
        assert (await got(client, f"/machines/shop/A-3{path}", 409))["type"] == "urn:tai-state:CorruptDocument"


async def test_long_texts_are_cut(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """A reason that fills a document does not fill a page."""
    node = shop.machine("cluster", "node-1", ready.COORDINATOR, metadata=METADATA)
    await node.force_state(ready.CoordinatorState.Degraded, "é" * 100_000)
    for path in ("", "/state", "/history"):
        assert len((await client.get(f"/machines/cluster/node-1{path}")).text) < 8_000


async def test_a_store_that_cannot_be_reached(shop_place: Place) -> None:
    """While the store cannot be read, the answer is 503 with the time after which to ask again."""
    engine = Unreachable(shop_place.engine())
    async with shop_place.store(engine) as store, client_of(monitor_app(store, ORDER)) as client:
        engine.is_unreachable = True
        for path in ("/health", "/machines/shop/A-3"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text


async def test_hostile_texts_of_a_definition_break_no_page(shop: StateStore) -> None:
    """Names and descriptions that look like markup are text on every page and in every picture."""
    name = "</style></svg><script>alert(1)</script>"
    evil: Any = ComponentState("Evil", {name: described("<img src=x onerror=alert(1)>"), "B": described("&amp;]]>")})  # type: ignore[call-overload]
    first, second = evil
    rules = [allow(first, second, reason="<b>"), allow(second, first, name="<i>")]
    definition = define(name, evil, initial=first, rules=rules)
    await shop.machine("evil", "e", definition, metadata=METADATA).initialize()
    async with client_of(monitor_app(shop, [definition, *DEFINITIONS])) as client:
        places = [f"/machines/evil/e{each}" for each in ("", "/state", "/history", "/diagram")]
        for path in ("/machines", "/health", *places):
            page = Links((await client.get(path, headers=HTML)).text)
            assert not {"script", "img", "b", "i"} & set(page.elements)
        ET.fromstring((await client.get("/machines/evil/e/diagram")).text)
