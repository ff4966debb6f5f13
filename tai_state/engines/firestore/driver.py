"""What is used of Google's libraries. They ship few types, so everything here is ``Any``, and stays in this room.

What is private to them is used in this file alone, by the functions at its end: what is public can neither end a call
that says that it is over, nor wait for a call's end. Importing this module checks that all of it is there.

Importing it costs half a second and 60 MB: only opening a store does.
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
"""The first release that this was not tried with; the extra in ``pyproject.toml`` names it, too."""

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
"""By module: classes, and what they or their objects have that no document of gRPC's names."""


def check() -> None:
    """See that what is relied on is there: else a call would fail later, as if the connection had.

    Raises:
        UnknownStore: it is not in this release of grpcio; the message names what is missing.
    """
    for module, pairs in _RELIED_ON.items():
        for owner, name in pairs:
            if not _has(getattr(import_module(module), owner, None), name):
                raise UnknownStore(
                    f"grpcio {version('grpcio')} is not supported",
                    f"{module}.{owner} has no {name} there; install it by: pip install 'grpcio<{GRPCIO_BELOW}'",
                )


def _has(owner: Any, name: str) -> bool:
    """Whether the objects of a class have an attribute: from the class, or set when they are made."""
    classes: Sequence[type] = getattr(owner, "__mro__", ())
    makers: list[Any] = [vars(each).get("__init__") for each in classes]
    set_when_made: list[Sequence[str]] = [each.__code__.co_names for each in makers if hasattr(each, "__code__")]
    return hasattr(owner, name) or any(name in names for names in set_when_made)


check()

grpc: Any = import_module("grpc")
aio: Any = import_module("grpc.aio")
auth: Any = import_module("google.auth")
auth_errors: Any = import_module("google.auth.exceptions")
routing_header: Any = import_module("google.api_core.gapic_v1.routing_header")

_types: Any = import_module("google.cloud.firestore_v1.types")
_transports: Any = import_module("google.cloud.firestore_v1.services.firestore.transports")

Transport: Any = _transports.FirestoreGrpcAsyncIOTransport
BlockingTransport: Any = _transports.FirestoreGrpcTransport

ONE_THREAD_PER_STREAM: Final = (import_module("grpc.experimental").ChannelOptions.SingleThreadedUnaryStream, 1)
"""The thread that asks for a message also fetches it: without, another thread does, and wakes it for each."""

# The plain protobuf classes: their wrappers cost 45 to 90 times as much for each document.
BatchGetDocumentsRequest: Any = _types.BatchGetDocumentsRequest.pb()
BatchGetDocumentsResponse: Any = _types.BatchGetDocumentsResponse.pb()
CommitRequest: Any = _types.CommitRequest.pb()
CommitResponse: Any = _types.CommitResponse.pb()
ListenRequest: Any = _types.ListenRequest.pb()
ListenResponse: Any = _types.ListenResponse.pb()
RunQueryRequest: Any = _types.RunQueryRequest.pb()
RunQueryResponse: Any = _types.RunQueryResponse.pb()
Value: Any = _types.Value.pb()

_WAITS_FOR_THE_END: Final = "_AioCall._handle_status_once_received"
"""The task of the driver's that does, for each stream."""

_PROCESS: Final = os.getpid()


def check_process() -> None:
    """Refuse to go on in a child that was forked after gRPC was loaded: it hangs or crashes there.

    Raises:
        RuntimeError: this is such a child.
    """
    if os.getpid() != _PROCESS:
        raise RuntimeError(
            "this process was forked after Firestore was used: start it by spawn or forkserver, or fork earlier"
        )


def break_off(call: Any) -> None:
    """Have a call end soon, whatever it says of itself: a stream that could not be written to says that it is over.

    Its own ``cancel`` would leave such a stream as it is, and stop waiting for the end of any other.
    """
    call._cython_call.cancel("the caller was cancelled")  # noqa: SLF001


def begin(stream: Callable[[], Any]) -> tuple[Any, list[asyncio.Task[Any]]]:
    """Begin a stream. Gives the call, and the tasks in which the driver waits for its beginning and its end.

    What they wait for must arrive before the event loop is closed, or it fails in the next one. The second task is made
    in the first step of the first one, and nothing names it: it is in the list from the next thing awaited on.
    """
    loop = asyncio.get_running_loop()
    others: set[asyncio.Task[Any]] = set()
    # In this order, with nothing of another stream in between.
    loop.call_soon(lambda: others.update(_waiting_for_ends()))
    call = stream()
    waiting: list[asyncio.Task[Any]] = [call._initializer]  # noqa: SLF001
    loop.call_soon(lambda: waiting.extend(_waiting_for_ends() - others))
    return call, waiting


def _waiting_for_ends() -> set[asyncio.Task[Any]]:
    return {each for each in asyncio.all_tasks() if getattr(each.get_coro(), "__qualname__", "") == _WAITS_FOR_THE_END}


def drain(call: Any) -> None:
    """End a call of a thread's if it has not ended, and take what arrives of its end.

    The driver would keep a call whose end nobody took, and with it the connection, even after it was closed.
    """
    call.cancel()
    while call._state.due:  # noqa: SLF001
        call._consume_next_event()  # noqa: SLF001
