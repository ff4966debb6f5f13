"""What the endpoint shows of machines: as JSON, in the words of the original's endpoint, and as pages."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tai_state import InvalidData, StateStore, open_store
from tai_state.machines import ready
from tai_state.web import monitor_app

from ..support.orders import ORDER, Cart
from ..support.stores import METADATA, CountingEngine, Place
from .conftest import DEFINITIONS, client_of

pytestmark = pytest.mark.anyio

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
"""What browsers accept."""
NODE = "/machines/cluster/node-1"


async def got(client: httpx2.AsyncClient, path: str, status: int = 200) -> Any:
    """The JSON at an address."""
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_state_in_the_words_of_the_original(client: httpx2.AsyncClient, shop_place: Place) -> None:
    """A state has the five members of the original's answer, and its newest steps come first."""
    shop_place.clock.advance(2.5)
    found = await got(client, f"{NODE}/state")
    steps = found.pop("recent_transitions")
    assert found == {
        "state": "Ready",
        "description": "Monitoring cluster, ready for work",
        "time_in_state_ms": 2500,
        "epoch": 1,
    }
    assert [(each["from"], each["to"], each["trigger"]) for each in steps] == [
        ("Committing", "Ready", "Event: to Ready"),
        ("Aggregating", "Committing", "Event: to Committing"),
        ("Computing", "Aggregating", "Event: to Aggregating"),
        ("Ready", "Computing", "Event: to Computing"),
        ("Ready", "Ready", "Event: Initialization"),
    ]
    assert all(each["timestamp"].endswith("Z") for each in steps)


