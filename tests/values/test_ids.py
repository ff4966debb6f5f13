"""Ids that never meet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state import InvalidId
from tai_state.values.ids import ID_BYTES_MAX, escape_id, split_versioned, unescape_id, versioned

NASTY = ["/", "..", ".", "a/b", "%2F", "a%2Fb", "~", "a~000000000001", "__x__", "____", "%5F_x__", "\x00", "\n", "é"]
ids = st.text(st.sampled_from("ab%/~._\x00\x7fé\u202e2FE5\U0001f600"), min_size=1, max_size=10) | st.sampled_from(NASTY)


@given(ids | st.text(min_size=1, max_size=20))
def test_ids_come_back(identifier: str):
    """An escaped id is one safe path segment and comes back as it was."""
    try:
        segment = escape_id(identifier)
    except InvalidId:
        assert any("\ud800" <= letter <= "\udfff" for letter in identifier)
        return
    assert unescape_id(segment) == identifier
    assert "/" not in segment
    assert "~" not in segment
    assert segment not in (".", "..")
    assert not (segment.startswith("__") and segment.endswith("__") and len(segment) >= 4)
    assert not any(letter < " " for letter in segment)


@given(st.lists(ids, unique=True, max_size=30))
def test_two_ids_are_two_segments(identifiers: list[str]):
    """Escaping is injective: no two ids meet in one path."""
    assert len({escape_id(identifier) for identifier in identifiers}) == len(identifiers)


@given(ids, ids, st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_versions_sort_within_their_stream(one: str, other: str, version: int, later: int):
    """Documents of one stream stand together and in the order of their versions, whatever the ids are."""
    segment, other_segment = escape_id(one), escape_id(other)
    assert split_versioned(versioned(segment, version)) == (segment, version)
    assert (versioned(segment, version) < versioned(segment, later)) == (version < later)
    if segment != other_segment:
        between = versioned(other_segment, version)
        assert not versioned(segment, 0) < between < versioned(segment, 10**12 - 1)


@pytest.mark.parametrize("identifier", ["", None, 1, b"x", ["a"], "\ud800", "x" * (ID_BYTES_MAX + 1), "é" * 741])
def test_what_cannot_be_an_id(identifier: Any):
    """An id is text of at least one character, valid Unicode, and not too long once escaped."""
    with pytest.raises(InvalidId):
        escape_id(identifier)


def test_the_longest_id():
    """An id may be exactly as long as the limit."""
    assert len(escape_id("é" * (ID_BYTES_MAX // 2)).encode()) == ID_BYTES_MAX


@pytest.mark.parametrize("document_id", ["a", "a~1", "a~00000000000x", "a~0000000000011", "a~٠٠٠٠٠٠٠٠٠٠٠١"])
def test_what_is_no_version(document_id: str):
    """Only what was made as a version is read as one."""
    with pytest.raises(ValueError, match=document_id):
        split_versioned(document_id)
