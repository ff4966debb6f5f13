"""What a Firestore project needs: the index file is what the code generates, the rules keep everybody out."""

from __future__ import annotations

import base64
import http.client
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tai_state.engines.firestore.indexes import COLLECTIONS, index_config
from tai_state.testing.emulator import fresh_project, started_emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tai_state.testing.emulator import Emulator

ROOT = Path(__file__).parents[3]
FILES = ROOT / "emulator"


def _fields(config: dict[str, Any], collection: str) -> dict[str, list[dict[str, str]]]:
    return {
        each["fieldPath"]: each["indexes"] for each in config["fieldOverrides"] if each["collectionGroup"] == collection
    }


def test_the_index_file_is_generated():
    """The stored file is what the code gives for a store without indexed fields."""
    assert json.loads((FILES / "firestore.indexes.json").read_text()) == index_config()


def test_every_collection_of_the_format_is_exempt():
    """The collections are those that the format lists, and no field of any is indexed unless it is named."""
    text = (ROOT / "docs/format.md").read_text()
    paths = re.findall(r"^\| `((?:governors|locks|lockbeats|lockbreaks|meta|timers)/[^`]*)` \|", text, re.MULTILINE)
    assert sorted({path.split("/")[-2] for path in paths}) == list(COLLECTIONS)
    for collection in COLLECTIONS:
        assert _fields(index_config(), collection)["*"] == []


def test_only_what_is_asked_for_is_indexed():
    """Events have their time and version, states the named fields and their schema, each in one ascending index."""
    config = index_config(["status", "address.zip code", "status"])
    ascending = [{"order": "ASCENDING", "queryScope": "COLLECTION"}]
    assert _fields(config, "events") == {"*": [], "timestamp": ascending, "version": ascending}
    assert _fields(config, "states") == {
        "*": [],
        "data.address.`zip code`": ascending,
        "data.status": ascending,
        "schema": ascending,
    }
    assert sum(len(each["indexes"]) for each in config["fieldOverrides"]) == 5


def test_a_prefix_stands_before_every_collection():
    """With a prefix no collection of another program in the database is touched."""
    groups = {each["collectionGroup"] for each in index_config(["status"], "tai_")["fieldOverrides"]}
    assert groups == {f"tai_{each}" for each in COLLECTIONS}


@pytest.fixture(scope="module")
def guarded(firestore_emulator: Emulator) -> Iterator[Emulator]:
    """An emulator with these rules; the one that all tests share has none."""
    _ = firestore_emulator
    with started_emulator(rules=FILES / "firestore.rules") as emulator:
        yield emulator


def _unsigned_token(project: str) -> str:
    """A signed-in end user's token, as the emulator takes it: without a signature."""
    claims = {"sub": "ann", "user_id": "ann", "aud": project, "iss": f"https://securetoken.google.com/{project}"}
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts) + "."


def _asked(emulator: Emulator, method: str, path: str, token: str | None, body: object = None) -> int:
    connection = http.client.HTTPConnection(emulator.host, timeout=60)
    headers = {"Content-Type": "application/json", **({} if token is None else {"Authorization": f"Bearer {token}"})}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


REQUESTS: dict[str, tuple[str, str, object]] = {
    "read": ("GET", "/governors/g/states/s", None),
    "list": ("GET", "/governors/g/events", None),
    "create": ("POST", "/governors?documentId=mine", {"fields": {}}),
    "write": ("PATCH", "/governors/g/states/s", {"fields": {}}),
    "delete": ("DELETE", "/locks/l", None),
    "query": (
        "POST",
        ":runQuery",
        {"structuredQuery": {"from": [{"collectionId": "states", "allDescendants": True}]}},
    ),
}


@pytest.mark.parametrize("who", ["nobody", "user", "server"])
@pytest.mark.parametrize("name", REQUESTS)
def test_only_servers_are_let_in(guarded: Emulator, name: str, who: str):
    """Neither without a token nor as a signed-in user can anything be read or written; a server may do all of it."""
    project = fresh_project()
    root = f"/v1/projects/{project}/databases/(default)/documents"
    assert _asked(guarded, "PATCH", f"{root}/governors/g/states/s", "owner", {"fields": {}}) == http.client.OK
    token = {"nobody": None, "user": _unsigned_token(project), "server": "owner"}[who]
    method, path, body = REQUESTS[name]
    assert _asked(guarded, method, root + path, token, body) == (200 if who == "server" else 403)


def test_the_container_serves_this_machine_only():
    """The emulator in a container is published on the loopback address, and has the rules of this folder."""
    text = (FILES / "compose.yaml").read_text()
    assert re.findall(r'^ +- "([\d.]+:)?\d+:8080"', text, re.MULTILINE) == ["127.0.0.1:"]
    assert "./firestore.rules:/rules/firestore.rules" in text
