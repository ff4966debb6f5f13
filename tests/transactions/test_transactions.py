"""Transactions: several states at one moment, or not at all."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from pydantic import BaseModel

from tai_state import (
    CommitOutcomeUnknown,
    InvalidData,
    InvalidId,
    StateNotFound,
    StateSnapshot,
    StateStore,
    TaiStateError,
    TransactionFailed,
    TransactionManager,
    TransactionStatus,
    VersionConflict,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine
from tai_state.transactions import recent
from tai_state.transactions.manager import RECORDS_MAX

from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tai_state import StateHandle, Transaction

pytestmark = pytest.mark.anyio


class Account(BaseModel):
    """What a bank knows of a customer."""

    balance: int


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store with two accounts."""
    async with place.store() as store:
        await open_accounts(store)
        yield store


@pytest.fixture
def manager(store: StateStore) -> TransactionManager:
    """A manager of its transactions."""
    return TransactionManager(store)


async def open_accounts(store: StateStore) -> None:
    """A hundred for alice, nothing for bob."""
    await account(store, "alice").save(Account(balance=100), METADATA)
    await account(store, "bob").save(Account(balance=0), METADATA)


def account(store: StateStore, name: str) -> StateHandle[Account]:
    """A handle on one of them."""
    return store.state(GOVERNOR, name, Account)


async def balances(store: StateStore, *names: str) -> list[int]:
    """As they stand."""
    return [(await account(store, name).get()).data.balance for name in names or ("alice", "bob")]


def transfer(store: StateStore, amount: int = 1) -> Callable[[Transaction], Awaitable[int]]:
    """Moves money from alice to bob, and says what alice has then."""
    alice, bob = account(store, "alice"), account(store, "bob")

    async def function(tx: Transaction) -> int:
        giver, taker = await tx.get_all(alice, bob)
        assert giver is not None
        assert taker is not None
        tx.put(alice, Account(balance=giver.data.balance - amount), action="give")
        tx.put(bob, Account(balance=taker.data.balance + amount), action="take")
        return (await tx.get(alice)).data.balance

    return function


# What one transaction does ---------------------------------------------------------------------------------------


async def test_a_transfer(store: StateStore):
    """Both states change in one commit, each by an event of its own; the function's result comes back."""
    assert await store.transact(transfer(store, 30), METADATA) == 70
    assert await balances(store) == [70, 30]
    [give] = await collected(store.get_events(GOVERNOR, "alice", after=1))
    [take] = await collected(store.get_events(GOVERNOR, "bob", after=1))
    assert (give.action, give.from_state, give.to_state) == ("give", {"balance": 100}, {"balance": 70})
    assert (take.action, take.version) == ("take", 2)
    assert give.recorded_at == take.recorded_at
    assert give.metadata == msgspec.structs.replace(METADATA, parent_version=1)


async def test_a_transaction_sees_its_own_writes(store: StateStore, manager: TransactionManager):
    """What was put or deleted is read back so, before anybody else can see it; each write is an event of its own."""
    alice, carol = account(store, "alice"), account(store, "carol")
    async with manager.transaction(METADATA) as tx:
        tx.put(carol, Account(balance=1))
        tx.put(carol, Account(balance=2))
        found = await tx.get(carol)
        assert (found.data, found.version) == (Account(balance=2), 2)
        tx.delete(alice)
        assert await tx.find(alice) is None
        with pytest.raises(StateNotFound):
            await tx.get(alice)
        assert await balances(store, "alice") == [100]
    assert await balances(store, "carol") == [2]
    events = await collected(store.get_events(GOVERNOR, "carol"))
    assert [event.to_state for event in events] == [{"balance": 1}, {"balance": 2}]
    assert not await store.exists(GOVERNOR, "alice")


async def test_its_tasks_may_read_at_once(store: StateStore, manager: TransactionManager):
    """Several tasks of one transaction read, and each gets what it asked for."""

    async def function(tx: Transaction) -> dict[str, int]:
        found: dict[str, int] = {}

        async def read(name: str) -> None:
            found[name] = (await tx.get(account(store, name))).data.balance

        async with anyio.create_task_group() as tasks:
            for name in ("alice", "bob", "alice"):
                tasks.start_soon(read, name)
        return found

    assert await manager.execute_transaction(GOVERNOR, function, METADATA) == {"alice": 100, "bob": 0}


