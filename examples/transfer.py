"""A bank: a transfer changes two accounts at one moment, or neither.

A hundred and twenty transfers run at once. Each reads both accounts, decides, and writes both. If another transfer was
faster, it reads and decides again. Prints::

    all at once: 100 done, 20 refused
    alice 0, bob 100, together 100
    the last transfer: committed, after 1 attempt
"""

import anyio
from pydantic import BaseModel

from tai_state import ChangeMetadata, StateStore, Transaction, open_store

CASHIER = ChangeMetadata("cashier", "a transfer")


class Account(BaseModel):
    """A customer's account."""

    balance: int


async def transfer(store: StateStore, amount: int) -> bool:
    """Move money from alice to bob, if alice has enough. Returns whether it did."""
    alice = store.state("bank", "alice", Account)
    bob = store.state("bank", "bob", Account)

    async def move(tx: Transaction) -> bool:
        giver, taker = await tx.get_all(alice, bob)
        if giver is None or taker is None or giver.data.balance < amount:
            return False
        tx.put(alice, Account(balance=giver.data.balance - amount), action="give")
        tx.put(bob, Account(balance=taker.data.balance + amount), action="take")
        return True

    return await store.transact(move, CASHIER)


async def main() -> None:
    """Open the accounts and move money."""
    async with open_store("sqlite:///bank.db") as store:
        alice = store.state("bank", "alice", Account)
        bob = store.state("bank", "bob", Account)
        await alice.save(Account(balance=100), CASHIER)
        await bob.save(Account(balance=0), CASHIER)

        results: list[bool] = []

        async def one() -> None:
            results.append(await transfer(store, 1))

        async with anyio.create_task_group() as tasks:
            for _ in range(120):
                tasks.start_soon(one)

        print(f"all at once: {results.count(True)} done, {results.count(False)} refused")
        has, got = (await alice.get()).data.balance, (await bob.get()).data.balance
        print(f"alice {has}, bob {got}, together {has + got}")
        await transfer(store, 0)
        last = store.transactions.get_transaction_log()[-1]
        print(f"the last transfer: {last.status.value}, after {last.attempts} attempt")


anyio.run(main)
