"""A gRPC proxy between a Firestore client and the emulator: it counts the calls, and lets them go wrong as planned.

It passes on raw bytes, so it needs no message types, and it works in threads of its own, so that clients of every
kind (synchronous, asyncio, other processes) can be behind it::

    with FaultProxy(emulator.host, at_calls({("Commit", 3): Fault.LOST})) as proxy:
        os.environ["FIRESTORE_EMULATOR_HOST"] = proxy.host
        ...
    assert proxy.statistics().calls["Commit"] == 4
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NoReturn, Self, TypeAlias

import grpc

from .tcp_relay import TcpRelay
from .wire_faults import Account, Call, Fault, Injected, Plan, Statistics, nothing

SERVICE: Final = "/google.firestore.v1.Firestore/"
STREAMED: Final = frozenset({"BatchGetDocuments", "RunQuery", "RunAggregationQuery", "ExecutePipeline"})
CONVERSATIONS: Final = frozenset({"Listen", "Write"})

HANG_SECONDS: Final = 60
THREADS: Final = 512
OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)

REFUSALS: Final = {
    Fault.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Fault.ABORTED: grpc.StatusCode.ABORTED,
    Fault.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
UNARY_ONLY: Final = frozenset({Fault.STRAY, Fault.DUPLICATED})

Answer: TypeAlias = bytes | grpc.RpcError


class FaultProxy:
    """Listens on a loopback port for Firestore's calls and passes them on.

    Args:
        target: the emulator's host and port.
        plan: what goes wrong; it may be replaced at any time.
        stray_calls: a stray call arrives right before the how-many-eth call after its own.
    """

    def __init__(self, target: str, plan: Plan = nothing, *, stray_calls: int = 2) -> None:
        self.plan = plan
        self._stray_calls = stray_calls
        self._account = Account()
        self._strays: list[tuple[Call, Callable[[], Answer]]] = []
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self._relay = TcpRelay(("127.0.0.1", self._server.add_insecure_port("127.0.0.1:0")))
        self.host = self._relay.host

    def __enter__(self) -> Self:
        self._server.start()
        self._relay.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._relay.__exit__()
        self._server.stop(None).wait()
        self._channel.close()

    def statistics(self) -> Statistics:
        """What happened so far."""
        return self._account.statistics()

    def reset_counts(self) -> None:
        """Count from here; plans meet the numbers from 1 again."""
        self._account.reset()

    def wait_for_faults(self, count: int) -> None:
        """Until so many faults are over: of a delayed call the client hears nothing when it arrives."""
        self._account.wait_for_faults(count, HANG_SECONDS)

    def cut(self) -> None:
        """Reset all connections now."""
        self._relay.cut()

    def settle(self) -> None:
        """Let every call that was given up arrive now: at the end of a test, before the final look."""
        self._account.wait_until_idle(HANG_SECONDS)
        self._deliver(None)

    def one_answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Pass on a unary call."""
        with self._account.under_way():
            call, fault = self._begin(method)
            self._account.sent(method, request)
            forward = self._channel.unary_unary(SERVICE + method)
            send = partial(_sent, forward, request, _metadata(context))
            if fault is not None:
                answer = self._go_wrong(call, fault, send, context)
            else:
                answer = send(context.time_remaining())
            return self._account.received(method, _given(answer, context))

    def many_answers(
        self, method: str, request: bytes | Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Pass on a call whose answer is a stream, and perhaps its request, too."""
        call, fault = self._begin(method)
        if fault in UNARY_ONLY:
            fault = None
        if fault is not None:
            self._fail_before(call, fault, context)
        if fault is Fault.DELAYED:
            _wait_until_given_up(context)
            self._account.injected(Injected(call, fault))
            return
        if isinstance(request, bytes):
            self._account.sent(method, request)
            forward: Any = self._channel.unary_stream(SERVICE + method)
        else:
            request = (self._account.sent(method, each) for each in request)
            forward = self._channel.stream_stream(SERVICE + method)
        answers = forward(request, metadata=_metadata(context), timeout=context.time_remaining())
        context.add_callback(answers.cancel)
        try:
            for answer in answers:
                yield self._account.received(method, answer)
                if fault is not None:
                    self._fail_after(Injected(call, fault, ("OK",)), context)
        except grpc.RpcError as error:
            _given(error, context)
        if fault is not None:
            self._fail_after(Injected(call, fault, ("OK",)), context)

    def _go_wrong(self, call: Call, fault: Fault, send: Callable[[], Answer], context: grpc.ServicerContext) -> Answer:
        self._fail_before(call, fault, context)
        if fault is Fault.STRAY:
            with self._lock:
                self._strays.append((call, send))
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "planned: it arrives later")
        if fault is Fault.DELAYED:
            _wait_until_given_up(context)
        answers = [send() for _ in range(2 if fault is Fault.DUPLICATED else 1)]
        injected = Injected(call, fault, tuple(map(_code, answers)))
        if fault in (Fault.LOST, Fault.RESET_AFTER):
            self._fail_after(injected, context)
        self._account.injected(injected)
        return answers[-1]

    def _fail_before(self, call: Call, fault: Fault, context: grpc.ServicerContext) -> None:
        """End a call whose fault means that it never reaches the server."""
        if fault in REFUSALS:
            self._account.injected(Injected(call, fault))
            context.abort(REFUSALS[fault], "planned: it never arrived")
        if fault is Fault.RESET_BEFORE:
            self._account.injected(Injected(call, fault))
            self._reset(context)

    def _fail_after(self, injected: Injected, context: grpc.ServicerContext) -> NoReturn:
        """End a call that the server has answered."""
        self._account.injected(injected)
        if injected.fault is Fault.RESET_AFTER:
            self._reset(context)
        context.abort(grpc.StatusCode.UNAVAILABLE, "planned: its answer was lost")

    def _reset(self, context: grpc.ServicerContext) -> NoReturn:
        port = context.peer().rpartition(":")[2]
        if port.isdigit():  # of a connection that is gone already, gRPC knows none
            self._relay.cut(int(port))
        context.abort(grpc.StatusCode.UNAVAILABLE, "nobody hears this: the connection is gone")

    def _begin(self, method: str) -> tuple[Call, Fault | None]:
        """Count a call, and let the strays due by now arrive before it."""
        call, fault = self._account.begin(method, self.plan)
        self._deliver(call.overall - self._stray_calls)
        return call, fault

    def _deliver(self, until: int | None) -> None:
        """Send the strays up to the how-many-eth call of all, or every one."""
        with self._lock:
            due = [each for each in self._strays if until is None or each[0].overall <= until]
            self._strays = [each for each in self._strays if each not in due]
        for call, send in due:
            self._account.injected(Injected(call, Fault.STRAY, (_code(send()),)))


class _Methods(grpc.GenericRpcHandler):
    """Every method of the service, without serializers: the messages stay bytes."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, method = handler_call_details.method.rpartition("/")
        if f"{service}/" != SERVICE:
            return None
        if method in CONVERSATIONS:
            return grpc.stream_stream_rpc_method_handler(partial(self._proxy.many_answers, method))
        if method in STREAMED:
            return grpc.unary_stream_rpc_method_handler(partial(self._proxy.many_answers, method))
        return grpc.unary_unary_rpc_method_handler(partial(self._proxy.one_answer, method))


def _metadata(context: grpc.ServicerContext) -> list[tuple[str, str | bytes]]:
    """What the client sent along, without what belongs to its connection."""
    own = ("user-agent", "te", "content-type")
    return [
        (key, value) for key, value in context.invocation_metadata() if key not in own and not key.startswith("grpc-")
    ]


def _sent(forward: Any, request: bytes, metadata: Any, seconds: float | None = HANG_SECONDS) -> Answer:
    try:
        return forward(request, metadata=metadata, timeout=seconds)
    except grpc.RpcError as error:
        return error


def _code(answer: Answer) -> str:
    return "OK" if isinstance(answer, bytes) else answer.code().name


def _given(answer: Answer, context: grpc.ServicerContext) -> bytes:
    """The answer, given to the client as the server gave it."""
    if not isinstance(answer, bytes):
        context.set_trailing_metadata(answer.trailing_metadata() or ())
        context.abort(answer.code(), answer.details() or "")
    return answer


def _wait_until_given_up(context: grpc.ServicerContext) -> None:
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(HANG_SECONDS)
