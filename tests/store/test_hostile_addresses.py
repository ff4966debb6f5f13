"""Addresses of nothing are refused, and roots that look dangerous stay in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tai_state import InvalidId, UnknownStore, open_store

from ..support.refusals import names
from ..support.stores import METADATA

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is refused is refused before anything that knows of event loops."""
    return "asyncio"


FORMS = "memory://, sqlite:///relative.db, sqlite:////absolute.db or firestore://project/database"
ADVICE = {
    "memory": f"use {FORMS}",
    "memory:/": f"use {FORMS}",
    "memory://path": "the memory engine has no path: use memory://",
    "memory://?colour=red": "use root, namespace or indexed",
    "sqlite:": f"use {FORMS}",
    "sqlite://": f"a file needs three or four slashes: {FORMS}",
    "sqlite:///": f"a file needs three or four slashes: {FORMS}",
    "sqlite://host/x.db": f"a file needs three or four slashes: {FORMS}",
    "sqlite:///x.db?mode=ro": "use root, namespace or indexed",
    "SQLITE:///x.db": f"use {FORMS}",
    "mysql://localhost": f"use {FORMS}",
    "://": f"use {FORMS}",
    "C:\\store.db": f"use {FORMS}",
    "store.db": f"use {FORMS}",
    "\ud800://x": f"use {FORMS}",
    "memory://[": "the memory engine has no path: use memory://",
    "sqlite:///a\x00b.db": f"a file needs three or four slashes: {FORMS}",
    "sqlite:///:memory:": "for a store in memory, use memory://",
}


@pytest.mark.parametrize(("address", "advice"), [pytest.param(*each, id=ascii(each[0])) for each in ADVICE.items()])
async def test_addresses_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, advice: str) -> None:
    """An address that means nothing says which forms there are, and makes no file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownStore) as caught:
        async with open_store(address):
            pass
    assert str(caught.value).endswith(f": {advice}")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"root": "a"},
        {"namespace": "a"},
        {"root": "a", "namespace": "\ud800"},
        {"root": "x" * 1_481, "namespace": "a"},
        {"root": 5, "namespace": "a"},
    ],
    ids=lambda options: ascii(options)[:40],
)
def test_half_a_namespace(options: dict[str, Any]) -> None:
    """Root and namespace come both or not at all, and are ids like others."""
    with pytest.raises(InvalidId):
        open_store("memory://", **options)


def test_half_a_namespace_in_the_address() -> None:
    """The same holds for the options of an address."""
    with pytest.raises(InvalidId, match="both or neither"):
        open_store("memory://?root=a")


async def test_roots_that_look_dangerous(tmp_path: Path) -> None:
    """Stores under different roots share a file and see nothing of each other, whatever the roots are called."""
    url = f"sqlite:///{tmp_path}/store.db"
    prefixes = [("", ""), ("a", "b"), ("a/b", "c"), ("a", "b/c"), ("..", ".."), ("governors", "g"), ("__x__", "%2F")]
    for number, (root, namespace) in enumerate(prefixes):
        async with open_store(url, root=root, namespace=namespace) as store:
            await store.save_state("g", "s", {"n": number}, METADATA)
    for number, (root, namespace) in enumerate(prefixes):
        async with open_store(url, root=root, namespace=namespace, create=False) as store:
            assert (await store.get_state("g", "s")).data == {"n": number}
            assert (await store.get_stats()).versions == 1
