"""A user's code, which both type checkers must accept. It is checked, never run."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict, assert_type

from pydantic import BaseModel, Field, TypeAdapter

from tai_state import (
    ANY,
    EXISTS,
    ChangeMetadata,
    DeletedState,
    NewEvent,
    Observer,
    Settled,
    StateEvent,
    StateHandle,
    StateMachinePersister,
    StateSnapshot,
    Transaction,
    open_store,
)


class Account(BaseModel):
    """What a user stores."""

    balance: int


async def typed() -> None:
    """A handle with a model gives models."""
    async with open_store("memory://") as store:
        account = store.state("bank", "alice", Account)
        assert_type(account, StateHandle[Account])
        snapshot = await account.save(Account(balance=1), ChangeMetadata("me", "because"))
        assert_type(snapshot, StateSnapshot[Account])
        assert_type(snapshot.data.balance, int)
        await account.update(lambda value: Account(balance=value.balance + 1), ChangeMetadata("me", "because"))
        async for event in account.history():
            assert_type(event, StateEvent[Account])
            assert_type(event.to_state, Account | None)
        async with account.watch() as changes:
            async for seen in changes:
                assert_type(seen, StateSnapshot[Account] | DeletedState)
                assert_type(seen.data, Account | None)
        earlier = await account.at(datetime.now(UTC))
        assert_type(earlier, StateSnapshot[Account] | DeletedState)
        deleted = await account.delete(ChangeMetadata("me", "because"), expected=snapshot)
        assert_type(deleted, DeletedState)
        await account.save(Account(balance=0), ChangeMetadata("me", "because"), expected=deleted)


async def by_default() -> None:
    """Who makes a change may be said for the store, or for a handle, and left out of the change."""
    async with open_store("memory://", metadata=ChangeMetadata("me", "because")) as store:
        await store.save_state("bank", "bob", {"balance": 1})
        await store.delete_state("bank", "bob", expected=1)
        account = store.state("bank", "alice", Account, metadata=ChangeMetadata("me", "her account"))
        assert_type(account, StateHandle[Account])
        first = await account.save(Account(balance=1))
        assert_type(await account.delete(expected=first), DeletedState)
        assert_type(store.state("bank", "bob", metadata=account.metadata), StateHandle[dict[str, Any]])


class Slow(Observer):
    """An observer with one method of the three."""

    def settled(self, settled: Settled) -> None:
        """See how long a change took."""
        assert_type(settled.seconds, float)
        assert_type(settled.error, str | None)


async def observed() -> None:
    """A store takes an observer."""
    async with open_store("memory://", observer=Slow()) as store:
        assert_type(await store.exists("bank", "alice"), bool)


class Closed(BaseModel):
    """What an account may be instead."""

    reason: str
    kind: Literal["closed"] = "closed"


class Frozen(BaseModel):
    """The same once more, told apart by its kind."""

    kind: Literal["frozen"] = "frozen"


Ended = Annotated[Closed | Frozen, Field(discriminator="kind")]


class Limits(TypedDict):
    """A state as a typed dictionary."""

    daily: int


async def unions() -> None:
    """A union is known as one, whether it is written down, has a name, or is told apart by a field."""
    async with open_store("memory://") as store:
        either = store.state("bank", "alice", Account | Closed)
        assert_type(either, StateHandle[Account | Closed])
        await either.save(Closed(reason="moved"), ChangeMetadata("me", "because"))
        assert_type((await either.get()).data, Account | Closed)
        assert_type(store.state("bank", "alice", Ended), StateHandle[Closed | Frozen])
        adapter = TypeAdapter[Account | Closed](Account | Closed)
        assert_type(store.state("bank", "alice", adapter), StateHandle[Account | Closed])


async def other_models(unknown: Any) -> None:
    """Typed dictionaries, dictionaries and no model at all are known, and a model that is not known gives anything."""
    async with open_store("memory://") as store:
        assert_type(store.state("bank", "limits", Limits), StateHandle[Limits])
        assert_type(store.state("bank", "limits", dict[str, int]), StateHandle[dict[str, int]])
        assert_type(store.state("bank", "limits", None), StateHandle[dict[str, Any]])
        await store.state("bank", "limits", unknown).get()


async def transactions() -> None:
    """What a transaction reads is known, one by one and together, and so is what it returns."""
    async with open_store("memory://") as store:
        alice, bob = store.state("bank", "alice", Account), store.state("bank", "bob", Account)

        async def transfer(tx: Transaction) -> int:
            giver, taker = await tx.get(alice), await tx.find(bob)
            assert_type(giver, StateSnapshot[Account])
            assert_type(taker, StateSnapshot[Account] | None)
            assert_type(await tx.get_all(alice, bob), list[StateSnapshot[Account] | None])
            assert_type(await tx.get_all("alice", "bob"), list[StateSnapshot[dict[str, Any]] | None])
            assert_type(await tx.get_all(alice, store.state("bank", "rates")), list[StateSnapshot[Any] | None])
            tx.put(alice, Account(balance=giver.data.balance - 30))
            return giver.data.balance

        assert_type(await store.transact(transfer, ChangeMetadata("me", "because")), int)


def narrowed(state: StateSnapshot[Account] | DeletedState) -> int:
    """What is deleted is told from what is there by its class, or by its flag."""
    if state.deleted is True:
        assert_type(state, DeletedState)
    else:
        assert_type(state, StateSnapshot[Account])
    if isinstance(state, DeletedState):
        return state.version
    assert_type(state, StateSnapshot[Account])
    return state.data.balance


async def plain() -> None:
    """A handle without a model, and the store itself, give JSON objects."""
    async with open_store() as store:
        pump = store.state("site", "pump")
        assert_type(pump, StateHandle[dict[str, Any]])
        assert_type((await pump.get()).data, dict[str, Any])
        states = await store.batch_get_states("site", ["pump"])
        assert_type(states, dict[str, StateSnapshot[dict[str, Any]] | None])
        await store.save_state("site", "pump", {"on": True}, ChangeMetadata("me", "because"), expected=ANY)
        async for state in store.list_states("site"):
            assert_type(state, StateSnapshot[dict[str, Any]])
        async for each in store.list_states("site", deleted=True):
            assert_type(each, StateSnapshot[dict[str, Any]] | DeletedState)
        assert_type(StateSnapshot.unsaved("site", "pump", Account(balance=0)), StateSnapshot[Account])
        event = await store.log_event("site", "pump", "seen", ChangeMetadata("me", "because"), expected=EXISTS)
        assert_type(event, StateEvent[dict[str, Any]])


def _deposited(state: dict[str, Any] | None, event: StateEvent[dict[str, Any]]) -> dict[str, Any]:
    return {"balance": (state or {"balance": 0})["balance"] + event.payload["amount"]}


async def reducers() -> None:
    """Reducers are plain functions."""
    async with open_store("memory://") as store:
        persister = StateMachinePersister(store, {"deposited": _deposited})
        events = await persister.record(
            "bank", "bob", [NewEvent("deposited", {"amount": 5})], ChangeMetadata("me", "because"), expected=0
        )
        assert_type(events, list[StateEvent[dict[str, Any]]])
        async for event in persister.replay("bank", "bob"):
            assert_type(event.to_state, dict[str, Any] | None)
