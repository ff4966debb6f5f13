"""What is used of Google's libraries. They ship few types, so everything here is ``Any``, and stays in this room.

Importing this module costs half a second and 60 MB: only opening a store does.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final

aio: Any = import_module("grpc.aio")
auth: Any = import_module("google.auth")
auth_errors: Any = import_module("google.auth.exceptions")
routing_header: Any = import_module("google.api_core.gapic_v1.routing_header")

_types: Any = import_module("google.cloud.firestore_v1.types")
_transport: Any = import_module("google.cloud.firestore_v1.services.firestore.transports.grpc_asyncio")

Transport: Any = _transport.FirestoreGrpcAsyncIOTransport

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
