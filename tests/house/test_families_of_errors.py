"""Errors can be caught by family: what an error of the public tree derives from is public, too."""

from __future__ import annotations

import pytest

import tai_state
from tai_state import TaiStateError

ERRORS = [each for each in vars(tai_state).values() if isinstance(each, type) and issubclass(each, TaiStateError)]


@pytest.mark.xfail(strict=True, reason="the families that the tree of errors is drawn for are private")
def test_families_are_public() -> None:
    """Every class between a public error and the root is public, under its own name."""
    families = {family for error in ERRORS for family in error.__mro__ if issubclass(family, TaiStateError)}
    assert {family.__name__ for family in families} - set(tai_state.__all__) == set()
