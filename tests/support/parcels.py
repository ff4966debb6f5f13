"""A machine whose steps have effects: a parcel, which is charged and announced when it is sent."""

from __future__ import annotations

from typing import Any

from tai_state import StateStore
from tai_state.machines import (
    AfterCommit,
    Command,
    ComponentState,
    Definition,
    PendingEffect,
    PersistentMachine,
    allow,
    define,
    described,
)

from .stores import GOVERNOR, METADATA

SEND, ARRIVE, RETURN = Command("send"), Command("arrive"), Command("return")


class Parcel(ComponentState):
    """The states of a parcel."""

    Packed = described("Waits to be sent")
    Sent = described("Is on its way")
    Arrived = described("Is there")


def parcel_with(
    after_commit: AfterCommit[Parcel, None] | None = None, name: str = "parcel"
) -> Definition[Parcel, None]:
    """The definition of a parcel, one of whose steps runs something after its commit."""
    return define(
        name,
        Parcel,
        initial=Parcel.Packed,
        rules=[
            allow(Parcel.Packed, Parcel.Sent, effects=["charge", "mail"], after_commit=after_commit),
            allow(Parcel.Sent, Parcel.Arrived, effects=["mail"]),
            allow([Parcel.Sent, Parcel.Arrived], Parcel.Packed),
        ],
    )


PARCEL = parcel_with()


def parcel(
    store: StateStore, state_id: str = "p", definition: Definition[Parcel, None] = PARCEL, governor_id: str = GOVERNOR
) -> PersistentMachine[Parcel, None]:
    """A handle on a parcel."""
    return store.machine(governor_id, state_id, definition, metadata=METADATA)


async def packed(store: StateStore, state_id: str = "p", **more: Any) -> PersistentMachine[Parcel, None]:
    """A parcel that is packed."""
    machine = parcel(store, state_id, **more)
    await machine.initialize()
    return machine


class Had:
    """Handlers that note which effects they had, in order.

    Args:
        failing: the names of effects that fail.

    Attributes:
        ids: the ids of the effects that were tried.
        handlers: by the name of an effect.
    """

    def __init__(self, *failing: str) -> None:
        self.ids: list[str] = []
        self.failing = set(failing)
        self.handlers: dict[str, Any] = {"charge": self._plain, "mail": self._waiting}

    def _plain(self, effect: PendingEffect, _: object) -> None:
        self.ids.append(effect.id)
        if effect.name in self.failing:
            raise RuntimeError("it failed")

    async def _waiting(self, effect: PendingEffect, machine: object) -> None:
        self._plain(effect, machine)
