"""Hashes and digests."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tai_state.values.digests import GENESIS, NO_STATE_HASH, content_digest, event_digest, state_hash

from ..support.plain_json import texts


def test_golden_digests():
    """The bytes of hashes and digests are the format: these values, computed without the library, never change."""
    assert state_hash("null") == NO_STATE_HASH
    assert NO_STATE_HASH == "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
    assert state_hash('{"n":1}') == "2bfd14f43d17fc7cea24e0917a8879b4b2f880b8baeec1b9d90fbaad655e71bd"
    header = {"governor_id": "bank", "state_id": "é", "version": 1, "causality": {"aa": 1}, "metadata": None}
    carried = event_digest(GENESIS, header, None, NO_STATE_HASH)
    assert carried == "bf5dfc6cf1ab7f4b969535cbb9b1d7bdd1b7892baf1bea283ef10694aade1d57"
    followed = event_digest(carried, header, '{"p":1.5}', state_hash('{"n":1}'))
    assert followed == "36283f0bfe311f1174ac9f6ec559abdabc369c927df0943bdeafff0023e0be06"
    content = content_digest("alice", "save", None, 1)
    assert content == "ce5f463d0a224525589b32f78b1e88d7dd09e6ede3ddfbfd4f12564053233b9f"


@given(st.integers(0, 3), st.data())
def test_a_digest_stands_for_all_of_an_event(part: int, data: st.DataObject):
    """Changing any part changes the digest; no payload is not the same as an empty one."""
    content: list[Any] = [GENESIS, {"version": 1}, "1", NO_STATE_HASH]
    other = list(content)
    other[part] = data.draw(
        [
            st.integers(1, 2**256 - 1).map(lambda number: f"{number:064x}"),
            st.integers(2, 99).map(lambda number: {"version": number}),
            st.none() | texts.filter(lambda text: text != "1" and _encodable(text)),
            st.just(GENESIS),
        ][part]
    )
    assert event_digest(*content) != event_digest(*other)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
