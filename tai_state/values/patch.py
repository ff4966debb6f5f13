"""The difference of two JSON values as a patch (RFC 6902)."""

from __future__ import annotations

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
