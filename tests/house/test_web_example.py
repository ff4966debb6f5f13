"""The web service of the examples keeps its word over HTTP, in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ..support.processes import started

SERVICE = Path(__file__).parents[2] / "examples" / "web"


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    status: int
    etag: str | None
    location: str
    body: Any


@dataclass(frozen=True)
class Service:
    """An address that outlives its servers: what is asked between two of them waits for the next one.

    Attributes:
        listening: the socket that each server is given.
        folder: where the store's file lies.
    """

    listening: socket.socket
    folder: Path

    def server(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """A server, killed at the end of the block."""
        number = self.listening.fileno()
        app = ("--app-dir", SERVICE, "--fd", str(number), "--log-level", "warning", "service:app")
        return started(
            [sys.executable, "-W", "error", "-m", "uvicorn", *app],
            cwd=self.folder,
            env={**os.environ, "TAI_STATE_STORE": "sqlite:///orders.db"},
            pass_fds=[number],
        )

    def sent(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPConnection:
        """A request on its way; headers are named as in Python."""
        connection = http.client.HTTPConnection(*self.listening.getsockname(), timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json", **named})
        return connection

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """The answer to a request."""
        connection = self.sent(method, path, body, **headers)
        try:
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        found = response.headers
        return Answer(response.status, found.get("ETag"), found.get("Location", ""), json.loads(text) if text else None)

    def placed(self, items: int = 1) -> str:
        """The path of a new order."""
        return self("POST", "/orders", {"items": items}).location

    def actions(self, path: str) -> list[str]:
        """What happened to an order."""
        return [entry["action"] for entry in self("GET", f"{path}/history").body]


@contextmanager
def address(folder: Path) -> Iterator[Service]:
    """An address without a server, its store in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Service(listening, folder)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, with a server."""
    with address(tmp_path_factory.mktemp("web")) as service, service.server():
        yield service


def test_an_order_is_placed_and_read(service: Service) -> None:
    """A new order has a place and a version, and reads back with the same ETag."""
    placed = service("POST", "/orders", {"items": 2})
    assert (placed.status, placed.etag, placed.body) == (201, '"1"', {"items": 2, "status": "placed"})
    read = service("GET", placed.location)
    assert (read.status, read.etag, read.body) == (200, '"1"', placed.body)
    assert service.placed() != service.placed()


def test_a_change_names_what_it_was_decided_on(service: Service) -> None:
    """Without If-Match a change is refused, with a stale ETag as well, and with the present one it is made."""
    path = service.placed(2)
    assert service("PATCH", path, {"status": "paid"}).status == 428
    assert service("DELETE", path).status == 428
    paid = service("PATCH", path, {"status": "paid"}, If_Match='"1"')
    assert (paid.status, paid.etag, paid.body) == (200, '"2"', {"items": 2, "status": "paid"})
    assert service("PATCH", path, {"items": 3}, If_Match='"1"').status == 412
    assert service("DELETE", path, If_Match='"1"').status == 412
    assert service("PATCH", path, {"items": 3}, If_Match="something").status == 400
    assert service("GET", path).body == paid.body


def test_of_two_clients_one_is_first(service: Service) -> None:
    """Of two changes that were decided on one version at the same time, one is made and the other one refused."""
    path = service.placed()
    together = Barrier(2)

    def change(status: str) -> Answer:
        together.wait()
        return service("PATCH", path, {"status": status}, If_Match='"1"')

    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(change, ("paid", "shipped")))
    assert sorted(answer.status for answer in answers) == [200, 412]
    [made] = [answer for answer in answers if answer.status == 200]
    now = service("GET", path)
    assert (now.etag, now.body) == ('"2"', made.body)


def test_a_key_gives_the_first_answer_again(service: Service) -> None:
    """A request that is repeated under its key changes nothing and gets the first answer, whatever came after it."""
    placed = service("POST", "/orders", {"items": 2}, Idempotency_Key="place")
    assert service("POST", "/orders", {"items": 2}, Idempotency_Key="place") == placed
    first = service("PATCH", placed.location, {"items": 3}, If_Match='"1"', Idempotency_Key="edit")
    service("PATCH", placed.location, {"items": 4}, If_Match='"2"')
    assert service("PATCH", placed.location, {"items": 3}, If_Match='"1"', Idempotency_Key="edit") == first
    assert (first.status, first.etag, first.body["items"]) == (200, '"2"', 3)
    assert service("POST", "/orders", {"items": 2}, Idempotency_Key="place") == placed
    assert service.actions(placed.location) == ["place", "edit", "edit"]
    gone = [service("DELETE", placed.location, If_Match='"3"', Idempotency_Key="delete") for _ in range(2)]
    assert [answer.status for answer in gone] == [204, 204]


def test_a_key_stands_for_one_request(service: Service) -> None:
    """Another body, another order or another method under a key that was used is refused."""
    placed = service("POST", "/orders", {"items": 2}, Idempotency_Key="one")
    assert service("POST", "/orders", {"items": 3}, Idempotency_Key="one").status == 422
    service("PATCH", placed.location, {"items": 3}, If_Match='"1"', Idempotency_Key="two")
    assert service("PATCH", placed.location, {"items": 4}, If_Match='"1"', Idempotency_Key="two").status == 422
    assert service("DELETE", placed.location, If_Match='"2"', Idempotency_Key="two").status == 422
    assert service("PATCH", service.placed(), {"items": 3}, If_Match='"1"', Idempotency_Key="two").status == 422
    assert service("GET", placed.location).body == {"items": 3, "status": "placed"}


def test_the_history_comes_by_pages(service: Service) -> None:
    """A page has at most so many changes, from after a version on, and the last one is short."""
    path = service.placed(1)
    for version in range(1, 5):
        service("PATCH", path, {"items": version + 1}, If_Match=f'"{version}"')
    pages = [service("GET", f"{path}/history?after={after}&limit=2").body for after in (0, 2, 4)]
    assert [[entry["version"] for entry in page] for page in pages] == [[1, 2], [3, 4], [5]]
    assert [entry["to_state"]["items"] for page in pages for entry in page] == [1, 2, 3, 4, 5]
    assert service("GET", f"{path}/history?limit=0").status == 422
    assert service("GET", f"{path}/history?after=99").body == []


def test_what_is_not_there(service: Service) -> None:
    """What never was there is not found, what was deleted is gone, and its history stays."""
    for method, body in (("GET", None), ("PATCH", {"items": 2}), ("DELETE", None)):
        assert service(method, "/orders/never", body, If_Match='"1"').status == 404
    assert service("GET", "/orders/never/history").status == 404
    path = service.placed()
    deleted = service("DELETE", path, If_Match='"1"')
    assert (deleted.status, deleted.body) == (204, None)
    for method, body in (("GET", None), ("PATCH", {"items": 2}), ("DELETE", None)):
        assert service(method, path, body, If_Match='"2"').status == 410
    assert [entry["to_state"] for entry in service("GET", f"{path}/history").body] == [
        {"items": 1, "status": "placed"},
        None,
    ]


@pytest.mark.parametrize("key", ["", "k" * 5000], ids=["empty", "long"])
def test_a_key_that_is_no_id(service: Service, key: str) -> None:
    """A key that cannot be stored is a bad request."""
    assert service("POST", "/orders", {"items": 2}, Idempotency_Key=key).status == 400


def test_a_server_that_is_killed_between_two_tries(tmp_path: Path) -> None:
    """After a kill, whether before or after the answer came, the same request is answered, and was made once."""
    order = ("POST", "/orders", {"items": 2})
    with address(tmp_path) as service:
        with service.server():
            placed = service(*order, Idempotency_Key="answered")
        change = ("PATCH", placed.location, {"status": "paid"})
        with service.server() as process:
            assert service(*order, Idempotency_Key="answered") == placed
            with closing(service.sent(*change, If_Match='"1"', Idempotency_Key="not answered")):
                process.kill()
        with service.server():
            paid = service(*change, If_Match='"1"', Idempotency_Key="not answered")
            assert (paid.status, paid.etag, paid.body) == (200, '"2"', {"items": 2, "status": "paid"})
            assert service.actions(placed.location) == ["place", "edit"]
