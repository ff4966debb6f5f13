"""The connections to Firestore: one if that is enough, several if many calls are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from tai_state.engines.firestore import driver

SERVICE: Final = "/google.firestore.v1.Firestore/"
_CALLS_PER_CHANNEL: Final = 64
"""How many calls one connection carries. Google's limit is about a hundred; calls beyond it would wait unnoticed."""
_CHANNELS_MAX: Final = 8

_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # otherwise all channels share one connection
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
_KEEPALIVE: Final = ("grpc.keepalive_time_ms", 30_000)
"""Detects that a silent connection is dead. Google's servers allow this, the emulator does not."""
_LOOKAHEAD: Final = ("grpc.http2.lookahead_bytes", 1024 * 1024)
"""How many bytes of a query's answer may arrive ahead of the thread that reads it."""


class Address(msgspec.Struct, frozen=True):
    """The address of a database.

    Attributes:
        project: the id of its project.
        database: the id of the database in the project.
        emulator: the host and port of an emulator; None for Google.
    """

    project: str
    database: str
    emulator: str | None


class Channel:
    """One connection and the calls on it.

    Attributes:
        busy: how many calls are under way.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.busy = 0
        self.commit: Any = connection.unary_unary(
            f"{SERVICE}Commit",
            request_serializer=driver.CommitRequest.SerializeToString,
            response_deserializer=driver.CommitResponse.FromString,
        )
        self.batch_get: Any = connection.unary_stream(
            f"{SERVICE}BatchGetDocuments",
            request_serializer=driver.BatchGetDocumentsRequest.SerializeToString,
            response_deserializer=driver.BatchGetDocumentsResponse.FromString,
        )
        self.list_documents: Any = connection.unary_unary(
            f"{SERVICE}ListDocuments",
            request_serializer=driver.ListDocumentsRequest.SerializeToString,
            response_deserializer=driver.ListDocumentsResponse.FromString,
        )
        self.listen: Any = connection.stream_stream(
            f"{SERVICE}Listen",
            request_serializer=driver.ListenRequest.SerializeToString,
            response_deserializer=driver.ListenResponse.FromString,
        )


class Channels:
    """A few channels to one address, for one event loop in one process."""

    def __init__(self, address: Address, credentials: Any, quota_project: str | None) -> None:
        self._address = address
        self._credentials = credentials
        self._quota_project = quota_project
        self._channels: list[Channel] = []

    @contextmanager
    def borrow(self) -> Generator[Channel, None, None]:
        """A channel for one call: the first that is not full, or a new one, or the one with the fewest calls."""
        channel = next((each for each in self._channels if each.busy < _CALLS_PER_CHANNEL), None)
        if channel is None:
            if len(self._channels) < _CHANNELS_MAX:
                channel = Channel(self._connect())
                self._channels.append(channel)
            else:
                channel = min(self._channels, key=lambda each: each.busy)
        channel.busy += 1
        try:
            yield channel
        finally:
            channel.busy -= 1

    def _connect(self) -> Any:
        if self._address.emulator is not None:
            return driver.aio.insecure_channel(self._address.emulator, options=_OPTIONS)
        return self._connect_to_google(driver.Transport, _OPTIONS)

    def connect_blocking(self) -> Any:
        """A channel for calls from threads; the caller closes it."""
        options = (*_OPTIONS, _LOOKAHEAD, driver.ONE_THREAD_PER_STREAM)
        if self._address.emulator is not None:
            return driver.grpc.insecure_channel(self._address.emulator, options=options)
        return self._connect_to_google(driver.BlockingTransport, options)

    def _connect_to_google(self, transport: Any, options: Sequence[tuple[str, int]]) -> Any:
        return transport.create_channel(
            credentials=self._credentials, quota_project_id=self._quota_project, options=(*options, _KEEPALIVE)
        )

    async def aclose(self) -> None:
        """Close all channels."""
        channels, self._channels = self._channels, []
        for each in channels:
            await each.connection.close()


async def connect(address: Address) -> Channels:
    """Channels with the credentials that Google's library finds; an emulator needs none.

    Raises:
        google.auth.exceptions.GoogleAuthError: there are no credentials.
    """
    if address.emulator is not None:
        return Channels(address, None, None)
    # The search for credentials reads files, and may ask the machine's metadata server.
    credentials, _ = await asyncio.to_thread(driver.auth.default, scopes=driver.Transport.AUTH_SCOPES)
    return Channels(address, credentials, getattr(credentials, "quota_project_id", None))


def metadata(address: Address, database: str, parameter: str) -> tuple[tuple[str, str], ...]:
    """The metadata to send with each call of one kind.

    Args:
        address: the address of the database.
        database: the name of the database's resource.
        parameter: the field of the request by which Google routes it.
    """
    routing = driver.routing_header.to_grpc_metadata(((parameter, database),))
    prefix = ("google-cloud-resource-prefix", database)
    # In the emulator, its owner bypasses the security rules.
    return (routing, prefix, ("authorization", "Bearer owner")) if address.emulator else (routing, prefix)
