"""What is used of Google's libraries. They ship few types, so everything here is ``Any``, and stays in this room.

Importing this module costs half a second and 60 MB: only opening a store does.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final

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