async def test_ten_steps_are_shown_whatever_stands_between_them(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """The newest ten steps are found past events that moved nothing, and no more than ten."""
    node = shop.machine("cluster", "node-1", ready.COORDINATOR, metadata=METADATA)
    for number in range(12):
        state = (ready.CoordinatorState.Degraded, ready.CoordinatorState.Recovering)[number % 2]
        await node.force_state(state, f"try {number}")
        for _ in range(3):
            await shop.log_event("cluster", "node-1", "looked", METADATA)
    steps = (await got(client, f"{NODE}/state"))["recent_transitions"]
    assert [each["trigger"] for each in steps] == [f"Command: try {number}" for number in range(11, 1, -1)]


async def test_a_machine_says_what_may_come_next(client: httpx2.AsyncClient) -> None:
    """Each state of the definition is there, with the reason why it is refused, and what else leads to it."""
    found = await got(client, "/machines/shop/A-3")
    assert (found["machine"], found["definition"], found["version"]) == ("order", ORDER.hash, 2)
    assert found["allowed"] == [
        {"to": "Placed", "refused_because": "no rule leads there", "by": []},
        {"to": "Paid", "refused_because": "an order is paid by a payment", "by": []},
        {"to": "Shipped", "refused_because": None, "by": []},
        {"to": "Delivered", "refused_because": "Transition rule 'ShippedToDelivered' failed", "by": []},
        {"to": "Lost", "refused_because": None, "by": []},
    ]


async def test_what_events_and_timers_do_is_said(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """A step that cannot be asked for names the event that takes it, and a time-out is named with its time."""
    await shop.machine("shop", "new", ORDER, metadata=METADATA).initialize(context=Cart())
    found = await got(client, "/machines/shop/new")
    ways = {each["to"]: (each["refused_because"], each["by"]) for each in found["allowed"]}
    assert ways["Paid"] == ("only the event 'pay' leads there", ["pay [is_enough]"])
    assert ways["Lost"] == (None, ["after 30 s"])
    assert ways["Delivered"] == ("skips payment and shipping", [])
    assert found["due"] is not None


async def test_no_data_of_a_machine_is_shown(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """What a machine keeps beside its state stands in no answer."""
    secret = Cart(cents=271828)
    await shop.machine("shop", "secret", ORDER, metadata=METADATA).initialize(context=secret)
    for path in ("", "/state", "/history", "/diagram"):
        for headers in ({}, HTML, {"Accept": "application/json"}):
            assert "271828" not in (await client.get(f"/machines/shop/secret{path}", headers=headers)).text
    assert "271828" not in (await client.get("/machines")).text


async def test_the_history_comes_in_pages(client: httpx2.AsyncClient) -> None:
    """A page of the history leads to the next one, the newest event comes first, and none is left out."""
    versions: list[int] = []
    path = f"{NODE}/history?limit=2"
    while path:
        page = await got(client, path)
        assert page["version"] == 5
        versions += [each["version"] for each in page["events"]]
        path = page["next"] and f"{NODE}/history{page['next']}"
    assert versions == [5, 4, 3, 2, 1]


async def test_an_event_is_shown_whole(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """An event has its kind, states, trigger, reason, author and times."""
    node = shop.machine("cluster", "node-1", ready.COORDINATOR, metadata=METADATA)
    await node.force_state(ready.CoordinatorState.Failed, "it burnt", event_id="fire-1")
    event, *_ = (await got(client, f"{NODE}/history?limit=1"))["events"]
    assert event.pop("duration_us") >= 0
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "version": 6,
        "kind": "force",
        "from": "Ready",
        "to": "Failed",
        "trigger": "Command: it burnt",
        "reason": "it burnt",
        "changed_by": "tester",
        "epoch": 1,
        "event_id": "fire-1",
    }


async def test_machines_are_listed_by_filters_and_pages(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """Filters by governor, kind and state hold together, and pages of any size give every machine once."""
    for number in range(5):
        request = shop.machine("cluster", f"r-{number}", ready.INFERENCE_REQUEST, metadata=METADATA)
        await request.initialize()
        if number % 2:
            await request.transition_to(ready.RequestState.Cancelled, ready_command())
    everything = [each["state_id"] for each in (await got(client, "/machines"))["machines"]]
    assert everything == ["node-1", "r-0", "r-1", "r-2", "r-3", "r-4", "A-3"]
    for limit in (1, 2, 3, 7):
        seen: list[str] = []
        query: str | None = f"?limit={limit}"
        while query:
            page = await got(client, f"/machines{query}")
            assert len(page["machines"]) <= limit
            seen += [each["state_id"] for each in page["machines"]]
            query = page["next"]
        assert seen == everything
    cancelled = await got(client, "/machines?machine=inference_request&state=Cancelled&governor=cluster&limit=2")
    assert [each["state_id"] for each in cancelled["machines"]] == ["r-1", "r-3"]
    assert (await got(client, "/machines?governor=shop&state=Cancelled"))["machines"] == []
    assert (await got(client, "/machines?governor=nobody", 404))["type"] == "urn:tai-state:GovernorNotFound"


def ready_command() -> Any:
    """Why requests are cancelled here."""
    from tai_state.machines import Command

    return Command("cancel")


async def test_a_long_list_is_looked_at_piece_by_piece(shop_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that few states pass looks at a bounded number of documents, and its short page leads to the next."""
    monkeypatch.setattr("tai_state.web.listing.LOOKED_AT_MAX", 4)
    engine = CountingEngine(shop_place.engine())
    async with shop_place.store(engine) as store, client_of(monitor_app(store, ORDER)) as client:
        for number in range(9):
            await store.save_state("g", f"s-{number}", {}, METADATA)
        await store.machine("g", "s-9", ORDER, metadata=METADATA).initialize(context=Cart())
        engine.reset()
        page = await got(client, "/machines?machine=order")
        assert (page["machines"], page["next"] is None) == ([], False)
        assert engine.counts.documents <= 6
        page = await got(client, f"/machines{(await got(client, '/machines' + page['next']))['next']}")
        assert [each["state_id"] for each in page["machines"]] == ["s-9"]
        assert page["next"] is None


async def test_a_tag_is_weak_and_saves_the_answer(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """The same version is not sent again to a client that has it, in no form, and a step makes a new one."""
    for path in ("", "/state", "/history", "/diagram"):
        for headers in ({}, HTML):
            tag = (await client.get(f"{NODE}{path}", headers=headers)).headers["ETag"]
            assert tag.startswith('W/"')
            for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
                again = await client.get(f"{NODE}{path}", headers={**headers, "If-None-Match": known})
                assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    as_json, as_page = [(await client.get(NODE, headers=headers)).headers["ETag"] for headers in ({}, HTML)]
    assert as_json != as_page
    node = shop.machine("cluster", "node-1", ready.COORDINATOR, metadata=METADATA)
    await node.force_state(ready.CoordinatorState.Failed, "it burnt")
    assert (await client.get(NODE, headers={"If-None-Match": as_json})).status_code == 200


async def test_another_definition_has_another_tag(shop: StateStore) -> None:
    """A description is part of what is shown, so a definition that differs in it alone is another tag."""
    from tai_state.machines import ComponentState, allow, define, described

    def lamp(text: str) -> Any:
        states = ComponentState("Lamp", {"Dark": described(text), "Lit": described("Is lit")})  # type: ignore[call-overload]
        rules = [allow(states.Dark, states.Lit), allow(states.Lit, states.Dark)]
        return define("lamp", states, initial=states.Dark, rules=rules)

    await shop.machine("house", "hall", lamp("Is dark"), metadata=METADATA).initialize()
    tags = set()
    for text in ("Is dark", "Is off"):
        async with client_of(monitor_app(shop, lamp(text))) as client:
            tags.add((await client.get("/machines/house/hall")).headers["ETag"])
    assert len(tags) == 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        (HTML["Accept"], "text/html; charset=utf-8"),
        ("text/*", "text/html; charset=utf-8"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("application/json;q=0.2, text/html;q=0.3", "text/html; charset=utf-8"),
        ("text/html;q=nonsense", "application/json"),
        ("image/png", "application/json"),
        ("", "application/json"),
    ],
)
async def test_the_form_is_what_is_accepted_best(client: httpx2.AsyncClient, accept: str, kind: str) -> None:
    """Browsers get pages, others JSON, and whoever says how much he likes each gets what he likes best."""
    answer = await client.get("/machines", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Vary"] == "Accept"
    assert (await client.get("/machines?format=json", headers=HTML)).headers["Content-Type"] == "application/json"


async def test_a_diagram_comes_in_five_forms(client: httpx2.AsyncClient) -> None:
    """The diagram is a picture, a page, JSON, or text for Mermaid and Graphviz, and marks the present state."""
    kinds = {
        "svg": ("image/svg+xml", 'class="state current visited"'),
        "html": ("text/html; charset=utf-8", 'class="state current visited"'),
        "json": ("application/json", '"state":"Ready"'),
        "mermaid": ("text/plain; charset=utf-8", "class s1 current"),
        "dot": ("text/plain; charset=utf-8", "digraph"),
    }
    for form, (kind, part) in kinds.items():
        answer = await client.get(f"{NODE}/diagram?format={form}")
        assert answer.headers["Content-Type"] == kind
        assert part in answer.text
    assert (await client.get(f"{NODE}/diagram")).headers["Content-Type"] == "image/svg+xml"
    assert (await client.get(f"{NODE}/diagram", headers=HTML)).headers["Content-Type"].startswith("text/html")


async def test_the_originals_addresses(client: httpx2.AsyncClient, shop: StateStore) -> None:
    """The addresses of the original lead to the machines of one governor, and to no machine of another kind."""
    system = shop.machine("cluster", "system", ready.SYSTEM, metadata=METADATA)
    await system.initialize()
    await shop.machine("cluster", "t-1", ready.INFERENCE_REQUEST, metadata=METADATA).initialize()
    assert (await got(client, "/api/v1/health"))["status"] == "ok"
    assert (await got(client, "/api/v1/system/state?governor=cluster"))["state"] == "Uninitialized"
    assert await got(client, "/api/v1/epochs/current?governor=cluster") == {"epoch": 0}
    assert [each["state_id"] for each in (await got(client, "/api/v1/nodes"))["machines"]] == ["node-1"]
    assert [each["state_id"] for each in (await got(client, "/api/v1/tasks"))["machines"]] == ["t-1"]
    assert (await got(client, "/api/v1/nodes/node-1/state?governor=cluster"))["epoch"] == 1
    assert (await got(client, "/api/v1/tasks/t-1/state?governor=cluster"))["state"] == "Queued"
    await got(client, "/api/v1/nodes/t-1/state?governor=cluster", 404)
    await got(client, "/api/v1/tasks/node-1/state?governor=cluster", 404)
    await got(client, "/api/v1/system/state", 400)  # two governors: which one?


async def test_one_governor_need_not_be_named(memory_places: Any) -> None:
    """The original's addresses lead to the machines of the only governor that there is."""
    async with memory_places.new().store() as store, client_of(monitor_app(store, DEFINITIONS)) as client:
        await got(client, "/api/v1/epochs/current", 400)
        await store.machine("cluster", "system", ready.SYSTEM, metadata=METADATA).initialize()
        assert await got(client, "/api/v1/epochs/current") == {"epoch": 0}


async def test_a_store_that_is_not_open() -> None:
    """Before its store is open the endpoint says that it cannot serve, and afterwards it can."""
    store = open_store("memory://")
    async with client_of(monitor_app(store, ORDER)) as client:
        assert (await got(client, "/health", 503))["detail"] == "the store is not open"
        await got(client, "/machines", 503)
        async with store:
            assert (await got(client, "/health")) == {"status": "ok", "store_id": store.store_id, "machines": ["order"]}


@pytest.mark.parametrize("wrong", [[], None, [ORDER, "order"], "order"])
async def test_definitions_must_be_definitions(shop: StateStore, wrong: Any) -> None:
    """What is not a definition, and none at all, is refused when the application is made; so is what is not a store."""
    with pytest.raises(InvalidData):
        monitor_app(shop, wrong)
    with pytest.raises(InvalidData):
        monitor_app(object(), ORDER)  # type: ignore[arg-type]
