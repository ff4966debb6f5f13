"""Histories as they stand in tests: one line of text for each operation or transaction."""

from __future__ import annotations

from typing import Any

from .linearizability import Operation
from .list_append import Transaction


def op(text: str, *, key: str = "x") -> Operation:
    """An operation from ``<process> <invoked>-<returned> <what>``; unknown where no time of return is given.

    What: ``read 5 v1``, ``write 5 v1``, ``cas v1 5 v2`` by version, ``cas =4 5`` by value; versions may be left out, a
    dash is no value, and ``refused`` or ``failed`` may follow.
    """
    process, times, word, *words = text.split()
    invoked, returned = times.split("-")
    facts: dict[str, Any] = {"kind": word, "outcome": "done" if returned else "unknown"}
    if words[-1] in {"refused", "failed"}:
        facts["outcome"] = words.pop()
    if word == "cas":
        sign, expected = words[0][0], words.pop(0)[1:]
        facts |= {"expected_version": int(expected)} if sign == "v" else {"expected_value": _number(expected)}
    if words[-1].startswith("v"):
        facts["version"] = int(words.pop()[1:])
    return Operation(
        process=int(process), key=key, invoked=float(invoked),
        returned=float(returned) if returned else None, value=_number(words[0]), **facts,
    )  # fmt: skip


def _number(word: str) -> int | None:
    """A value; a dash is the absence of one."""
    return None if word == "-" else int(word)


def txn(text: str) -> Transaction:
    """A transaction from ``<start>-<end> [aborted] a x 1, r x 1 2, …``; unknown where no end is given."""
    times, _, did = text.partition(" ")
    start, end = times.split("-")
    aborted, did = did.startswith("aborted "), did.removeprefix("aborted ")
    micro: list[Any] = []
    for kind, key, *values in (each.split() for each in did.split(", ")):
        numbers = tuple(int(value) for value in values)
        micro.append(("append", key, numbers[0]) if kind == "a" else ("r", key, numbers))
    return Transaction(
        process=0, start=float(start), end=float(end) if end else None,
        outcome="aborted" if aborted else "committed" if end else "unknown", operations=tuple(micro),
    )  # fmt: skip
