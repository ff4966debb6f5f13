"""Accounts as states: their model, and one that grows."""

from __future__ import annotations

from pydantic import BaseModel

from tai_state import StateStore

from .stores import GOVERNOR, METADATA


class Account(BaseModel):
    """A model of pydantic's."""

    owner: str
    balance: int = 0
    tags: list[str] = []


async def grow(store: StateStore, state_id: str, versions: int, start: int = 0) -> None:
    """States ``{"n": start}`` and so on, each by a change of its own."""
    for version in range(start, start + versions):
        await store.save_state(GOVERNOR, state_id, {"n": version}, METADATA, expected=version)
