"""An account as a ledger: events carry amounts, and reducers fold them into the balance.

Run it, and it prints::

    3 events in one commit: balance 70 at version 3
      1  opened     -> balance 0
      2  deposited  -> balance 100
      3  withdrawn  -> balance 70
    an overdraft is refused: version still 3
    state document destroyed: 'governors/bank/states/alice': is missing though it has events: run `tai-state verify`
    verify finds: is missing though it has events: run `tai-state recover`
    recovered: 1 rebuilt, balance 70 at version 3
    without its reducers: 1 state unchecked, 0 findings
"""

from typing import Any

import anyio
import apsw

from tai_state import (
    ANY,
    NO_STATE,
    ChangeMetadata,
    EventSourcingError,
    NewEvent,
    Reducers,
    StateEvent,
    StateMachinePersister,
    open_store,
)

URL = "sqlite:///ledger.db"
State = dict[str, Any]


class Refused(Exception):
    """The account does not allow this change."""


def opened(_: State | None, event: StateEvent[State]) -> State:
    """A new account is empty."""
    return {"owner": event.payload["owner"], "balance": 0}


def deposited(state: State | None, event: StateEvent[State]) -> State:
    """Money comes in."""
    return _add(state, event.payload["amount"])


def withdrawn(state: State | None, event: StateEvent[State]) -> State:
    """Money goes out, if there is enough."""
    return _add(state, -event.payload["amount"])


def _add(state: State | None, amount: int) -> State:
    if state is None or state["balance"] + amount < 0:
        raise Refused
    return {**state, "balance": state["balance"] + amount}


REDUCERS: Reducers = {"opened": opened, "deposited": deposited, "withdrawn": withdrawn}


def in_words(state: State | None) -> str:
    """A state in words."""
    return "absent" if state is None else f"balance {state['balance']}"


async def write(persister: StateMachinePersister) -> None:
    """Record three events in one commit, and try one that a reducer refuses."""
    teller = ChangeMetadata("teller-3", "counter")
    events = [
        NewEvent("opened", {"owner": "Alice"}),
        NewEvent("deposited", {"amount": 100}, event_id="slip-1"),
        NewEvent("withdrawn", {"amount": 30}, event_id="slip-2"),
    ]
    recorded = await persister.record("bank", "alice", events, teller, expected=NO_STATE)
    print(f"{len(recorded)} events in one commit: {in_words(recorded[-1].to_state)} at version {recorded[-1].version}")
    async for event in persister.replay("bank", "alice"):
        print(f"  {event.version}  {event.action:9}  -> {in_words(event.to_state)}")
    try:
        await persister.record("bank", "alice", [NewEvent("withdrawn", {"amount": 500})], teller, expected=ANY)
    except Refused:
        snapshot, _ = await persister.load_state("bank", "alice")
        print(f"an overdraft is refused: version still {snapshot.version}")


def destroy() -> None:
    """Do what must never happen: delete the state behind the store's back."""
    connection = apsw.Connection("ledger.db")
    connection.execute("DELETE FROM documents WHERE path = 'governors/bank/states/alice'")
    connection.close()


async def main() -> None:
    """Write a state, lose it, and recover it."""
    async with open_store(URL) as store:
        persister = StateMachinePersister(store, REDUCERS)
        await write(persister)
        destroy()
        try:
            await store.get_state("bank", "alice")
        except EventSourcingError as error:
            print(f"state document destroyed: {error}")
        for finding in (await persister.validate_consistency()).findings:
            print(f"verify finds: {finding.message}")
        done = await persister.recover()
        now = await store.get_state("bank", "alice")
        print(f"recovered: {len(done.rebuilt)} rebuilt, {in_words(now.data)} at version {now.version}")

        report = await StateMachinePersister(store).validate_consistency()
        print(f"without its reducers: {report.unchecked} state unchecked, {len(report.findings)} findings")


if __name__ == "__main__":
    anyio.run(main)
