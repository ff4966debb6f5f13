"""The four verbs on an open connection. Importing this loads Google's libraries; the engine does so when it opens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from tai_state.engines.api import (
    NOT_OPEN,
    Capabilities,
    Committed,
    Document,
    DocumentChange,
    Reading,
    Scan,
    Write,
    split,
)
from tai_state.engines.filtering import passes
from tai_state.engines.firestore import driver
from tai_state.engines.firestore.channels import Address, Channels, connect, metadata
from tai_state.engines.firestore.errors import incomplete_error, mapped_error
from tai_state.engines.firestore.listening import FirestoreWatch, Listener
from tai_state.engines.firestore.messages import (
    Names,
    commit_request,
    document,
    microseconds,
    missing_request,
    read_requests,
    required,
)
from tai_state.engines.firestore.queries import ScanPlan, is_within, plan, query
from tai_state.engines.firestore.retrying import tried
from tai_state.engines.firestore.seals import NONCE_BITS
from tai_state.engines.firestore.streaming import End, Page, Queries
from tai_state.engines.firestore.watching import Target, Watched
from tai_state.engines.paging import Paged, limited
from tai_state.engines.watching import is_collection

T = TypeVar("T")

DEADLINE_SECONDS: Final = 15.0
"""The deadline of each call, with all its tries; shorter than the store's timeout, so that the store can still find out
the outcome."""

_DOCUMENTS_PER_TARGET: Final = 100
_NOWHERE: Final = "meta/store"
"""The path to read if only the time is wanted, which comes with every answer."""


class Connection:
    """See :class:`~tai_state.engines.api.Engine` for the verbs.

    Args:
        address: the address of the database.
        channels: the channels to it.
        capabilities: the engine's capabilities.
        request_bytes_max: how many bytes the server accepts in one message.

    Attributes:
        names: the names of the database's documents.
    """

    def __init__(
        self, address: Address, channels: Channels, capabilities: Capabilities, request_bytes_max: int
    ) -> None:
        self.names: Names = Names(address.project, address.database)
        self._channels = channels
        self._capabilities = capabilities
        self._request_bytes_max = request_bytes_max
        self._by_database = metadata(address, self.names.database, "database")
        self._by_parent = metadata(address, self.names.root, "parent")
        self._queries = Queries(self.names, channels, self._by_parent)
        self._listener = Listener(self.names, channels, self._by_database)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def aclose(self) -> None:
        """End the watches, wait for the calls under way, then close everything; no call is tried again."""
        self._is_closed = True
        self._listener.close()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            with anyio.CancelScope(shield=True):
                await self._listener.wait_ended()
                await self._queries.aclose()
                await self._channels.aclose()

    async def read(self, paths: Sequence[str], at_us: int | None = None) -> Reading:
        """See :class:`~tai_state.engines.api.Engine`; as of a time, if one is given."""
        found: dict[str, Document | None] = {}
        time_us = at_us or 0
        each_once = list(dict.fromkeys(paths or [_NOWHERE]))
        for request in read_requests(self.names, each_once, self._request_bytes_max // 2):
            if time_us:  # all requests after the first see its moment
                request.read_time.FromMicroseconds(time_us)
            time_us = await self._tried(partial(self._read, request, found))
        return Reading(tuple([found[path] for path in paths]), time_us)

    async def _read(self, request: Any, to: dict[str, Document | None], seconds: float) -> int:
        """Read documents. Returns the time of the snapshot."""
        found: dict[str, Document | None] = {}
        time_us = 0
        with _translated("read"), self._channels.borrow() as channel:
            call = channel.batch_get(request, metadata=self._by_database, timeout=seconds)
            responses = [response async for response in call]  # read to the end even if one of them is wrong
        for response in responses:
            time_us = max(time_us, microseconds(response.read_time))
            kind = response.WhichOneof("result")
            if kind == "found":
                path = self.names.path(response.found.name)
                found[path] = document(path, response.found)
            elif kind == "missing":
                found[self.names.path(response.missing)] = None
        if len(found) < len(request.documents):
            raise incomplete_error(len(found), len(request.documents))
        to.update(found)
        return time_us

    def scan(self, scan: Scan, at_us: int | None = None) -> Paged[Document]:
        """See :class:`~tai_state.engines.api.Engine`; as of a time, if one is given."""
        is_empty = scan.end == "" or not all(each.values for each in scan.where)
        pages = _Pages(self, plan(self.names, scan, at_us), scan.limit)
        return Paged(limited(pages.fetch, 0 if is_empty else scan.limit))

    def query(self, request: Any, bytes_used: int, seconds: float = DEADLINE_SECONDS) -> Page:
        """Begin a query; ``bytes_used`` is how much was used of the pages before."""
        self._check_open()
        with _translated("scan"):
            return self._queries.page(request, bytes_used, seconds)

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        # The nonce only has to differ from the previous one of each document.
        nonce = random.getrandbits(NONCE_BITS)
        request = commit_request(self.names, writes, nonce, self._capabilities, self._request_bytes_max)
        if not request.writes:
            time_us = (await self.read([])).time_us
            return Committed(time_us, time_us)
        return await tried(partial(self._send, request, required(writes)), DEADLINE_SECONDS)

    async def _send(self, request: Any, required_path: str | None, seconds: float) -> Committed:
        """Commit; if the caller is cancelled, break the call off."""
        self._check_open()
        sent: list[Any] = []
        task = self._start(self._commit(request, required_path, sent, seconds))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if sent:
                driver.break_off(sent[0])
            else:
                task.cancel()
            raise

    async def _commit(self, request: Any, required_path: str | None, sent: list[Any], seconds: float) -> Committed:
        with self._channels.borrow() as channel:
            try:
                call = channel.commit(request, metadata=self._by_database, timeout=seconds)
                sent.append(call)
                response = await call
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancelled():
                    raise
                is_sent = driver.is_sent(channel.connection, error)
                raise mapped_error(error, "commit", required=required_path, is_sent=is_sent) from error
        time_us = microseconds(response.commit_time)
        return Committed(time_us, time_us)

    async def missing(self, collection: str) -> Sequence[str]:  # noqa: D102
        request = missing_request(self.names, collection)
        found: list[str] = []
        while True:
            answer = await self._tried(partial(self._list, request))
            found += [
                split(self.names.path(each.name))[1] for each in answer.documents if not each.HasField("update_time")
            ]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def _list(self, request: Any, seconds: float) -> Any:
        with _translated("scan"), self._channels.borrow() as channel:
            return await channel.list_documents(request, metadata=self._by_parent, timeout=seconds)

    def watch(self, targets: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[DocumentChange]]:  # noqa: D102
        each_once = dict.fromkeys(targets)
        documents = [each for each in each_once if not is_collection(each)]
        groups = [documents[n : n + _DOCUMENTS_PER_TARGET] for n in range(0, len(documents), _DOCUMENTS_PER_TARGET)]
        collections = [Target(collection=each) for each in each_once if is_collection(each)]
        return FirestoreWatch(self._listener, Watched([*map(Target, groups), *collections]), DEADLINE_SECONDS)

    async def _tried(self, call: Callable[[float], Coroutine[Any, Any, T]]) -> T:
        """The result of a call. If the caller is cancelled, the try goes on until its deadline at most."""

        async def finish(seconds: float) -> T:
            self._check_open()
            return await asyncio.shield(self._start(call(seconds)))

        return await tried(finish, DEADLINE_SECONDS)

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError(NOT_OPEN)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a call in a task of the engine's own.

        The task always runs to the end of the call. Otherwise the end would arrive in the next event loop, and the
        driver would fail there.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks the failure as seen: a cancelled caller does not see it


class _Pages:
    """The pages of one scan; each is a query of its own that continues where the previous one ended."""

    def __init__(self, connection: Connection, scan: ScanPlan, limit: int | None) -> None:
        self._connection = connection
        self._scan = scan
        self._left = None if scan.is_narrowed_here else limit
        self._page: Page | None = None
        self._last: Any | None = None
        self._bytes_used = 0
        self._ended = False

    async def fetch(self) -> Sequence[Document] | None:
        """The next part of a page."""
        return await tried(self._fetch, DEADLINE_SECONDS)

    async def _fetch(self, seconds: float) -> Sequence[Document] | None:
        while not self._ended:
            if self._page is None:
                self._page = self._connection.query(
                    query(self._scan, self._last, self._left), self._bytes_used, seconds
                )
            try:
                with _translated("scan"):
                    arrived = await self._page.next()
            except Exception:
                self._page = None  # the next call continues at the same place
                raise
            if isinstance(arrived, End):
                self._page = None
                self._ended = not arrived.is_cut or self._left == 0
                continue
            documents, self._last, self._bytes_used = arrived.documents, arrived.last, arrived.bytes_so_far
            self._left = None if self._left is None else self._left - len(documents)
            return self._narrowed(documents) if self._scan.is_narrowed_here else documents
        return None

    def _narrowed(self, page: Sequence[Document]) -> Sequence[Document]:
        """The page without documents that the server could not be asked to leave out."""
        scan = self._scan
        if scan.by is None and scan.end is not None and page and page[-1].id >= scan.end:
            self._ended = True
        return [each for each in page if is_within(scan, each.id) and passes(each.fields(), scan.left)]


async def open_connection(address: Address, capabilities: Capabilities, request_bytes_max: int) -> Connection:
    """Open a connection to a database; this sends nothing yet.

    Raises:
        StoreUnavailable: there are no credentials.
    """
    with _translated("open"):
        channels = await connect(address)
    return Connection(address, channels, capabilities, request_bytes_max)


@contextmanager
def _translated(operation: str) -> Generator[None, None, None]:
    """Raise the driver's errors as errors of this library."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if _is_cancelled():
            raise
        raise mapped_error(error, operation) from error


def _is_cancelled() -> bool:
    """Whether somebody cancels this task; the driver raises the same error if a connection is closed under a call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
