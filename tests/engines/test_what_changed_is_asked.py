"""What an engine that reads the order of its commits is asked: a place or a limit that is none is refused at once."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

import pytest

from tai_state.engines.ordering import commit_ordered

if TYPE_CHECKING:
    from tai_state.engines.api import Engine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("argument", ["after", "limit"])
@pytest.mark.parametrize("number", [True, 1.5, "1", -1, 10**30, nan])
async def test_a_number_that_is_none_is_refused(engine: Engine, argument: str, number: Any):
    """It is refused by the call itself, whether or not the engine could have read it."""
    ordered = commit_ordered(engine)
    if ordered is not None:
        with pytest.raises((TypeError, ValueError), match=argument):
            ordered.changed("g/b/events", **{argument: number})