async def test_what_is_read_is_the_readers_own(store: StateStore, manager: TransactionManager):
    """Changing data in place changes neither what the transaction reads next nor what is stored."""
    async with manager.transaction(METADATA, governor_id=GOVERNOR) as tx:
        first = await tx.get("alice")
        first.data["balance"] = 0
        assert (await tx.get("alice")).data == {"balance": 100}
        data = {"balance": 5}
        tx.put("bob", data)
        data["balance"] = 6
        (await tx.get("bob")).data["balance"] = 7
    assert await balances(store) == [100, 5]


async def test_calls_of_the_engine(place: Place):
    """A transfer is one read and one commit of four documents; where versions are given, the commit alone."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        await open_accounts(store)
        engine.reset()
        await store.transact(transfer(store), METADATA)
        assert (engine.counts.reads, [len(each) for each in engine.counts.commits]) == (1, [4])
        engine.reset()
        async with store.transactions.transaction(METADATA, governor_id=GOVERNOR) as tx:
            tx.put("alice", {"balance": 1}, expected=2)
            tx.put("bob", {"balance": 2}, expected=2)
            tx.put("carol", {"balance": 3}, expected=0)
        # Six documents, and a check that no cleanup has left a note in the place of the new state's first events.
        assert (engine.counts.reads, [len(each) for each in engine.counts.commits]) == (0, [7])
        engine.reset()
        async with store.transactions.transaction(METADATA) as tx:
            await tx.get(account(store, "alice"))
        assert (engine.counts.reads, engine.counts.commits) == (1, [])


async def test_what_was_written_here_is_not_read_again(place: Place):
    """A transaction that begins on a state which one before it wrote costs its commit alone."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        await open_accounts(store)
        seen: list[StateSnapshot[Account]] = []
        alice = account(store, "alice")

        async def function(tx: Transaction) -> None:
            seen.append(await tx.get(alice))
            tx.put(alice, Account(balance=seen[-1].data.balance - 1))

        for reads in (1, 0, 0):
            engine.reset()
            await store.transact(function, METADATA)
            assert (engine.counts.reads, [len(each) for each in engine.counts.commits]) == (reads, [2])
        stands = await alice.get()
        assert (stands.data.balance, stands.version) == (97, 4)
        await store.transact(function, METADATA)
        assert seen[-1] == stands
        await alice.save(Account(balance=5), METADATA, expected=5)
        engine.reset()
        await store.transact(function, METADATA)
        assert (engine.counts.reads, seen[-1].data.balance) == (1, 5)


