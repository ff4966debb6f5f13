"""The events that edges bear, each with the type of its payload."""

from __future__ import annotations

from types import NoneType
from typing import Any, Generic, overload

from tai_state.machines.contexts import P


class MachineEvent(Generic[P]):
    """An event that machines can be told of: ``PAY = MachineEvent("pay", Payment)``.

    Args:
        name: its name, which stands in the history.
        payload: the model of what it brings; by default, it brings nothing.

    Attributes:
        name: as given.
        payload: as given; ``NoneType`` if it brings nothing.
    """

    @overload
    def __init__(self: MachineEvent[None], name: str) -> None: ...
    @overload
    def __init__(self, name: str, payload: type[P]) -> None: ...
    def __init__(self, name: str, payload: Any = NoneType) -> None:
        if type(name) is not str or not name:
            raise TypeError(f"name must be a text that is not empty, not {name!r}")
        if not isinstance(payload, type):
            raise TypeError(f"payload must be a class, not {payload!r}")
        self.name: str = name
        self.payload: type[P] = payload

    def __repr__(self) -> str:
        model = "" if self.payload is NoneType else f", {self.payload.__name__}"
        return f"MachineEvent({self.name!r}{model})"

    @property
    def is_bare(self) -> bool:
        """Whether it brings nothing."""
        return self.payload is NoneType
