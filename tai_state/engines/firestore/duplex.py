"""One call in both directions, read by a thread: what an event loop reads can arrive after that loop was closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from tai_state.engines.firestore import driver
from tai_state.engines.firestore.channels import SERVICE

_AHEAD_MAX: Final = 16
"""So many messages may wait to be used; those beyond them wait at the server."""


class _End(msgspec.Struct, frozen=True):
    error: Exception | None


class Listening(AsyncIterator[Any]):
    """A call of Listen: requests are sent as they are given, responses are yielded as they come.

    It ends where the server ends it, and where a message cannot be read. Who leaves it closes it.

    Args:
        connection: whose calls are made by threads.
        metadata: goes with the call.
        requests: the first ones.

    Raises:
        The driver's errors, as they are, from the iteration.
    """

    def __init__(self, connection: Any, metadata: Any, requests: Iterable[Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD_MAX)
        self._ended = False
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for request in requests:
            self._requests.put(request)
        listen = connection.stream_stream(f"{SERVICE}Listen", request_serializer=driver.ListenRequest.SerializeToString)
        self._call = listen(iter(self._requests.get, None), metadata=metadata)
        # No thread of a pool: a process whose event loop was broken off would wait for it.
        self._thread = threading.Thread(target=self._read, name="tai-state firestore listener", daemon=True)
        self._thread.start()

    def send(self, request: Any) -> None:
        """Send one more request; after the end, none."""
        self._requests.put(request)

    def cancel(self) -> None:
        """Have it end soon."""
        self._call.cancel()

    async def aclose(self) -> None:
        """End it, and wait for the end."""
        self.cancel()
        self._requests.put(None)
        while not self._ended:
            with suppress(Exception):
                await anext(self)
        self._thread.join()

    async def __anext__(self) -> Any:
        if self._ended:
            raise StopAsyncIteration
        arrived = await self._arrived.get()
        self._room.release()
        if not isinstance(arrived, _End):
            return arrived
        self._ended = True
        raise arrived.error or StopAsyncIteration

    def _read(self) -> None:
        error = None
        try:
            for data in self._call:
                response = driver.ListenResponse.FromString(data)
                self._room.acquire()
                self._hand_over(response)
        except driver.DecodeError:
            pass
        except Exception as failure:  # noqa: BLE001 - raised where it is awaited
            error = failure
        with suppress(RuntimeError):  # the event loop was closed: nobody waits
            self._hand_over(_End(error))

    def _hand_over(self, arrived: Any) -> None:
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, arrived)