@pytest.mark.parametrize("end", ["write", "write another", "read another", "return", "raise"])
async def test_what_is_remembered_and_out_of_date_is_read_anew(place: Place, end: str):
    """Whatever a function does with a state that others have written meanwhile, it runs again on what is there now."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store, place.store() as other:
        await open_accounts(store)
        alice, bob = account(store, "alice"), account(store, "bob")
        found: list[int] = []

        async def function(tx: Transaction) -> int:
            found.append((await tx.get(alice)).data.balance)
            if end == "write":
                tx.put(alice, Account(balance=found[-1] + 1))
            elif end == "write another":
                tx.put(bob, Account(balance=found[-1]))
            elif end == "read another":
                found.append((await tx.get(bob)).data.balance)
            elif end == "raise" and found[-1] < 1_000:
                raise LookupError("too little")
            return found[-1]

        async def give(tx: Transaction) -> None:
            tx.put(alice, Account(balance=(await tx.get(alice)).data.balance + 1))

        await store.transact(give, METADATA)
        await account(other, "alice").save(Account(balance=1_000), METADATA, expected=2)
        result = await store.transact(function, METADATA)
        assert found == {"read another": [101, 1_000, 0]}.get(end, [101, 1_000])
        assert result == found[-1]
        assert store.transactions.get_transaction_log()[-1].attempts == 2
        assert await balances(store) == {"write": [1_001, 0], "write another": [1_000, 1_000]}.get(end, [1_000, 0])

        # What was found out of date is remembered again after it was read and written once more.
        for reads in (1, 0, 0) if end == "write" else (1, 1, 0):
            engine.reset()
            await store.transact(give, METADATA)
            assert engine.counts.reads == reads


async def test_memory_is_bounded(memory_places: Places, monkeypatch: pytest.MonkeyPatch):
    """Neither many states nor large ones are remembered, and doubts are bounded, too."""
    monkeypatch.setattr(recent, "REMEMBERED_MAX", 3)
    async with memory_places.new().store() as store:

        async def write(tx: Transaction) -> None:
            for n in range(6):
                tx.put(f"s{n}", {"text": "x" * (20_000 if n == 5 else 1)})

        await store.transactions.execute_transaction(GOVERNOR, write, METADATA)
        kept = store.transactions._recent
        assert [path.rpartition("/")[2] for path in kept._written] == ["s2", "s3", "s4"]
        path = next(iter(kept._written))
        head = store.core.appender.heads.get(path)
        assert head is not None
        assert kept.recall(path) is not None
        store.core.appender.heads.put(path, msgspec.structs.replace(head, digest="of another history"))
        assert kept.recall(path) is None, "the same version, and another state"
        for n in range(6):
            kept.doubt(f"{n}")
        assert len(kept._doubted) == 3


async def test_a_function_that_is_not_async_is_refused(store: StateStore):
    """A plain function is refused by name, its writes included."""

    def plain(tx: Transaction) -> None:
        tx.put("nina", {"n": 1})

    with pytest.raises(TypeError, match=r"must be async, and <function .*plain"):
        await TransactionManager(store).execute_transaction(GOVERNOR, plain, METADATA)  # type: ignore[arg-type]
    assert not await store.exists(GOVERNOR, "nina")


async def test_an_error_of_the_function_writes_nothing(store: StateStore):
    """It comes out as it is, and the function is not run again."""
    runs: list[int] = []

    async def function(tx: Transaction) -> None:
        runs.append(1)
        tx.put(account(store, "alice"), Account(balance=0))
        raise KeyError("no")

    with pytest.raises(KeyError):
        await store.transact(function, METADATA)
    assert (runs, await balances(store)) == ([1], [100, 0])


async def test_the_originals_forms(store: StateStore, manager: TransactionManager):
    """States of one governor by their ids; and reading, deciding and writing in one call."""

    async def function(tx: Transaction) -> int:
        data = (await tx.get("alice")).data
        tx.put("alice", {"balance": data["balance"] - 1}, METADATA)
        return data["balance"]

    assert await manager.execute_transaction(GOVERNOR, function) == 100

    def decide(states: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
        assert states["nobody"] is None
        return {"bob": {"balance": states["alice"].data["balance"]}, "alice": None}

    await manager.read_write_transaction(GOVERNOR, ["alice", "nobody"], decide, METADATA)
    assert await balances(store, "bob") == [99]
    assert not await store.exists(GOVERNOR, "alice")


async def test_one_str_is_not_a_sequence_of_ids(manager: TransactionManager):
    """Ids given as one str are refused, and nothing is decided on states named by its letters."""
    with pytest.raises(InvalidId):
        await manager.read_write_transaction(GOVERNOR, "alice", lambda _: {"alice": None}, METADATA)


# Conflicts -------------------------------------------------------------------------------------------------------


async def test_the_function_runs_again_on_what_was_read_anew(place: Place):
    """A state that another store changes between reading and writing makes the function run again."""
    async with place.store() as store, place.store() as other:
        await open_accounts(store)
        move, runs = transfer(store, 10), []

        async def function(tx: Transaction) -> int:
            result = await move(tx)
            if not runs:
                await account(other, "bob").update(lambda bob: Account(balance=bob.balance + 5), METADATA)
            runs.append(result)
            return result

        assert await store.transact(function, METADATA) == 90
        assert (len(runs), await balances(store)) == (2, [90, 15])
        assert store.transactions.get_transaction_log()[-1].attempts == 2


@pytest.mark.parametrize("absent", [False, True], ids=["present", "absent"])
async def test_a_state_that_was_only_read_is_checked(place: Place, absent: bool):  # noqa: FBT001
    """Two that each read what the other writes cannot both succeed, whether it was there or not."""
    async with place.store() as store, place.store() as other:
        if not absent:
            await open_accounts(store)
        with pytest.raises(VersionConflict) as conflict:
            async with store.transactions.transaction(METADATA) as tx:
                await tx.find(account(store, "bob"))
                tx.put(account(store, "alice"), Account(balance=1))
                async with other.transactions.transaction(METADATA) as second:
                    await second.find(account(other, "alice"))
                    second.put(account(other, "bob"), Account(balance=1))
        assert conflict.value.path == "governors/bank/states/bob"
        assert await store.exists(GOVERNOR, "alice") == (not absent)
        [record] = store.transactions.get_transaction_log()
        assert (record.status, record.writes) == (TransactionStatus.FAILED, ())


async def test_all_reads_are_of_one_moment(place: Place):
    """A state that moves before a later read ends the attempt, even where the function lets it pass."""
    async with place.store() as store, place.store() as other:
        await open_accounts(store)
        seen: list[list[int]] = []

        async def function(tx: Transaction) -> None:
            alice = await tx.get(account(store, "alice"))
            if not seen:
                await other.transact(transfer(other), METADATA)
            try:
                bob = await tx.get(account(store, "bob"))
            except VersionConflict:
                seen.append([])
                return
            seen.append([alice.data.balance, bob.data.balance])

        await store.transact(function, METADATA)
        assert seen == [[], [99, 1]]


async def test_what_others_expect_of_a_state(store: StateStore, manager: TransactionManager):
    """A write of a state that was not read is made whatever stands there, or only where it is as expected."""
    await account(store, "alice").update(lambda _: Account(balance=50), METADATA)
    async with manager.transaction(METADATA, governor_id=GOVERNOR) as tx:
        tx.put("alice", {"balance": 1})
    with pytest.raises(VersionConflict) as conflict:
        async with manager.transaction(METADATA, governor_id=GOVERNOR) as tx:
            tx.put("alice", {"balance": 2}, expected=2)
            tx.put("bob", {"balance": 2})
    assert (conflict.value.expected, conflict.value.actual) == (2, 3)
    with pytest.raises(VersionConflict) as conflict:
        async with manager.transaction(METADATA, governor_id=GOVERNOR) as tx:
            await tx.get("alice")
            tx.put("alice", {"balance": 2}, expected=2)
    assert (conflict.value.expected, conflict.value.actual) == (2, 3)
    with pytest.raises(StateNotFound):
        async with manager.transaction(METADATA, governor_id=GOVERNOR) as tx:
            tx.delete("nobody")
            tx.put("bob", {"balance": 2})
    assert await balances(store) == [1, 0]


async def test_giving_up(place: Place):
    """Where others are faster each time, the transaction fails in the end, with the last cause."""
    async with place.store(timeout_seconds=0.0) as store, place.store() as other:
        await open_accounts(store)
        move = transfer(store)

        async def function(tx: Transaction) -> None:
            await move(tx)
            await account(other, "bob").update(lambda bob: bob, METADATA)

        with pytest.raises(TransactionFailed) as failed:
            await store.transact(function, METADATA)
        assert failed.value.attempts == 1
        assert isinstance(failed.value.__cause__, VersionConflict)
        assert await balances(store) == [100, 0]
        assert store.transactions.get_transaction_log()[-1].status is TransactionStatus.FAILED


async def test_a_conflict_that_is_not_the_transactions_own(store: StateStore):
    """Is an error of the function's like any other: it comes out, and nothing runs again."""
    runs = count(1)

    async def function(_: Transaction) -> None:
        next(runs)
        await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=7)

    with pytest.raises(VersionConflict):
        await store.transact(function, METADATA)
    assert next(runs) == 2
    assert store.transactions.get_transaction_log()[-1].status is TransactionStatus.ROLLED_BACK


