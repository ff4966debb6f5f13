"""The fault proxy, driven by the official client: what it counts, and that each fault is the one it is named for."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING

import grpc
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore_v1.types import ListenRequest, ListenResponse

from ..support.fault_proxy import SERVICE, FaultProxy
from ..support.wire_faults import Account, Call, Fault, at_calls, nothing, randomly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tai_state.testing.emulator import Emulator

HANG_SECONDS = 60


@pytest.fixture
def proxy(firestore_emulator: Emulator) -> Iterator[FaultProxy]:
    """A proxy before the emulator, which lets everything pass."""
    with FaultProxy(firestore_emulator.host) as proxy:
        yield proxy


@pytest.fixture
def connect(firestore_project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], firestore.Client]]:
    """Gives an official client that talks to an address."""
    clients = []

    def make(host: str) -> firestore.Client:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", host)
        clients.append(firestore.Client(project=firestore_project, credentials=AnonymousCredentials()))
        return clients[-1]

    yield make
    for client in clients:
        client._firestore_api.transport.close()


@pytest.fixture
def client(proxy: FaultProxy, connect: Callable[[str], firestore.Client]) -> firestore.Client:
    """A client behind the proxy."""
    return connect(proxy.host)


@pytest.fixture
def direct(firestore_emulator: Emulator, connect: Callable[[str], firestore.Client]) -> firestore.Client:
    """A client that sees what is stored."""
    return connect(firestore_emulator.host)


def _create(client: firestore.Client, name: str = "d", timeout: float = HANG_SECONDS) -> None:
    client.document(f"c/{name}").create({"name": name}, retry=None, timeout=timeout)


def _stored(direct: firestore.Client, name: str = "d") -> bool:
    return direct.document(f"c/{name}").get(retry=None, timeout=HANG_SECONDS).exists


def test_calls_and_bytes_are_counted_by_method(proxy: FaultProxy, client: firestore.Client):
    """Unary and streamed calls are counted, with the bytes of their messages in both directions."""
    for n in range(3):
        _create(client, str(n))
    assert client.document("c/0").get(retry=None).to_dict() == {"name": "0"}
    assert [each.id for each in client.collection("c").stream(retry=None)] == ["0", "1", "2"]
    counted = proxy.statistics()
    assert counted.calls == {"Commit": 3, "BatchGetDocuments": 1, "RunQuery": 1}
    assert counted.injected == ()
    assert 100 < counted.sent_bytes["Commit"] < 1_000
    assert counted.received_bytes["RunQuery"] > counted.received_bytes["BatchGetDocuments"] > 100
    proxy.reset_counts()
    assert proxy.statistics().calls == {}


def test_errors_of_the_server_pass_as_they_are(client: firestore.Client, direct: firestore.Client):
    """A refusal has the same code and text through the proxy as without it."""
    _create(client)
    refusals = []
    for each in (client, direct):
        with pytest.raises(exceptions.AlreadyExists) as caught:
            _create(each)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize(
    ("fault", "error", "is_applied"),
    [
        (Fault.UNAVAILABLE, exceptions.ServiceUnavailable, False),
        (Fault.ABORTED, exceptions.Aborted, False),
        (Fault.EXHAUSTED, exceptions.ResourceExhausted, False),
        (Fault.RESET_BEFORE, exceptions.ServiceUnavailable, False),
        (Fault.LOST, exceptions.ServiceUnavailable, True),
        (Fault.RESET_AFTER, exceptions.ServiceUnavailable, True),
        (Fault.DUPLICATED, exceptions.AlreadyExists, True),
    ],
    ids=lambda each: each.value if isinstance(each, Fault) else "",
)
def test_a_fault_of_a_commit(
    proxy: FaultProxy,
    client: firestore.Client,
    direct: firestore.Client,
    fault: Fault,
    error: type[Exception],
    *,
    is_applied: bool,
):
    """The second commit fails as the fault says, is stored or not as it says, and the third works."""
    proxy.plan = at_calls({("Commit", 2): fault})
    _create(client, "before")
    with pytest.raises(error):
        _create(client)
    assert _stored(direct) is is_applied
    _create(client, "after")
    [injected] = proxy.statistics().injected
    assert (injected.call, injected.fault) == (Call("Commit", 2, 2), fault)
    assert injected.answers[:1] == (("OK",) if is_applied else ())


def test_a_duplicated_call_reaches_the_server_twice(
    proxy: FaultProxy, client: firestore.Client, direct: firestore.Client
):
    """An increment is applied twice, and the client sees nothing of it."""
    _create(client)
    proxy.plan = at_calls({("Commit", 2): Fault.DUPLICATED})
    client.document("c/d").update({"n": firestore.Increment(1)}, retry=None)
    assert direct.document("c/d").get().get("n") == 2
    assert proxy.statistics().injected[0].answers == ("OK", "OK")


def test_a_delayed_call_arrives_when_its_caller_has_given_up(
    proxy: FaultProxy, client: firestore.Client, direct: firestore.Client
):
    """The client's deadline passes without an answer; afterwards the commit is applied."""
    proxy.plan = at_calls({("Commit", 1): Fault.DELAYED})
    with pytest.raises(exceptions.DeadlineExceeded):
        _create(client, timeout=0.2)
    proxy.wait_for_faults(1)
    assert _stored(direct)


