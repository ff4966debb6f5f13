"""Looks behind a store on Firestore, and what stands for its driver's errors, for tests."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from tai_state.engines.matters import Look, standing
from tai_state.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tai_state.engines.api import Committed, Reading, Write
    from tai_state.engines.firestore.engine import FirestoreEngine


async def looked_up(
    commit: Callable[[Sequence[Write]], Awaitable[Committed]],
    read: Callable[[Sequence[str]], Awaitable[Reading]],
    writes: Sequence[Write],
) -> Committed:
    """Commit, and take an emulator's fault away: it may answer by the end of a watch that was just left.

    Firestore keeps the two apart. Stores do, too, since they look up what became of a commit; bare engines leave that
    to their users.
    """
    try:
        return await commit(writes)
    except StoreUnavailable as error:
        if "call already cancelled" not in str(error):
            raise
    paths = [each.path for each in writes]
    reading = await read(paths)
    found = standing(writes, Look(dict(zip(paths, reading.documents, strict=True)), time_us=reading.time_us))
    return found or await commit(writes)


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
