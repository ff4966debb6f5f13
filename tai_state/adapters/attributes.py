"""The attributes of a machine's model that are kept with its configuration."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from tai_state.errors import InvalidData, SerializationError
from tai_state.streams.codec import Codec, codec_of

C = TypeVar("C", bound="BaseModel | None")


class Attributes(Generic[C]):
    """Reads and sets the attributes that the fields of a pydantic model name.

    Args:
        model: the pydantic model; None: nothing is kept.

    Raises:
        InvalidData: it is not a pydantic model.
    """

    def __init__(self, model: type[C] | None) -> None:
        kind: Any = model
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise InvalidData(f"context must be a pydantic model, whose fields name the attributes, not {kind!r}")
        self._model: type[BaseModel] | None = kind
        self._codec: Codec[Any] = codec_of(kind)

    def check(self, context: object) -> None:
        """Check that a context is one of the model.

        Raises:
            InvalidData: it is not.
        """
        if self._model is None and context is not None:
            raise InvalidData("the adapter was made without a context")
        if self._model is not None and context is not None and not isinstance(context, self._model):
            raise InvalidData(f"context must be a {self._model.__name__}, not {type(context).__name__}")

    def to_json(self, context: C) -> dict[str, Any] | None:
        """A context as it is stored; None for none.

        Raises:
            InvalidData: it would read back as a different one.
        """
        return None if context is None else self._codec.to_json(context)

    def as_model(self, data: dict[str, Any] | None, path: str) -> C:
        """The stored attributes as the model.

        Raises:
            SerializationError: they do not fit the model, or there are some and the adapter has no model.
        """
        context: Any = None
        if self._model is not None:
            context = self._codec.from_json(data or {}, path)
        elif data is not None:
            raise SerializationError(path, "holds a context, and the adapter was made without one")
        found: C = context
        return found

    def set_on(self, bearer: Any, data: dict[str, Any] | None, path: str) -> None:
        """Set the attributes of an object to what is stored.

        Raises:
            SerializationError: as for :meth:`as_model`.
        """
        context: Any = self.as_model(data, path)
        if self._model is not None:
            for name in self._model.model_fields:
                setattr(bearer, name, getattr(context, name))

    def read_from(self, bearer: Any, before: dict[str, Any] | None, path: str) -> dict[str, Any] | None:
        """The attributes of an object as they are stored, with what the model does not know of those before.

        Raises:
            InvalidData: an attribute is missing, or does not fit the model.
        """
        if self._model is None:
            return None
        try:
            values = {name: getattr(bearer, name) for name in self._model.model_fields}
            context = self._model.model_validate(values, by_name=True)
        except AttributeError as error:
            raise InvalidData(f"{type(bearer).__name__} has no attribute {error.name!r}, which is kept") from None
        except ValidationError as error:
            names = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
            raise InvalidData(f"{type(bearer).__name__} does not fit {self._model.__name__} at {names}") from None
        return self._codec.keep_unknown(before, self._codec.to_json(context), path)
