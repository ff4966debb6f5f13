"""A Listen stream that the server ends while a request is being written: the watches go on, and closing ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Self

import pytest

from tai_state.engines.firestore.engine import EMULATOR

grpc = pytest.importorskip("grpc")

WATCHES = 300
BUSY_SECONDS = 0.3
"""So long the program's event loop does something else while its second stream ends."""
HANG_SECONDS = 25
"""What takes longer than this hangs."""

PROGRAM = f"""
import asyncio, os, time
from collections import Counter
from tai_state.engines.firestore.engine import FirestoreEngine

async def main():
    engine = await FirestoreEngine("p").__aenter__()
    told = Counter()
    by_all = {{1: asyncio.Event(), 2: asyncio.Event(), 3: asyncio.Event()}}

    async def watch(n):
        async with engine.watch(f"c/{{n}}") as changes:
            async for change in changes:
                stream = change.revision // 1_000_000
                if stream == 2:
                    time.sleep({BUSY_SECONDS})
                told[stream] += 1
                if told[stream] == {WATCHES}:
                    by_all[stream].set()

    tasks = [asyncio.create_task(watch(n)) for n in range({WATCHES})]
    await by_all[1].wait()
    for name, work in (("told", by_all[3].wait()), ("closed", engine.__aexit__(None, None, None))):
        done, _ = await asyncio.wait([asyncio.ensure_future(work)], timeout={HANG_SECONDS})
        if done:
            print(name, flush=True)
    os._exit(0)

asyncio.run(main())
"""


class Server(grpc.GenericRpcHandler):
    """Ends its first stream when all watches are established, its second one after the first request."""

    def __init__(self) -> None:
        self._streams = count(1)
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self,))
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop(None).wait()

    def service(self, _: Any) -> Any:
        """Every call is a Listen."""
        return grpc.stream_stream_rpc_method_handler(self._listen)

    def _listen(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stream, told = next(self._streams), 0
        for request in requests:
            target, path = _asked(request)
            if not target:
                continue
            yield _target_change(1, target)
            for _ in range(300 if stream == 2 else 1):
                yield _document(stream, target, path)
            if stream == 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "over")
            yield _target_change(3, target)
            told += 1
            if stream == 1 and told == WATCHES:
                context.abort(grpc.StatusCode.UNAVAILABLE, "over")


def _asked(request: bytes) -> tuple[int, str]:
    from google.cloud.firestore_v1.types import ListenRequest

    target = ListenRequest.pb(ListenRequest.deserialize(request)).add_target
    return target.target_id, next(iter(target.documents.documents), "")


def _target_change(kind: int, target: int) -> bytes:
    from google.cloud.firestore_v1.types import ListenResponse

    response = ListenResponse.pb()()
    response.target_change.target_change_type = kind
    response.target_change.target_ids.append(target)
    return response.SerializeToString()


def _document(revision: int, target: int, name: str) -> bytes:
    from google.cloud.firestore_v1.types import ListenResponse

    response = ListenResponse.pb()()
    response.document_change.document.name = name
    response.document_change.document.update_time.seconds = revision
    response.document_change.target_ids.append(target)
    return response.SerializeToString()


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What a program says that watches through such a server, and then closes its store."""
    with Server() as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            capture_output=True,
            text=True,
            env={**os.environ, EMULATOR: server.host},
            timeout=60,
            check=True,
        )
    return done.stdout.split()


def test_watches_go_on_by_a_new_stream(said: list[str]):
    """All watches are told by the stream after the one that ended while requests were written to it."""
    assert "told" in said


def test_closing_ends(said: list[str]):
    """A store whose stream ended while requests were written to it can be closed."""
    assert "closed" in said
