"""Whether money is made or lost between accounts: the oracle of transfers that are atomic and isolated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Balances: TypeAlias = Mapping[str, int]

OUTCOMES_MAX = 50_000
"""Final states that transfers of unknown outcome may leave open; more cannot be judged."""


@dataclass(frozen=True)
class Transfer:
    """An amount, moved from one account to another in one transaction."""

    source: str
    target: str
    amount: int
    outcome: Literal["committed", "aborted", "unknown"]


@dataclass(frozen=True)
class Reading:
    """All accounts, as one transaction read them; ``label`` says which."""

    label: str
    balances: Balances


class TooManyUnknown(Exception):
    """So many transfers have an unknown outcome that any final state could be right."""


def check(
    initial: Balances,
    readings: Iterable[Reading],
    final: Balances,
    transfers: Iterable[Transfer] | None = None,
    *,
    minimum: int | None = None,
) -> list[str]:
    """Everything that is wrong: other accounts or another total than at the beginning, or a balance below the minimum.

    A total does not show a transfer that was lost, or done twice, as a whole. With all transfers given the final state
    is compared with what they add up to, those of unknown outcome done or not.

    Raises:
        TooManyUnknown: the outcomes of too many transfers are unknown; read them back first.
    """
    problems = [
        problem
        for reading in (*readings, Reading("the final state", final))
        for problem in _problems(initial, reading, minimum)
    ]
    if transfers is not None and initial.keys() == final.keys():
        problems += _unexplained(initial, final, list(transfers))
    return problems


def _problems(initial: Balances, reading: Reading, minimum: int | None) -> list[str]:
    problems = []
    missing, strange = (
        sorted(initial.keys() - reading.balances.keys()),
        sorted(reading.balances.keys() - initial.keys()),
    )
    if missing:
        problems.append(f"{reading.label}: {', '.join(missing)} missing")
    if strange:
        problems.append(f"{reading.label}: {', '.join(strange)} never opened")
    total, right = sum(reading.balances.values()), sum(initial.values())
    if total != right:
        problems.append(f"{reading.label}: the total is {total}, not {right}: {_text(reading.balances)}")
    if minimum is not None:
        problems += [
            f"{reading.label}: {account} is at {balance}, below {minimum}"
            for account, balance in sorted(reading.balances.items())
            if balance < minimum
        ]
    return problems


def _unexplained(initial: Balances, final: Balances, transfers: list[Transfer]) -> list[str]:
    """A final state that no outcome of the unknown transfers leads to."""
    accounts = sorted(initial)
    state = dict(initial)
    for transfer in transfers:
        if transfer.outcome == "committed":
            state[transfer.source] -= transfer.amount
            state[transfer.target] += transfer.amount
    possible = {tuple(state[account] for account in accounts)}
    for transfer in transfers:
        if transfer.outcome == "unknown":
            source, target = accounts.index(transfer.source), accounts.index(transfer.target)
            possible |= {_moved(balances, source, target, transfer.amount) for balances in possible}
            if len(possible) > OUTCOMES_MAX:
                raise TooManyUnknown(f"more than {OUTCOMES_MAX} final states are possible; read outcomes back first")
    if tuple(final[account] for account in accounts) in possible:
        return []
    unknown = sum(transfer.outcome == "unknown" for transfer in transfers)
    made = f"the committed transfers make {_text(state)}"
    return [f"the final state is {_text(final)}; {made}, and no outcome of the {unknown} unknown ones explains it"]


def _moved(balances: tuple[int, ...], source: int, target: int, amount: int) -> tuple[int, ...]:
    changed = list(balances)
    changed[source] -= amount
    changed[target] += amount
    return tuple(changed)


def _text(balances: Balances) -> str:
    return ", ".join(f"{account} {balance}" for account, balance in sorted(balances.items()))
