"""The difference of two JSON values as a patch (RFC 6902)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

Operation = dict[str, Any]


def diff(before: Any, after: Any, pointer: str = "") -> list[Operation]:
    """Operations that turn ``before`` into ``after``. Lists are compared index by index."""
    if isinstance(before, dict) and isinstance(after, dict):
        return _objects(before, after, pointer)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(before, list) and isinstance(after, list):
        return _arrays(before, after, pointer)  # pyright: ignore[reportUnknownArgumentType]
    if before == after and type(before) is type(after):  # pyright: ignore[reportUnknownArgumentType]
        return []
    return [{"op": "replace", "path": pointer, "value": after}]


def patched(value: Any, operations: Iterable[Operation]) -> Any:
    """The value after operations that :func:`diff` made; the value itself is not changed."""
    result = copy.deepcopy(value)
    for operation in operations:
        *parents, last = [_unescaped(key) for key in operation["path"].split("/")]
        if not parents:
            result = operation["value"]
            continue
        place: Any = result
        for key in parents[1:]:
            place = place[int(key) if isinstance(place, list) else key]
        if isinstance(place, list):
            _patch_array(place, last, operation)  # pyright: ignore[reportUnknownArgumentType]
        elif operation["op"] == "remove":
            del place[last]
        else:
            place[last] = operation["value"]
    return result


def _patch_array(place: list[Any], index: str, operation: Operation) -> None:
    if operation["op"] == "add":
        place.append(operation["value"])
    elif operation["op"] == "remove":
        del place[int(index)]
    else:
        place[int(index)] = operation["value"]


def _unescaped(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")


def _objects(before: dict[str, Any], after: dict[str, Any], pointer: str) -> list[Operation]:
    operations: list[Operation] = []
    for key in sorted(before.keys() | after.keys()):
        place = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in after:
            operations.append({"op": "remove", "path": place})
        elif key not in before:
            operations.append({"op": "add", "path": place, "value": after[key]})
        else:
            operations.extend(diff(before[key], after[key], place))
    return operations


def _arrays(before: list[Any], after: list[Any], pointer: str) -> list[Operation]:
    operations: list[Operation] = []
    for index, (one, other) in enumerate(zip(before, after, strict=False)):
        operations.extend(diff(one, other, f"{pointer}/{index}"))
    operations.extend({"op": "add", "path": f"{pointer}/-", "value": value} for value in after[len(before) :])
    # From the end, so that each removal leaves the indexes before it unchanged.
    operations.extend(
        {"op": "remove", "path": f"{pointer}/{index}"} for index in range(len(before) - 1, len(after) - 1, -1)
    )
    return operations
