"""Status codes of gRPC: each has a meaning."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state.engines.firestore.errors import MEANINGS, mapped_error
from tai_state.errors import CommitRefused, InvalidData, StoreTimeout, StoreUnavailable

from ...support.firestore import Failure

grpc = pytest.importorskip("grpc")
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_every_status_code_has_a_meaning(code: Any):
    """Each code of gRPC is in the table, and is an error of the tree; details are cut to one line."""
    assert code.name in MEANINGS
    for operation in ("read", "commit"):
        error = mapped_error(Failure(code), operation)
        assert isinstance(error, StoreUnavailable | StoreTimeout | InvalidData)
        assert "some details" in str(error)
        assert "more" not in str(error)
        assert not getattr(error, "unknown", False) or operation == "commit"


def test_the_table_has_no_other_codes():
    """Nothing in the table is no status code."""
    assert set(MEANINGS) == {code.name for code in CODES}


def test_what_a_commits_failure_leaves_open():
    """Only what the server cannot have applied is said not to be; a refusal needs a requirement."""
    sure = {code.name for code in CODES if not getattr(mapped_error(Failure(code), "commit"), "unknown", False)}
    assert sure == {
        *("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "UNAUTHENTICATED"),
        *("FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    }
    refused = [
        code.name for code in CODES if isinstance(mapped_error(Failure(code), "commit", required=""), CommitRefused)
    ]
    assert refused == ["NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED"]
    assert getattr(mapped_error(ValueError("no code"), "commit"), "unknown", False)
