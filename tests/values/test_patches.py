"""Patches that lead from one value to another."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given

from tai_state.values.json import decode, encode
from tai_state.values.patch import diff, patched

from ..support.plain_json import values


def apply(document: Any, patch: list[dict[str, Any]]) -> Any:
    """RFC 6902, as far as patches of ours go."""
    document = decode(encode(document))
    for operation in patch:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]]
        if not keys:
            assert operation["op"] == "replace"
            document = operation["value"]
            continue
        parent = document
        for key in keys[:-1]:
            parent = parent[int(key)] if isinstance(parent, list) else parent[key]
        last = keys[-1]
        if isinstance(parent, list):
            if operation["op"] == "add":
                parent.insert(len(parent) if last == "-" else int(last), operation["value"])
            elif operation["op"] == "remove":
                del parent[int(last)]
            else:
                parent[int(last)] = operation["value"]
        elif operation["op"] == "remove":
            del parent[last]
        else:
            assert (last in parent) == (operation["op"] == "replace")
            parent[last] = operation["value"]
    return document


@given(values, values)
@example({"a/b": 1, "m~n": [1, 2, 3], "": 0}, {"m~n": [1], "": {"x": None}})
@example([1, True, 1.0, None], [True, 1, 1, {}])
@example({"a": 1}, {})
@example([], [[]])
def test_a_patch_leads_to_its_target(before: Any, after: Any):
    """Applying the difference of two values to the first gives the second, with its types."""
    assert encode(apply(before, diff(before, after))) == encode(after) or _only_zeros_differ(before, after)


@given(values, values)
@example({"a/b": {"~1": [1, 2]}, "": 0}, {"a/b": {"~1": [{}], "m~n": None}})
@example([[1], {"a": [2, 3]}], [[1, []], {"a": [2]}, 4])
def test_a_patch_is_applied(before: Any, after: Any):
    """The library applies its patches as the standard says, and leaves the value that it begins with alone."""
    text = encode(before)
    assert encode(patched(before, diff(before, after))) == encode(apply(before, diff(before, after)))
    assert encode(before) == text


def _only_zeros_differ(before: Any, after: Any) -> bool:
    return apply(before, diff(before, after)) == after


@given(values)
def test_no_difference_is_no_patch(value: Any):
    """A value differs in nothing from itself."""
    assert diff(value, decode(encode(value))) == []
