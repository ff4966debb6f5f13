"""Data written by an older release of the application, brought up to date as it is read.

Every event and state carries the application's schema version. The store is opened with its present version
and, for each older one, the step to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tai_state.errors import IncompatibleFormat


def _same_state(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _same_payload(action: str, payload: Any) -> Any:  # noqa: ARG001
    return payload


@dataclass(frozen=True, slots=True)
class Upcast:
    """One step, from one schema version to the next. Both functions are pure.

    Attributes:
        state: takes a state's data as the old version has it, returns it as the new one has it.
        payload: the same for the payload of an event, by its action.
    """

    state: Callable[[dict[str, Any]], dict[str, Any]] = _same_state
    payload: Callable[[str, Any], Any] = _same_payload


class Upcasting:
    """All steps up to the present schema version.

    Args:
        schema: the application's present version; None: read everything as it is stored.
        steps: by the version they start from; one for each version from 1 to ``schema - 1``.

    Raises:
        ValueError: a step is missing or leads nowhere.
    """

    def __init__(self, schema: int | None, steps: Mapping[int, Upcast]) -> None:
        self.schema: int = schema or 1
        self._as_stored = schema is None
        self._steps = steps
        needed = set(range(1, self.schema))
        if needed != set(steps):
            wrong = ", ".join(str(version) for version in sorted(needed ^ set(steps)))
            raise ValueError(f"schema {self.schema} needs exactly one upcast from each version before it: see {wrong}")

    @property
    def older(self) -> tuple[int, ...]:
        """The versions whose data is brought up to date."""
        return tuple(range(1, self.schema))

    def is_current(self, schema: int) -> bool:
        """Whether data of this version is read as it is."""
        return schema == self.schema or self._as_stored

    def knows(self, schema: int) -> bool:
        """Whether data of this version can be read."""
        return self._as_stored or schema <= self.schema

    def state(self, data: dict[str, Any], schema: int, path: str) -> dict[str, Any]:
        """A state's data in the present shape.

        Raises:
            IncompatibleFormat: it was written by a newer release of the application.
        """
        for version in self._path(schema, path):
            data = self._steps[version].state(data)
        return data

    def payload(self, action: str, payload: Any, schema: int, path: str) -> Any:
        """An event's payload in the present shape.

        Raises:
            IncompatibleFormat: it was written by a newer release of the application.
        """
        for version in self._path(schema, path):
            payload = self._steps[version].payload(action, payload)
        return payload

    def _path(self, schema: int, path: str) -> range:
        if self._as_stored:
            return range(0)
        if schema > self.schema:
            raise IncompatibleFormat(path, f"has schema {schema}, this application knows {self.schema}: upgrade it")
        return range(schema, self.schema)