def test_a_stray_call_arrives_later(proxy: FaultProxy, client: firestore.Client, direct: firestore.Client):
    """It is not there after the next call, and is there before the one after that is answered, or at the end."""
    proxy.plan = at_calls({("Commit", 1): Fault.STRAY, ("Commit", 3): Fault.STRAY})
    with pytest.raises(exceptions.DeadlineExceeded):
        _create(client)
    assert not client.document("c/d").get(retry=None).exists
    with pytest.raises(exceptions.AlreadyExists):
        _create(client)
    with pytest.raises(exceptions.DeadlineExceeded):
        _create(client, "e")
    assert not _stored(direct, "e")
    proxy.settle()
    assert _stored(direct, "e")
    assert [each.answers for each in proxy.statistics().injected] == [("OK",), ("OK",)]


def test_a_call_under_way_is_waited_for():
    """There is no quiet while a call is under way, however it ends."""
    account = Account()
    with contextlib.suppress(RuntimeError), account.under_way():
        with pytest.raises(AssertionError):
            account.wait_until_idle(0)
        raise RuntimeError
    account.wait_until_idle(0)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.RESET_AFTER], ids=lambda each: each.value)
def test_a_stream_breaks_after_its_first_message(proxy: FaultProxy, client: firestore.Client, fault: Fault):
    """A read of three documents yields no more than one of them, and then the connection's error."""
    documents = [client.document(f"c/{n}") for n in range(3)]
    for document in documents:
        _create(client, document.id)
    proxy.plan = at_calls({("BatchGetDocuments", 1): fault})
    seen = []
    with pytest.raises(exceptions.ServiceUnavailable):  # noqa: PT012 - it is raised by the iteration
        for each in client.get_all(documents, retry=None):
            seen.append(each.id)
    assert len(seen) <= 1  # a reset may overtake the first message
    assert len(list(client.get_all(documents, retry=None))) == 3


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.ABORTED, Fault.RESET_BEFORE], ids=lambda each: each.value)
def test_a_stream_is_refused(proxy: FaultProxy, client: firestore.Client, fault: Fault):
    """A read that never reaches the server gives no document."""
    proxy.plan = at_calls({("BatchGetDocuments", 1): fault})
    with pytest.raises((exceptions.ServiceUnavailable, exceptions.Aborted)):
        client.document("c/d").get(retry=None)
    assert proxy.statistics().faults() == {fault: 1}


def _listening(
    host: str, project: str
) -> tuple[Iterator[ListenResponse], queue.SimpleQueue[ListenRequest | None], grpc.Channel]:
    database = f"projects/{project}/databases/(default)"
    target = {"documents": {"documents": [f"{database}/documents/c/d"]}, "target_id": 1}
    requests: queue.SimpleQueue[ListenRequest | None] = queue.SimpleQueue()
    requests.put(ListenRequest(database=database, add_target=target))
    channel = grpc.insecure_channel(host, options=[("grpc.use_local_subchannel_pool", 1)])
    listen = channel.stream_stream(
        f"{SERVICE}Listen",
        request_serializer=ListenRequest.serialize,
        response_deserializer=ListenResponse.deserialize,
    )
    metadata = [("google-cloud-resource-prefix", database), ("authorization", "Bearer owner")]
    return listen(iter(requests.get, None), metadata=metadata, timeout=HANG_SECONDS), requests, channel


def test_a_watch_passes_in_both_directions_until_it_is_cut(
    proxy: FaultProxy, direct: firestore.Client, firestore_project: str
):
    """Changes reach a listener as they happen, and a reset connection ends it at once."""
    answers, requests, channel = _listening(proxy.host, firestore_project)
    with channel:
        while next(answers).target_change.target_change_type.name != "CURRENT":
            pass
        _create(direct)
        while not (change := next(answers)).document_change.document.name.endswith("/c/d"):
            pass
        assert list(change.document_change.target_ids) == [1]
        proxy.cut()
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        requests.put(None)
    assert proxy.statistics().calls == {"Listen": 1}
    assert proxy.statistics().sent_bytes["Listen"] > 50


def test_a_watch_is_lost_as_planned(proxy: FaultProxy, firestore_project: str):
    """A listener that is to lose its stream hears one message and then the error."""
    proxy.plan = at_calls({("Listen", 1): Fault.LOST})
    answers, requests, channel = _listening(proxy.host, firestore_project)
    with channel:
        assert next(answers).target_change.target_change_type.name == "ADD"
        with pytest.raises(grpc.RpcError):
            next(answers)
        requests.put(None)


def test_chance_is_seeded():
    """The same seed gives the same faults to the same calls, in the share asked for, and only to these methods."""
    calls = [Call("Commit", n, n) for n in range(1, 2_001)]
    plans = [randomly(seed, 0.25, [Fault.LOST, Fault.ABORTED]) for seed in (7, 7, 8)]
    faults = [[plan(call) for call in calls] for plan in plans]
    assert faults[0] == faults[1] != faults[2]
    assert 400 < sum(each is not None for each in faults[0]) < 600
    assert not any(plans[0](Call("RunQuery", n, n)) for n in range(100))
    assert nothing(calls[0]) is None


def test_the_official_clients_retry_is_seen_to_lie(
    proxy: FaultProxy, client: firestore.Client, direct: firestore.Client
):
    """A creation whose answer is lost is sent again by default, and reported as failed though it happened."""
    proxy.plan = at_calls({("Commit", 1): Fault.LOST})
    with pytest.raises(exceptions.AlreadyExists):
        client.document("c/d").create({"name": "d"})
    assert _stored(direct)
    assert proxy.statistics().calls["Commit"] == 2
