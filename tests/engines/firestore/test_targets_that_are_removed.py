"""What Firestore says of single targets and documents on a stream that goes on, beside what the emulator says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import InvalidData, StoreUnusable
from tai_state.engines.api import DocumentChange, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine

from ...support.ending_proxy import EndingProxy
from ...support.stores import collected

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio

HANG_SECONDS = 30
"""What takes longer than this hangs."""


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


@pytest.fixture
def proxy(firestore_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndingProxy]:
    """A proxy before the emulator, which what is opened from now on goes through."""
    with EndingProxy(firestore_emulator.host) as proxy:
        monkeypatch.setenv(EMULATOR, proxy.host)
        yield proxy


@pytest.fixture
async def engine(proxy: EndingProxy, firestore_project: str) -> AsyncIterator[FirestoreEngine]:
    """An open engine behind the proxy, with the documents ``c/a`` and ``c/b``."""
    async with FirestoreEngine(firestore_project) as engine:
        await engine.commit([Put("c/a", {}), Put("c/b", {})])
        yield engine


def _response() -> Any:
    from google.cloud.firestore_v1.types import ListenResponse

    return ListenResponse.pb()()


def _removal(code: str = "", *targets: int) -> bytes:
    """Some targets were removed, or all if none is named, for a cause or for none that is told."""
    response = _response()
    response.target_change.target_ids.extend(targets)
    response.target_change.target_change_type = 2
    if code:
        response.target_change.cause.code = grpc.StatusCode[code].value[0]
        response.target_change.cause.message = "says the server"
    return response.SerializeToString()


def _deletion(project: str, path: str, kind: str, *targets: int) -> bytes:
    """A document is there no longer, or does not match any longer; of which targets, may be told."""
    response = _response()
    gone = getattr(response, kind)
    gone.document = f"projects/{project}/databases/(default)/documents/{path}"
    gone.removed_target_ids.extend(targets)
    return response.SerializeToString()


@pytest.mark.parametrize("code", ["", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNAUTHENTICATED"])
async def test_a_target_removed_for_what_passes_is_watched_again(
    engine: FirestoreEngine, proxy: EndingProxy, code: str
):
    """A watch tells of changes after Firestore removed its target for a cause that passes, or told none."""
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            await anext(changes)
            proxy.say(_removal(code))
            made = await engine.commit([Put("c/a", {})])
            while (await anext(changes)) != DocumentChange("c/a", made.revision):
                pass


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("PERMISSION_DENIED", "roles/datastore.user"),
        ("FAILED_PRECONDITION", "native mode"),
        ("UNIMPLEMENTED", "server"),
    ],
)
async def test_a_removal_for_what_lasts_is_told_as_of_a_call(
    engine: FirestoreEngine, proxy: EndingProxy, code: str, advice: str
):
    """The error of a target removed for good names the status, says what to do, and gives the server's words."""
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            await anext(changes)
            proxy.say(_removal(code))
            with pytest.raises(StoreUnusable) as removed:
                await anext(changes)
    assert removed.value.code == code
    assert advice in removed.value.what
    assert "says the server" in removed.value.what


async def test_a_removal_for_what_lasts_ends_one_watch(engine: FirestoreEngine, proxy: EndingProxy):
    """Of two watches, the one whose target was removed for good ends, and the other one goes on."""
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as ended, engine.watch("c/b") as changes:
            await anext(ended)
            await anext(changes)
            proxy.say(_removal("PERMISSION_DENIED", 1))
            with pytest.raises(StoreUnusable):
                await anext(ended)
            made = await engine.commit([Put("c/b", {})])
            assert await anext(changes) == DocumentChange("c/b", made.revision)


async def test_the_last_removal_for_what_lasts_ends_the_stream(engine: FirestoreEngine, proxy: EndingProxy):
    """Once every target was removed for good, the stream ends, although the watches are not left yet."""
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a", "c") as ended, engine.watch("c/b") as other:
            await anext(other)
            proxy.say(_removal("PERMISSION_DENIED"))
            for changes in (ended, other):
                with pytest.raises(StoreUnusable):
                    await collected(changes)
            while proxy.listening:
                await anyio.lowlevel.checkpoint()
            async with engine.watch("c/b") as changes:
                await anext(changes)


async def test_a_removal_for_an_invalid_target_is_told_as_of_a_call(engine: FirestoreEngine, proxy: EndingProxy):
    """A target that Firestore refuses is data that means nothing to it, as in a call."""
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch("c/a") as changes:
            await anext(changes)
            proxy.say(_removal("INVALID_ARGUMENT"))
            with pytest.raises(InvalidData, match="says the server"):
                await anext(changes)


@pytest.mark.parametrize("kind", ["document_delete", "document_remove"])
@pytest.mark.parametrize("targets", [("c/a", "c/b"), ("c",)], ids=["documents", "collection"])
async def test_a_deletion_that_names_no_target_is_of_all(
    engine: FirestoreEngine, proxy: EndingProxy, firestore_project: str, targets: tuple[str, ...], kind: str
):
    """A document said to be gone, of no target in particular, is gone for all that have it."""
    with anyio.fail_after(HANG_SECONDS):
        async with engine.watch(*targets) as changes:
            assert {(await anext(changes)).path for _ in range(2)} == {"c/a", "c/b"}
            proxy.say(_deletion(firestore_project, "c/a", kind))
            proxy.say(_deletion(firestore_project, "c/b", kind, 1))
            assert await anext(changes) == DocumentChange("c/a", None)
