"""Bringing data that an older release of the application wrote up to date as it is read.

Every event and state has the schema version of the application that wrote it. An application opens the store with its
present version and, for each older version, the step to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from itertools import islice
from typing import Any

from tai_state.errors import IncompatibleFormat, InvalidData, SerializationError
from tai_state.streams.layout import Stream
from tai_state.values.checks import instance_option, whole_option
from tai_state.values.json import decode, normalise, normalise_object, to_bytes


def _same_state(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _same_payload(action: str, payload: Any) -> Any:  # noqa: ARG001
    return payload


@dataclass(frozen=True, slots=True)
class Upcast:
    """The step from one schema version to the next. Both functions must be pure, and return what can be stored.

    A function may change what it is given, and then return it. A function that has a parameter ``governor_id`` or
    ``state_id`` is also told whose data it gets.

    Attributes:
        state: converts a state's data from the old version to the new one: a JSON object.
        payload: converts an event's payload, any JSON value; it gets the event's action and the payload.
    """

    state: Callable[..., dict[str, Any]] = _same_state
    payload: Callable[..., Any] = _same_payload


class Upcasting:
    """All steps up to the present schema version.

    Args:
        schema: the application's present schema version; None: read everything as it is stored.
        steps: the steps by the version that they start from; one for each version from 1 to ``schema - 1``.

    Raises:
        TypeError: the schema is not a whole number, or a step is not an :class:`Upcast`.
        ValueError: the schema is below 1, or a step is missing, or starts from another version.
    """

    def __init__(self, schema: int | None, steps: Mapping[int, Upcast]) -> None:
        self.schema: int = 1 if schema is None else whole_option(schema, "schema", 1)
        self._as_stored = schema is None
        self._steps = steps
        instance_option(steps, Mapping, "upcasters", "a mapping of schema versions to Upcast")
        needed = range(1, self.schema)
        for version in (*steps, *islice(needed, len(steps) + 1)):
            if version not in needed or version not in steps:
                raise ValueError(f"schema {self.schema} needs one upcast from each version below it: check {version}")
        for each in steps.values():
            instance_option(each, Upcast, "each of the upcasters", "an Upcast, like Upcast(state=function)")
            instance_option(each.state, Callable, "state of each of the upcasters", "a function")
            instance_option(each.payload, Callable, "payload of each of the upcasters", "a function")

    @property
    def older(self) -> tuple[int, ...]:
        """The older schema versions, whose data is brought up to date."""
        return tuple(range(1, self.schema))

    def is_current(self, schema: int) -> bool:
        """Whether data of this schema version is read as it is."""
        return schema == self.schema or self._as_stored

    def knows(self, schema: int) -> bool:
        """Whether data of this schema version can be read."""
        return self._as_stored or schema <= self.schema

    def state(self, data: dict[str, Any], schema: int, stream: Stream, path: str) -> dict[str, Any]:
        """A state's data in the present schema.

        Raises:
            IncompatibleFormat: it was written by a newer release of the application.
            SerializationError: a step failed, or did not return a JSON object; ``path`` is that of the document with
                the data.
        """
        versions = self._path(schema, path)
        if versions:
            data = decode(to_bytes(data))  # a step may change what it is given, and others may have the same data
        for version in versions:
            data = _called(self._steps[version].state, (data,), normalise_object, version, stream, path)
        return data

    def payload(self, action: str, payload: Any, schema: int, stream: Stream, path: str) -> Any:
        """An event's payload in the present schema.

        Raises:
            IncompatibleFormat: it was written by a newer release of the application.
            SerializationError: a step failed, or did not return plain JSON; ``path`` is that of the event.
        """
        for version in self._path(schema, path):
            payload = _called(self._steps[version].payload, (action, payload), normalise, version, stream, path)
        return payload

    def _path(self, schema: int, path: str) -> range:
        if self._as_stored:
            return range(0)
        if schema > self.schema:
            what = f"has schema {schema}, but this application knows {self.schema}: upgrade the application"
            raise IncompatibleFormat(path, what)
        return range(schema, self.schema)


def _called(
    step: Callable[..., Any],
    given: tuple[Any, ...],
    checked: Callable[[Any, str], tuple[str, Any]],
    version: int,
    stream: Stream,
    path: str,
) -> Any:
    """A checked copy of what a step returns; an error of the step becomes one that names the document."""
    ids = {"governor_id": stream.governor_id, "state_id": stream.state_id}
    try:
        made = step(*given, **{name: ids[name] for name in _named(step)})
    except Exception as error:
        what = f"the upcast from schema {version} failed with {type(error).__name__}: correct the upcast"
        raise SerializationError(path, what) from error
    try:
        return checked(made, f"what the upcast from schema {version} returned")[1]
    except InvalidData as error:
        raise SerializationError(path, f"cannot be read: {error}: correct the upcast") from error


def _named(step: Callable[..., Any]) -> tuple[str, ...]:
    """Those of the two ids that a step has a parameter for."""
    parameters = signature(step).parameters
    takes_all = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
    return tuple(name for name in ("governor_id", "state_id") if takes_all or name in parameters)
