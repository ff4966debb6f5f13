"""What goes into one commit where there is more to write than one takes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state.engines.api import ANYTHING, Check, Delete, Put
from tai_state.engines.batching import Batches, Weight, weight_of
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ENGINE_CHECKS, ManualClock
from tai_state.testing.conformance import EngineCheck

from ..support.small_engine import COMMIT_BYTES, OPERATIONS, SmallEngine

CAPABILITIES = MemoryEngine(ManualClock()).capabilities

_WEIGHTS = st.lists(st.builds(Weight, st.integers(1, 12), st.integers(0, 60)), max_size=40)


@given(weights=_WEIGHTS, beside=st.builds(Weight, st.integers(0, 3), st.integers(0, 20)))
def test_batches_hold_all_in_order_and_as_much_as_fits(weights: list[Weight], beside: Weight):
    """Every item comes once, in order; each batch fits or is a single item, and no batch has room for the next item."""
    batches = Batches(replace(CAPABILITIES, max_ops_per_commit=20, max_bytes_per_commit=100))

    def total(items: list[Weight]) -> Weight:
        return Weight(
            beside.operations + sum(each.operations for each in items), beside.size + sum(each.size for each in items)
        )

    def fits(items: list[Weight]) -> bool:
        return total(items).operations <= 20 and total(items).size <= 100

    split = list(batches.split(weights, lambda each: each, beside))
    assert [each for batch in split for each in batch] == weights
    assert all(len(batch) == 1 or fits(batch) for batch in split)
    assert not any(fits([*batch, following[0]]) for batch, following in pairwise(split))


def test_items_are_taken_as_they_are_needed():
    """No more items are asked for than one beyond the batch that is given."""
    taken: list[int] = []

    def numbers():
        for number in range(1_000):
            taken.append(number)
            yield number

    batches = Batches(replace(CAPABILITIES, max_ops_per_commit=10)).split(numbers(), lambda _: Weight(1, 0))
    assert next(batches) == list(range(10))
    assert len(taken) == 11


def test_an_engine_that_takes_much_is_not_given_all_at_once():
    """However much an engine takes, a commit stays small enough for others to get their turn."""
    batches = Batches(replace(CAPABILITIES, max_ops_per_commit=10**6, max_bytes_per_commit=10**9))
    assert len(next(batches.split(range(10**4), lambda _: Weight(1, 0)))) == 1_000
    assert len(next(batches.split(range(10**4), lambda _: Weight(1, 1024 * 1024)))) == 4


@pytest.mark.parametrize(
    ("write", "size"),
    [
        (Put("c/é", {"text": "é"}), len('c/é{"text":"é"}'.encode())),
        (Delete("c/é", ANYTHING), len("c/é".encode())),
        (Check("c/é", ANYTHING), len("c/é".encode())),
    ],
    ids=["put", "delete", "check"],
)
def test_a_write_weighs_its_path_and_its_json(write: Put | Delete | Check, size: int):
    """One write is one operation, and takes the bytes of its path and of its fields as JSON."""
    assert weight_of(write) == Weight(1, size)


def test_a_struct_weighs_what_it_is_stored_as():
    """Fields given as a struct weigh as much as the same fields in a dict."""

    class Fields(msgspec.Struct):
        text: str

    assert weight_of(Put("c/a", Fields("x" * 50))) == weight_of(Put("c/a", {"text": "x" * 50}))


@pytest.mark.anyio
@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_an_engine_with_small_commits_passes_the_examination(check: EngineCheck):
    """No check of the examination needs a commit of more than 128 writes or 1.5 MiB."""
    assert (OPERATIONS, COMMIT_BYTES) == (128, 1_572_864)
    async with SmallEngine(MemoryEngine(ManualClock(step_us=1))) as engine:
        await check(engine)  # type: ignore[arg-type]
