"""Looks behind a store on Firestore, for tests."""

from __future__ import annotations

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
