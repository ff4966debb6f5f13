"""The endpoint below a prefix: in FastAPI and in Starlette, and wherever the prefix is handed on in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from tai_state import StateStore
from tai_state.web import monitor_app
from tai_state.web.addresses import segment_of

from ..support.orders import ORDER, Cart
from ..support.stores import METADATA
from .conftest import DEFINITIONS, client_of
from .test_machines import HTML
from .test_odd_stores import Links

pytestmark = pytest.mark.anyio

PREFIX = "/deep/machines"
"""A prefix that looks like an address of the endpoint."""


def in_fastapi(app: ASGIApp) -> ASGIApp:
    """The application mounted in FastAPI."""
    outer = FastAPI()
    outer.mount(PREFIX, app)
    return outer


def in_starlette(app: ASGIApp) -> ASGIApp:
    """The application mounted in Starlette, in two steps."""
    return Starlette(routes=[Mount("/deep", routes=[Mount("/machines", app)])])


def stripped(root_path: str, *, end: str = "", has_raw_path: bool = True) -> Callable[[ASGIApp], ASGIApp]:
    """The application where the path has no prefix and the raw path has: behind proxies; with an end, in Litestar."""

    def mounted(app: ASGIApp) -> ASGIApp:
        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            path = f"{scope['path'].removeprefix(PREFIX).rstrip('/')}{end}" or "/"
            inner = {**scope, "path": path, "root_path": root_path}
            if not has_raw_path:
                del inner["raw_path"]
            await app(inner, receive, send)

        return outer

    return mounted


MOUNTS = {
    "fastapi": in_fastapi,
    "starlette": in_starlette,
    "stripped": stripped(PREFIX),
    "stripped and not told": stripped(""),
    "litestar": stripped("", end="/"),
}


@pytest.mark.parametrize("mount", MOUNTS.values(), ids=MOUNTS)
async def test_links_hold_below_a_prefix(shop: StateStore, mount: Callable[[ASGIApp], ASGIApp]) -> None:
    """All pages are reached by links from the front page, whatever the application is told of its prefix."""
    for state_id in ("a/b", "machines", "%2F", ".."):
        await shop.machine("a/machines", state_id, ORDER, metadata=METADATA).initialize(context=Cart())
    async with client_of(mount(monitor_app(shop, DEFINITIONS))) as client:
        front = await client.get(f"{PREFIX}/")
        waiting = [urljoin(f"http://monitor{PREFIX}/", front.headers["Location"])]
        seen: set[str] = set()
        while waiting:
            address = waiting.pop()
            if address not in seen:
                seen.add(address)
                answer = await client.get(address, headers=HTML)
                assert answer.status_code == 200, address
                if answer.headers["Content-Type"].startswith("text/html"):
                    waiting += [urljoin(address, link) for link in Links(answer.text).links]
        for state_id in ("a/b", "machines", "%2F", ".."):
            assert f"http://monitor{PREFIX}/machines/a%2Fmachines/{segment_of(state_id)}/history" in seen


async def test_a_front_without_a_slash(shop: StateStore) -> None:
    """The address of the mount itself, without a slash, leads to the list as well."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": "", "root_path": "/deep"}, receive, send)

    app: Any = monitor_app(shop, DEFINITIONS)
    async with client_of(outer) as client:
        front = await client.get("/deep")
        assert urljoin("http://monitor/deep", front.headers["Location"]) == "http://monitor/deep/machines"


async def test_a_problem_names_the_whole_address(shop: StateStore) -> None:
    """The instance of a problem is the path that the client asked for, prefix included."""
    async with client_of(in_fastapi(monitor_app(shop, DEFINITIONS))) as client:
        answer = await client.get(f"{PREFIX}/machines/shop/a%2Fb")
        assert answer.json()["instance"] == f"{PREFIX}/machines/shop/a%2Fb"


async def test_a_server_that_hands_on_no_raw_path(shop: StateStore) -> None:
    """Where a server tells the decoded path alone, ids without a slash are found."""
    await shop.machine("shop", "é %", ORDER, metadata=METADATA).initialize(context=Cart())
    async with client_of(stripped("", has_raw_path=False)(monitor_app(shop, DEFINITIONS))) as client:
        assert (await client.get(f"/machines/shop/{segment_of('é %')}/state")).status_code == 200
