"""Converting models to JSON and back."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar, cast, get_args

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from tai_state.errors import InvalidData, SerializationError, TaiStateError
from tai_state.streams.carrying import Reader, has_all, with_unknown, without_rivals
from tai_state.streams.likeness import agree, alike
from tai_state.streams.unordered import in_one_order, may_hold_sets
from tai_state.values.json import to_bytes

D = TypeVar("D")


def codec_of(model: Any) -> Codec[Any]:
    """The codec of a model. It is costly to make and independent of a store, so there is one for each model."""
    try:
        return _remembered(_in_order(model), model)
    except TypeError:  # the model cannot be a key: an annotation contains something mutable
        return Codec(model)


@lru_cache(maxsize=256)
def _remembered(_order: object, model: Any) -> Codec[Any]:
    return Codec(model)


def _in_order(model: Any) -> object:
    """A key that differs for models that compare equal but read differently: unions with a different order."""
    return tuple(map(_in_order, get_args(model))) or model


def _name(model: Any) -> str:
    if model is None:
        return "JSON"
    return model.__name__ if isinstance(model, type) else repr(model)


class Codec(Generic[D]):
    """Converts a model to a JSON object and back.

    Args:
        model: anything that pydantic can validate and dump to a JSON object, or a pydantic adapter for it; None: plain
            JSON without conversion.

    Attributes:
        name: the model's name, for a repr.

    Raises:
        InvalidData: pydantic cannot use the model.
    """

    def __init__(self, model: Any) -> None:
        self.name: str = _name(model)
        self._adapter: TypeAdapter[D] | None
        try:
            self._adapter = model if model is None or isinstance(model, TypeAdapter) else TypeAdapter(model)
            if self._adapter is not None and not self._adapter.pydantic_complete:
                self._adapter.rebuild()
        except (PydanticUserError, NameError) as error:
            raise InvalidData(f"{self.name} is not a model that pydantic can use: {error}") from error

    @property
    def is_plain(self) -> bool:
        """Whether it converts nothing: its values are JSON objects."""
        return self._adapter is None

    def to_json(self, value: D) -> dict[str, Any]:
        """The JSON object of a model, keyed by aliases. The model reads back from it, equal and of the same classes.

        It does not include computed fields, private attributes and excluded fields.

        Raises:
            InvalidData: the value does not fit its model, or would read back as a different value.
        """
        if self._adapter is None:
            return cast("dict[str, Any]", value)
        try:
            data = self._adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings="error")
            if self._may_hold_sets:
                data = in_one_order(value, data)
            is_same = alike(self._adapter.validate_json(to_bytes(data), by_name=True), value)
        except ValidationError as error:
            raise InvalidData(f"the value would not read back: it does not fit its model at {_places(error)}") from None
        except ValueError:
            raise InvalidData(self._misfit(value)) from None
        except TaiStateError:
            raise
        except Exception as error:
            raise InvalidData(f"the value would not read back: its model raised {type(error).__name__}") from error
        if not is_same:
            raise InvalidData("the value would read back as a different one: its model loses a part of it as JSON")
        return cast("dict[str, Any]", data)

    @cached_property
    def _may_hold_sets(self) -> bool:
        return self._adapter is not None and may_hold_sets(self._adapter.core_schema)

    def keep_unknown(self, before: dict[str, Any] | None, data: dict[str, Any], path: str) -> dict[str, Any]:
        """The JSON object of a model, with those fields of the object before it that the model does not know.

        An object that does not fit the model was not read through it, and is replaced as a whole.

        Raises:
            InvalidData: it is not clear where a field has to be kept, or the model does not read back equal with it.
        """
        if self._adapter is None or before is None or has_all(before, data):
            return data
        try:
            read = self.from_json(before, path)
        except SerializationError:
            return data
        known = self._dump(read)
        whole: dict[str, Any] = with_unknown(before, known, data, self._reader(before, read, known, path))
        now = self.from_json(data, path)

        def is_alike(other: dict[str, Any]) -> bool:
            return alike(self.from_json(other, path), now)

        if not is_alike(whole) and not is_alike(whole := without_rivals(whole, data, is_alike)):
            raise InvalidData("the value would read back as a different one with the fields that its model ignores")
        return whole

    def _reader(self, before: dict[str, Any], read: D, known: Any, path: str) -> Reader:
        """What the model makes of a state, and of the same state changed a little.

        A model that makes a new id or time for a field that is not stored reads a state differently each time. Then the
        readings are compared by what the model writes, but for these fields.
        """
        again = self._dump(self.from_json(before, path))
        is_steady = alike(again, known)

        def is_alike(data: dict[str, Any]) -> bool:
            try:
                other = self.from_json(data, path)
            except SerializationError:
                return False
            return alike(other, read) if is_steady else agree(self._dump(other), known, again)

        def rewritten(data: dict[str, Any]) -> Any:
            try:
                return self._dump(self.from_json(data, path))
            except SerializationError:
                return None

        return Reader(is_alike, rewritten)

    def _dump(self, value: D) -> Any:
        """What the model writes of a value that it has read."""
        if self._adapter is None:
            return value
        return self._adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings=False)

    def _misfit(self, value: Any) -> str:
        """Why a value is not one of the model; it names classes and fields, never values."""
        what = f"{type(value).__name__} is not a value of the model {self.name}"
        if self._adapter is not None:
            try:
                self._adapter.validate_python(self._adapter.dump_python(value, warnings=False), by_name=True)
            except ValueError as error:
                return f"{what}: it does not fit at {_places(error)}" if isinstance(error, ValidationError) else what
        return what

    def from_json(self, data: dict[str, Any], path: str) -> D:
        """Read a model from a JSON object, whose keys are aliases or field names.

        Raises:
            SerializationError: the object does not fit the model; the message names the fields, not their values.
        """
        if self._adapter is None:
            return cast("D", data)
        try:
            return self._adapter.validate_json(to_bytes(data), by_name=True)
        except ValidationError as error:
            raise SerializationError(path, f"does not fit the model at {_places(error)}") from None
        except TaiStateError:
            raise
        except Exception as error:
            what = f"does not fit the model, whose own code raised {type(error).__name__}"
            raise SerializationError(path, what) from error


def _places(error: ValidationError) -> str:
    """The names of the fields that an error is about, without their values."""
    return ", ".join(".".join(map(str, each["loc"])) or "$" for each in error.errors())
