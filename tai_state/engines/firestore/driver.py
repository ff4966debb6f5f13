"""The parts of Google's libraries that are used. They have few types, so everything here is ``Any``.

Private parts of these libraries are used only in this file, by functions at its end: the public parts can neither
end a call that claims to be over, nor wait for the end of a call. Importing this module checks that they are there.

The import takes half a second and 60 MB, so it happens only when a store is opened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

from tai_state.errors import UnknownStore

GRPCIO_BELOW: Final = "1.86"
"""The first release that this was not tested with; the extra in ``pyproject.toml`` names it too."""

_RELIED_ON: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "grpc.experimental": (("ChannelOptions", "SingleThreadedUnaryStream"),),
    "grpc._channel": (
        ("_SingleThreadedRendezvous", "_consume_next_event"),
        ("_SingleThreadedRendezvous", "_state"),
        ("_RPCState", "due"),
    ),
    "grpc.aio._call": (("UnaryUnaryCall", "_cython_call"), ("StreamStreamCall", "_initializer")),
    "grpc._cython.cygrpc": (("_AioCall", "cancel"), ("_AioCall", "_handle_status_once_received")),
}
"""By module: pairs of a class and an undocumented attribute that the class or its objects must have."""


def check() -> None:
    """Check that all attributes relied on are there; otherwise a call would fail later like a broken connection.

    Raises:
        UnknownStore: this release of grpcio lacks one; the message names it.
    """
    for module, pairs in _RELIED_ON.items():
        for owner, name in pairs:
            if not _has(getattr(import_module(module), owner, None), name):
                raise UnknownStore(
                    f"grpcio {version('grpcio')} is not supported",
                    f"its {module}.{owner} has no {name}; run: pip install 'grpcio<{GRPCIO_BELOW}'",
                )


def _has(owner: Any, name: str) -> bool:
    """Whether the objects of a class have an attribute: from the class, or set by a constructor."""
    classes: Sequence[type] = getattr(owner, "__mro__", ())
    makers: list[Any] = [vars(each).get("__init__") for each in classes]
    set_when_made: list[Sequence[str]] = [each.__code__.co_names for each in makers if hasattr(each, "__code__")]
    return hasattr(owner, name) or any(name in names for names in set_when_made)


check()

grpc: Any = import_module("grpc")
aio: Any = import_module("grpc.aio")
auth: Any = import_module("google.auth")
routing_header: Any = import_module("google.api_core.gapic_v1.routing_header")

_types: Any = import_module("google.cloud.firestore_v1.types")
_transports: Any = import_module("google.cloud.firestore_v1.services.firestore.transports")

Transport: Any = _transports.FirestoreGrpcAsyncIOTransport
BlockingTransport: Any = _transports.FirestoreGrpcTransport

ONE_THREAD_PER_STREAM: Final = (import_module("grpc.experimental").ChannelOptions.SingleThreadedUnaryStream, 1)
"""The thread that asks for a message fetches it itself. Otherwise a second thread fetches each message and wakes it."""

# The plain protobuf classes: the wrapped ones take 45 to 90 times as long for each document.
BatchGetDocumentsRequest: Any = _types.BatchGetDocumentsRequest.pb()
BatchGetDocumentsResponse: Any = _types.BatchGetDocumentsResponse.pb()
CommitRequest: Any = _types.CommitRequest.pb()
CommitResponse: Any = _types.CommitResponse.pb()
ListDocumentsRequest: Any = _types.ListDocumentsRequest.pb()
ListDocumentsResponse: Any = _types.ListDocumentsResponse.pb()
ListenRequest: Any = _types.ListenRequest.pb()
ListenResponse: Any = _types.ListenResponse.pb()
RunQueryRequest: Any = _types.RunQueryRequest.pb()
RunQueryResponse: Any = _types.RunQueryResponse.pb()
Value: Any = _types.Value.pb()

STATUS_NAMES: Final[Mapping[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode if code.value[0]}
"""The names of the status codes by number, as messages have them; without OK."""

_NOT_CONNECTED: Final = ("failed to connect to all addresses", "errors resolving ")
"""How the driver's message begins if it had no connection to send a call on."""

_WAITS_FOR_THE_END: Final = "_AioCall._handle_status_once_received"
"""The name of the driver's coroutine that waits for the end of a stream."""

_PROCESS: Final = os.getpid()


def check_process() -> None:
    """Refuse to work in a process that was forked after gRPC was loaded: gRPC hangs or crashes there.

    Raises:
        RuntimeError: this is such a process.
    """
    if os.getpid() != _PROCESS:
        raise RuntimeError("this process was forked after Firestore was used: use spawn or forkserver, or fork earlier")


def is_sent(connection: Any, error: Any) -> bool:
    """Whether a call that failed may have reached the server.

    The driver tells only in words that it could not connect. A server could say the same of another one behind it, but
    then there is a connection to this server.
    """
    details = error.details() if isinstance(error, grpc.RpcError) else ""
    return not f"{details}".startswith(_NOT_CONNECTED) or connection.get_state() is grpc.ChannelConnectivity.READY


def break_off(call: Any) -> None:
    """Make a call end soon, even a stream that claims to be over because writing to it has failed.

    The call's own ``cancel`` does nothing to such a stream, and for any other stream it stops waiting for the end.
    """
    call._cython_call.cancel("the caller was cancelled")  # noqa: SLF001


def begin(stream: Callable[[], Any]) -> tuple[Any, list[asyncio.Task[Any]]]:
    """Begin a stream. Returns the call, and the tasks in which the driver waits for its beginning and its end.

    Both tasks must end before the event loop is closed; otherwise the driver fails in the next event loop. The first
    task makes the second one in its first step, and has no reference to it. The list includes it after the caller's
    next ``await``.
    """
    loop = asyncio.get_running_loop()
    others: set[asyncio.Task[Any]] = set()
    # These three steps run in this order, with no step of another stream in between.
    loop.call_soon(lambda: others.update(_waiting_for_ends()))
    call = stream()
    waiting: list[asyncio.Task[Any]] = [call._initializer]  # noqa: SLF001
    loop.call_soon(lambda: waiting.extend(_waiting_for_ends() - others))
    return call, waiting


def _waiting_for_ends() -> set[asyncio.Task[Any]]:
    return {each for each in asyncio.all_tasks() if getattr(each.get_coro(), "__qualname__", "") == _WAITS_FOR_THE_END}


def drain(call: Any) -> None:
    """End a call that was made by a thread, unless it has ended, and take all that still arrives from it.

    Otherwise the driver keeps the call, and with it the connection, even after the connection was closed.
    """
    call.cancel()
    while call._state.due:  # noqa: SLF001
        call._consume_next_event()  # noqa: SLF001
