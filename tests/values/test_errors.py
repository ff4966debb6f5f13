"""Errors: their fields, and what to do about them."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from tai_state import ChangeMetadata, StateEvent, TaiStateError, errors
from tai_state.values.times import from_us

_EVENT = StateEvent(
    governor_id="g",
    state_id="s",
    version=2,
    event_id="i",
    action="a",
    payload={"secret": 1},
    from_state={"secret": 1},
    to_state=None,
    timestamp=from_us(0),
    recorded_at=from_us(0),
    metadata=ChangeMetadata("a", "b"),
    causality={},
    digest="",
)

_SAMPLES: dict[str, Any] = {
    "differs": ("action", "payload"),
    "path": "governors/g/states/s",
    "what": "what",
    "limit": 3,
    "version": 9,
    "newest": 8,
    "size": 4,
    "indexed": ("a",),
    "hint": "do this",
    "expected": 1,
    "actual": 2,
    "events": (_EVENT,),
    "event_id": "id",
    "row": 7,
    "event_ids": ("a", "b"),
    "paths": ("p",),
    "operation": "commit",
    "code": "CODE",
    "unknown": True,
    "attempts": 3,
    "cause": "somebody else",
    "clocks": ({"a": 1}, {"b": 2}),
    "resource": "nightly",
    "holder": "worker 7",
    "remaining": 1.5,
    "cycle": ("a", "b"),
    "changed": ("governors/g/states/s",),
    "is_unfinished": False,
    "is_overtaken": False,
    "machine": "order",
    "from_state": "Placed",
    "to_state": "Shipped",
    "rule": "PaidToShipped",
    "reason": "what is not paid is not shipped",
    "allowed": ("Paid",),
    "state": "Shipped",
    "stored": "'order' version 1",
    "known": "'order' version 2",
}

_CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TaiStateError)]


@pytest.mark.parametrize("error_type", _CLASSES, ids=lambda each: each.__name__)
def test_errors_have_fields_and_survive_pickling(error_type: type[TaiStateError]):
    """Each error carries its facts as fields, says them in its text, and comes through a pickle whole."""
    error = error_type(**{each.name: _SAMPLES[each.name] for each in fields(error_type)})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_type
    assert (str(copy), copy.fields()) == (str(error), error.fields())
    assert set(error.fields()) == {each.name for each in fields(error_type)}
    msgspec.json.encode(error.fields())
    assert "secret" not in f"{error} {error.fields()}"
    assert error_type.__doc__
    assert 0 < error.exit_code < 128
    assert isinstance(error.is_transient, bool)
    assert error.backoff_seconds > 0


@pytest.mark.parametrize(
    ("name", "exit_code", "is_transient"),
    [
        ("StateNotFound", 1, False),
        ("InvalidId", 2, False),
        ("VersionConflict", 3, False),
        ("TransactionFailed", 3, True),
        ("StaleRead", 3, True),
        ("CausalityViolation", 3, False),
        ("ConflictResolutionFailed", 3, False),
        ("IdempotencyConflict", 3, False),
        ("CorruptDocument", 4, False),
        ("NotRetained", 4, False),
        ("CommitOutcomeUnknown", 5, False),
        ("StoreUnavailable", 5, True),
        ("StoreUnusable", 5, False),
        ("StoreTimeout", 5, True),
    ],
)
def test_what_to_do_about_an_error(name: str, exit_code: int, is_transient: bool):  # noqa: FBT001
    """Errors say whether the same call may succeed later, and what the command line ends with."""
    error_type = getattr(errors, name)
    assert (error_type.exit_code, error_type.is_transient) == (exit_code, is_transient)
