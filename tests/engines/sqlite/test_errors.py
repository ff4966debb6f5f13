"""Errors of the driver: each has one meaning."""

from __future__ import annotations

import apsw
import pytest

from tai_state.engines.sqlite import errors as table
from tai_state.errors import (
    CorruptDocument,
    StoreTimeout,
    StoreUnavailable,
    StoreUnusable,
    Unavailable,
)

_NO_ERRORS = {"SQLITE_OK", "SQLITE_ROW", "SQLITE_DONE", "SQLITE_NOTICE", "SQLITE_WARNING"}
_TABLES = (table.UNAVAILABLE, table.UNUSABLE, table.TIMEOUT, table.CORRUPT, table.MISUSE)
_CODES = {name: code for code, name in apsw.mapping_result_codes.items() if isinstance(code, int)}

_MISTAKES_IN_USING_APSW = {
    *("BindingsError", "ConnectionClosedError", "ConnectionNotClosedError", "CursorClosedError"),
    *("ExecTraceAbort", "ExecutionCompleteError", "ExtensionLoadingError", "ForkingViolationError"),
    *("IncompleteExecutionError", "InvalidContextError", "NoFTS5Error", "ThreadingViolationError"),
    *("VFSFileClosedError", "VFSNotImplementedError"),
}


def test_each_code_of_sqlite_is_in_exactly_one_table():
    """A result code that a new SQLite brings is noticed, and none has two meanings."""
    listed = sorted(name for each in _TABLES for name in each)
    assert listed == sorted(set(_CODES) - _NO_ERRORS)


def test_each_exception_of_the_driver_stands_for_a_code():
    """An exception class that a new driver brings is noticed."""
    named = {type(apsw.exception_for(code)).__name__ for name, code in _CODES.items() if name not in _NO_ERRORS}
    classes = {each.__name__ for each in vars(apsw).values() if isinstance(each, type) and issubclass(each, apsw.Error)}
    assert classes - {"Error"} == named | _MISTAKES_IN_USING_APSW


@pytest.mark.parametrize(
    "code", [*_CODES.values(), *filter(lambda key: isinstance(key, int), apsw.mapping_extended_result_codes)]
)
def test_codes_are_mapped_with_their_cause(code: int):
    """Every code, extended ones by their primary one, becomes the error of its table, and keeps its cause."""
    name = apsw.mapping_result_codes[code & 0xFF]
    if name in _NO_ERRORS:
        return
    error = apsw.exception_for(code)
    found = table.mapped_error(error, "commit", "the file", unknown=True)
    if name in table.MISUSE:
        assert found is error
        return
    assert found.__cause__ is error
    if isinstance(found, Unavailable):
        assert (found.operation, found.code, found.unknown, found.is_transient) == (
            "commit",
            name,
            True,
            name not in table.UNUSABLE,
        )
        special = StoreTimeout if name in table.TIMEOUT else StoreUnusable
        assert type(found) is (StoreUnavailable if name in table.UNAVAILABLE else special)
    else:
        assert type(found) is CorruptDocument
        assert found.path == "the file"


def test_mistakes_in_using_the_driver_are_not_disguised():
    """An exception that carries no code of SQLite stays what it is."""
    for name in _MISTAKES_IN_USING_APSW:
        error = getattr(apsw, name)("text")
        assert table.mapped_error(error, "read", "the file") is error
