"""Checks of arguments: what a call cannot mean is refused where it is given, before anything happens.

Options, which are part of a program's text, are refused with ``TypeError`` or ``ValueError``. The arguments of calls
are refused with :class:`~tai_state.InvalidData`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from math import inf
from typing import Any, Final, TypeVar

from tai_state.errors import InvalidData, InvalidId
from tai_state.values.ids import VERSION_MAX, escape_id

T = TypeVar("T")

CONCURRENCY_MAX: Final = 1_000
"""How many states long work can work on at once."""

SECONDS_MAX: Final = 10**9
"""The longest time that an argument may name: about 31 years."""


def whole_option(number: object, name: str, least: int, most: int = VERSION_MAX) -> int:
    """Check that an option is a whole number within bounds, and return it.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is too small or too large.
    """
    if type(number) is not int:
        raise TypeError(f"{name} must be an int, not {type(number).__name__}")
    if not least <= number <= most:
        raise ValueError(f"{name} must be at least {least} and at most {most}")
    return number


def seconds_option(seconds: object, name: str) -> float:
    """Check that an option is a number of seconds from 0 up, and return it.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, NaN, infinite or longer than :data:`SECONDS_MAX`.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    if not 0 <= seconds <= SECONDS_MAX:
        raise ValueError(f"{name} must be at least 0 and at most {SECONDS_MAX} seconds")
    return float(seconds)


def instance_option(value: object, kind: Any, name: str, such_as: str) -> None:
    """Check that an option is an instance of a class or protocol, and not the class itself.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, type) or not isinstance(value, kind):
        raise TypeError(f"{name} must be {such_as}, not {value!r}")


def check_whole(number: object, what: str, least: int = 0, most: int = VERSION_MAX) -> int:
    """Check that an argument is a whole number within bounds, and return it.

    Raises:
        InvalidData: it is not.
    """
    try:
        return whole_option(number, what, least, most)
    except (TypeError, ValueError) as error:
        raise InvalidData(str(error)) from None


def check_seconds(seconds: object, what: str) -> float:
    """Check that an argument is a number of seconds from 0 up, or infinite, and return it.

    Raises:
        InvalidData: it is not.
    """
    if isinstance(seconds, float) and seconds == inf:
        return inf
    try:
        return seconds_option(seconds, what)
    except (TypeError, ValueError) as error:
        raise InvalidData(str(error)) from None


def check_duration(duration: object, what: str) -> None:
    """Check that an argument is a length of time from 0 up.

    Raises:
        InvalidData: it is not.
    """
    if not isinstance(duration, timedelta) or duration < timedelta(0):
        raise InvalidData(f"{what} must be a timedelta of 0 or more")


def check_flag(flag: object, what: str) -> bool:
    """Check that an argument is True or False, and return it.

    Raises:
        InvalidData: it is not.
    """
    if type(flag) is not bool:
        raise InvalidData(f"{what} must be True or False, not {type(flag).__name__}")
    return flag


def check_callable(function: object, what: str) -> None:
    """Check that an argument can be called.

    Raises:
        InvalidData: it cannot.
    """
    if not callable(function):
        raise InvalidData(f"{what} must be a function, not {type(function).__name__}")


def check_clock(clock: Any, what: str) -> None:
    """Check that an argument is a vector clock.

    Raises:
        InvalidData: it is not.
    """
    items: Any = clock.items() if isinstance(clock, dict) else [(None, None)]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not all(type(key) is str and type(count) is int and count >= 0 for key, count in items):
        raise InvalidData(f"{what} must be a vector clock, a dict of counts by store id")


def check_long_work(concurrency: object, progress: object, resume: object) -> None:
    """Check how many states are worked on at once, what is told of the progress, and where the work is to go on.

    Raises:
        InvalidData: one of the first two is not valid.
        InvalidId: ``resume`` is not a pair of ids.
    """
    check_whole(concurrency, "concurrency", 1, CONCURRENCY_MAX)
    if progress is not None:
        check_callable(progress, "progress")
    if resume is None:
        return
    pair: Any = resume
    try:
        governor_id, state_id = pair
    except (TypeError, ValueError):
        raise InvalidId("resume", "a pair of ids, those of a governor and a state") from None
    escape_id(governor_id, "the governor in resume")
    escape_id(state_id, "the state in resume")


def check_items(items: Iterable[T], refusal: Callable[[], Exception]) -> tuple[T, ...]:
    """The items of an argument that may be given as any collection of them, or as a generator.

    Args:
        items: the argument.
        refusal: makes the error to raise if it is not one: a text or bytes, or nothing to go through.
    """
    if isinstance(items, str | bytes):
        raise refusal()
    try:
        return tuple(items)
    except TypeError:
        raise refusal() from None