# Many at once ----------------------------------------------------------------------------------------------------


async def test_tasks_take_turns(place: Place):
    """Forty tasks that move money between two accounts need few attempts, and lose and make none."""
    async with place.store() as store:
        await open_accounts(store)
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(store.transact, transfer(store), METADATA)
        assert await balances(store) == [60, 40]
        attempts = [each.attempts for each in store.transactions.get_transaction_log()]
        assert len(attempts) == 40
        assert sum(attempts) <= 3 * 40
        assert not store.core.turns._turns


async def test_the_total_never_changes(place: Place):
    """Through two stores, whatever is moved where: each reader sees the same total, and so does the end."""
    names = [f"account-{n}" for n in range(5)]
    async with place.store() as one, place.store() as other:
        for name in names:
            await account(one, name).save(Account(balance=20), METADATA)

        async def work(store: StateStore, chance: random.Random) -> None:
            for _ in range(6):
                giver, taker = chance.sample(names, 2)

                async def move(tx: Transaction, giver: str = giver, taker: str = taker) -> None:
                    for name, change in ((giver, -1), (taker, 1)):
                        found = await tx.get(account(store, name))
                        tx.put(account(store, name), Account(balance=found.data.balance + change))

                async def total(tx: Transaction) -> int:
                    found = [await tx.get(account(store, name)) for name in names]
                    return sum(each.data.balance for each in found)

                await store.transact(move, METADATA)
                assert await store.transact(total) == 100

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(work, (one, other)[number % 2], random.Random(number))
        assert sum(await balances(one, *names)) == 100


# Faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_seconds", [30.0, 0.0], ids=["patient", "impatient"])
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
async def test_fault_at_every_call(memory_places: Places, fault: Fault, timeout_seconds: float):
    """Whatever goes wrong at whichever call, the transfer happens once or not at all, and the caller is told which."""
    hit = 0
    for number in count(1):
        place = memory_places.new()
        async with place.store() as store:
            await open_accounts(store)
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        async with place.store(faulty, timeout_seconds=timeout_seconds) as store:
            before = faulty.statistics().calls
            faulty.plan = AtCalls({("any", before + number): fault})
            told = "cancelled"
            with faulty.cancellable():
                try:
                    await store.transact(transfer(store), METADATA)
                    told = "done"
                except CommitOutcomeUnknown:
                    told = "unknown"
                except TaiStateError:
                    told = "failed"
            calls = faulty.statistics().calls - before
            [record] = store.transactions.get_transaction_log()
        async with place.store() as store:
            found = await balances(store)
        if calls < number:
            assert (told, record.status.value, found) == ("done", "committed", [99, 1])
            break
        hit += sum(faulty.statistics().hit.values())
        # The first call is the function's own read; what it raises there rolls the transaction back.
        by_read = {"done": "committed", "failed": "rolled back", "cancelled": "rolled back"}
        by_commit = {"done": "committed", "failed": "failed", "cancelled": "unknown", "unknown": "unknown"}
        status = (by_read if number == 1 else by_commit)[told]
        assert record.status.value == status
        assert found in {"committed": ([99, 1],), "unknown": ([99, 1], [100, 0])}.get(status, ([100, 0],))
    assert hit > 0


# Mistakes of the caller ------------------------------------------------------------------------------------------


async def test_one_transaction_in_another(store: StateStore, manager: TransactionManager):
    """Is refused at once; one after the other, or of another task, is not."""
    async with manager.transaction(METADATA) as tx:
        with pytest.raises(RuntimeError, match="under way"):
            await store.transact(transfer(store), METADATA)
        await tx.get(account(store, "alice"))
    await store.transact(transfer(store), METADATA)
    assert await balances(store) == [99, 1]


async def test_a_transaction_after_its_end(store: StateStore, manager: TransactionManager):
    """Neither reads nor writes, however it ended."""
    leaked: list[Transaction] = []

    async def function(tx: Transaction) -> None:
        leaked.append(tx)

    await store.transact(function, METADATA)
    with pytest.raises(KeyError):
        async with manager.transaction(METADATA) as tx:
            leaked.append(tx)
            raise KeyError
    for tx in leaked:
        with pytest.raises(RuntimeError, match="has ended"):
            await tx.get(account(store, "alice"))
        with pytest.raises(RuntimeError, match="has ended"):
            tx.put(account(store, "alice"), Account(balance=1))
        with pytest.raises(RuntimeError, match="has ended"):
            tx.delete(account(store, "alice"))


async def test_what_cannot_be_written(place: Place):
    """Is said where it is said to be written, before anything is sent."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store, place.store() as other:
        engine.reset()
        for put, why in (
            (lambda tx: tx.put("alice", {}), "does not name a state"),
            (lambda tx: tx.put(store.state(GOVERNOR, "alice"), {}), "who makes the change"),
            (lambda tx: tx.put(store.state(GOVERNOR, "alice"), {"n": float("nan")}, METADATA), "plain JSON"),
            (lambda tx: tx.put(other.state(GOVERNOR, "alice"), {}, METADATA), "a different store"),
        ):
            with pytest.raises(InvalidData, match=why):
                async with store.transactions.transaction() as tx:
                    put(tx)
        assert (engine.counts.reads, engine.counts.commits) == (0, [])


# What is remembered ----------------------------------------------------------------------------------------------


async def test_the_log(store: StateStore, manager: TransactionManager):
    """Each transaction is remembered with what it read and wrote, up to a bound."""
    pending: list[TransactionStatus] = []

    async def function(tx: Transaction) -> None:
        await transfer(store)(tx)
        pending.extend(each.status for each in manager.get_transaction_log())

    await manager.transact(function, METADATA)
    [record] = manager.get_transaction_log()
    assert pending == [TransactionStatus.PENDING]
    assert manager.get_transaction(record.transaction_id) == record
    assert manager.get_transaction("another") is None
    assert (record.status, record.attempts, record.reason) == (TransactionStatus.COMMITTED, 1, None)
    alice, bob = "governors/bank/states/alice", "governors/bank/states/bob"
    assert [(each.path, each.version) for each in record.reads] == [(alice, 1), (bob, 1)]
    assert [(each.path, each.version) for each in record.writes] == [(alice, 2), (bob, 2)]
    assert record.ended_at is not None
    for _ in range(RECORDS_MAX):
        async with manager.transaction():
            pass
    assert len(manager.get_transaction_log()) == RECORDS_MAX
    assert manager.get_transaction(record.transaction_id) is None
