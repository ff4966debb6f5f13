"""The commands that look: ls, show, history, diff, stats, verify."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from tai_state import ChangeMetadata, StateStore

from ..support.filled import fits, on_store
from ..support.program import Inside, Program


def test_ls_lists_governors(there: Program) -> None:
    """``ls --json`` is an array of governors with the number of their live states."""
    assert there("ls", "--json").json() == [
        {"governor": "a/b", "states": 1},
        {"governor": "bank", "states": 1},
        {"governor": "hostile", "states": 1},
        {"governor": "sums", "states": 1},
    ]
    assert there("ls").out.splitlines()[:2] == ["governor  states", "a/b       1"]


def test_ls_lists_states(there: Program) -> None:
    """``ls GOVERNOR --json`` is an array of live states."""
    [state] = there("ls", "bank", "--json").json()
    fits(state, state_id="alice", version=5, data={"balance": 40, "tags": []}, timestamp="2026-03-01T10:00:00.000000Z")


def test_show(there: Program, inside: Inside) -> None:
    """``show --json`` is one state, now, at a version or at a time, with exactly the agreed keys."""
    now = there("show", "bank", "alice", "--json").json()
    fits(
        now,
        governor="bank",
        state_id="alice",
        version=5,
        data={"balance": 40, "tags": []},
        timestamp="2026-03-01T10:00:00.000000Z",
        recorded_at=...,
        metadata={"changed_by": "ana", "reason": "a test", "context": {"ticket": 7}, "parent_version": 4},
        deleted=False,
    )
    assert datetime.fromisoformat(now["recorded_at"]).tzinfo is not None
    assert now["recorded_at"].endswith("Z")
    at_version = inside("show", "bank", "alice", "--version", "2", "--json").json()
    assert (at_version["version"], at_version["data"]) == (2, {"balance": 10, "tags": ["new"]})
    for time in ("2026-03-01T08:30:00Z", "2026-03-01T14:00:00+05:30", "2026-03-01T08:30"):
        assert inside("show", "bank", "alice", "--at", time, "--json").json()["version"] == 3


def test_show_what_is_deleted(inside: Inside) -> None:
    """A deleted state is not found, and its versions are still there to be shown."""
    error = inside("show", "bank", "bob", "--json").error(1)
    fits(error, path="governors/bank/states/bob", type="StateNotFound", message=...)
    assert error["message"] == "there is no state at 'governors/bank/states/bob': it was deleted at version 2"
    shown = inside("show", "bank", "bob", "--version", "2", "--json").json()
    assert (shown["deleted"], shown["data"]) == (True, None)


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["show", "--version", "300"], "no version 300 of {}: its newest version is 5"),
        (["diff", "1", "99"], "no version 99 of {}: its newest version is 5"),
        (
            ["show", "--at", "2000-01-01T00:00:00Z"],
            "no state at {} at 2000-01-01T00:00:00.000000Z: its first event is from 2026-03-01T06:00:00.000000Z",
        ),
    ],
)
def test_a_version_or_time_out_of_range(inside: Inside, arguments: list[str], instead: str) -> None:
    """It says what there is instead."""
    command, *rest = arguments
    ended = inside(command, "bank", "alice", *rest)
    said = instead.format("'governors/bank/states/alice'")
    assert (ended.code, ended.err) == (1, f"tai-state: there is {said}\n")


def test_ids_are_taken_as_they_are(there: Program) -> None:
    """Slashes, dots and letters beyond ASCII are part of an id; what is no text at all is refused."""
    assert there("show", "a/b", "../Zoë", "--json").json()["state_id"] == "../Zoë"
    assert there("show", "a/b", b"\xff", "--json").error(2)["type"] == "InvalidId"
    assert there("show", "a/b", "", "--json").error(2)["type"] == "InvalidId"


def test_history(there: Program) -> None:
    """``history --json`` is an array of events with the states around them, bounded by ``--after`` and ``--limit``."""
    events = there("history", "bank", "alice", "--after", "1", "--limit", "2", "--json").json()
    assert [event["version"] for event in events] == [2, 3]
    fits(
        events[0],
        governor="bank",
        state_id="alice",
        version=2,
        id=...,
        action="step 1",
        payload=None,
        from_state={"balance": 0, "tags": ["new"]},
        to_state={"balance": 10, "tags": ["new"]},
        timestamp="2026-03-01T07:00:00.000000Z",
        recorded_at=...,
        metadata={"changed_by": "ana", "reason": "a test", "context": {"ticket": 7}, "parent_version": 1},
        causality=...,
        digest=...,
    )
    shown = there("history", "bank", "alice")
    assert shown.out.splitlines()[1:3] == [
        '1        2026-03-01T06:00:00.000000Z  step 0  ana  balance=0, tags=["new"]',
        "2        2026-03-01T07:00:00.000000Z  step 1  ana  balance=10",
    ]


def test_the_last_events(inside: Inside) -> None:
    """``--last`` shows as many as there are, oldest first, and goes with no other bound."""

    def versions(*arguments: str) -> list[int]:
        return [event["version"] for event in inside("history", "bank", "alice", *arguments, "--json").json()]

    assert versions("--last", "2") == [4, 5]
    assert versions("--last", "5") == versions("--last", "99") == [1, 2, 3, 4, 5]
    assert inside("history", "bank", "carol", "--last", "1", "--json").error(1)["type"] == "StateNotFound"
    for other in (["--after", "1"], ["--limit", "1"]):
        said = inside("history", "bank", "alice", "--last", "2", *other, "--json").error(2)["message"]
        assert "--last" in said


def test_a_governor_has_one_name(inside: Inside) -> None:
    """Whatever is shown of one."""
    shown = [inside("show", "bank", "alice", "--json").json(), *inside("history", "bank", "alice", "--json").json()]
    assert {each["governor"] for each in shown} == {"bank"}
    assert not any("governor_id" in each for each in shown)


def test_history_of_nothing(inside: Inside) -> None:
    """No events are an empty array; no state is an error."""
    assert inside("history", "bank", "alice", "--after", "5", "--json").json() == []
    assert inside("history", "bank", "carol", "--json").error(1)["type"] == "StateNotFound"


def test_history_shows_traces(program: Program) -> None:
    """The ids of a request that made a change stand with its event, and nothing stands where there are none."""

    async def change(store: StateStore) -> None:
        await store.save_state("bank", "carol", {}, ChangeMetadata("ana", "a test"))
        traced = ChangeMetadata("ana", "a test", trace={"traceparent": "00-1"})
        await store.update_state("bank", "carol", {"n": 1}, traced, expected=1)

    on_store(f"sqlite:///{program.folder}/tai-state.db", change)
    traces = [event["metadata"].get("trace") for event in program("history", "bank", "carol", "--json").json()]
    assert traces == [None, {"traceparent": "00-1"}]


def test_diff(there: Program) -> None:
    """``diff --json`` is a patch of RFC 6902 from the one version to the other, empty where nothing differs."""
    assert there("diff", "bank", "alice", "3", "4", "--json").json() == [
        {"op": "replace", "path": "/balance", "value": 30},
        {"op": "remove", "path": "/tags/0"},
    ]
    assert there("diff", "bank", "alice", "4", "4", "--json").json() == []


def test_stats(there: Program) -> None:
    """``stats --json`` counts governors, states and versions."""
    fits(there("stats", "--json").json(), governors=4, states=4, deleted=1, versions=11, max_version=5, snapshots=0)


def test_verify(there: Program) -> None:
    """``verify`` ends with 0 where all is consistent, and with 4 where something needs a reducer."""
    sound = there("verify", "bank", "--json").json()
    fits(sound, consistent=True, states=2, events=7, unchecked=0, findings=[])
    unchecked = there("verify", "--json")
    assert (unchecked.code, unchecked.err) == (4, "")
    fits(json.loads(unchecked.out), consistent=False, states=5, events=11, unchecked=1, findings=[])
    assert there("verify").out == "5 states, 11 events: 0 findings, 1 state unchecked (pass the reducers with --app)\n"


def test_reducers_of_an_application(there: Program) -> None:
    """``verify``, ``show`` and ``recover`` fold with the reducers of ``--app``, whose prints stay out of the JSON."""
    checked = there("verify", "--app", "shop:GOOD", "--json")
    assert (checked.code, checked.err) == (0, "this module prints when it is imported\n")
    assert json.loads(checked.out)["consistent"]
    shown = there("show", "sums", "s", "--version", "1", "--app", "shop:GOOD", "--json")
    assert json.loads(shown.out)["data"] == {"total": 2}
    without = there("show", "sums", "s", "--version", "1", "--json").error(4)
    assert without["type"] == "ReducerMissing"
    assert json.loads(there("recover", "sums", "--app", "shop:GOOD", "--json").out)["sound"] == 1


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("shop", "takes MODULE:ATTRIBUTE"),
        ("nowhere:GOOD", "ModuleNotFoundError"),
        ("shop:MISSING", "AttributeError"),
        ("shop:NONE", "not a mapping"),
        ("broken:GOOD", "ZeroDivisionError"),
        ("leaving:GOOD", "SystemExit"),
    ],
)
def test_reducers_that_cannot_be_loaded(program: Program, name: str, what: str) -> None:
    """A module of ``--app`` that is not there, or fails, or holds something else, is a usage error in one line."""
    (program.folder / "broken.py").write_text("1 / 0\n")
    (program.folder / "leaving.py").write_text("raise SystemExit(0)\n")
    ended = program("verify", "--app", name)
    assert (ended.code, ended.out) == (2, "")
    assert what in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
