"""Looks behind a store on Firestore, and what stands for its driver's errors, for tests."""

from __future__ import annotations

import socket
from typing import Any

from tai_state.engines.firestore.engine import FirestoreEngine


async def everything(engine: FirestoreEngine) -> list[str]:
    """The paths of all documents in an open engine's database, wherever they are."""
    from tai_state.engines.firestore.driver import RunQueryRequest
    from tai_state.engines.firestore.streaming import Part

    connection = engine._opened()
    request = RunQueryRequest(parent=connection.names.root)
    request.structured_query.from_.add().all_descendants = True
    request.structured_query.limit.value = 10_000
    page = connection.query(request, 0)
    paths: list[str] = []
    while isinstance(arrived := await page.next(), Part):
        paths += [document.path for document in arrived.documents]
    return sorted(paths)


class Failure(Exception):
    """Looks like an error of the driver."""

    def __init__(self, code: Any) -> None:
        super().__init__(code)
        self._code = code

    def code(self) -> Any:
        """The status."""
        return self._code

    def details(self) -> str:
        """What a server might say, in two lines."""
        return "some details\nand more"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
