"""The one loop that settles commits, on an engine whose answers are given beforehand: commit, pause, look, judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import pytest

from tai_state.engines.api import ABSENT, At, Committed, Document, Put, Reading, Scan, Write
from tai_state.engines.matters import Bounds, Commit, Done, Failed, Look, More, TooLarge, Verdict
from tai_state.engines.paging import Paged
from tai_state.engines.settling import settle
from tai_state.errors import (
    CommitOutcomeUnknown,
    CommitRefused,
    CommitTooLarge,
    CorruptDocument,
    InvalidData,
    StateNotFound,
    StoreTimeout,
    StoreUnavailable,
    StoreUnusable,
    TaiStateError,
)

REFUSED = CommitRefused("c/a")
LOST = StoreTimeout("commit", "TEST", "the answer was lost", unknown=True)
UNAVAILABLE = StoreUnavailable("commit", "TEST", "nothing was applied")
CANNOT_LOOK = StoreUnavailable("read", "TEST", "no look")
CLOSED = RuntimeError("the engine is not open")
COMMITTED = Committed(7, 1_000)
UNSETTLED = CommitOutcomeUnknown(("id",), ("c/a",))
OUTRUN = StateNotFound("outrun")
FINAL = StateNotFound("c/a")

TIMEOUT_SECONDS = 10.0


def document(name: str, revision: int) -> Document:
    """One that stands at a revision."""
    return Document("c", name, b"{}", revision, 0)


def commit(name: str = "a") -> Commit[str]:
    """Something to send."""
    return Commit([Put(f"c/{name}", {}, ABSENT)], lambda committed: f"{name} at {committed.revision}")


class Scripted:
    """An engine, a matter and a clock, all of which do what they are told to, and a log of what was asked of them.

    Args:
        commits: what the engine answers to each commit; an error is raised.
        verdicts: what is judged of each look; a function is given the look, an error is raised.
        reads: what each read answers; by default it finds nothing, at the time of its number.

    Attributes:
        log: what happened, in order.
        looks: those that were judged.
        sent: what was told to have been sent last, at each judgement.
        gone: the names of what can be applied no more.
        smaller_commit: what is sent in place of what is too large.
        now: the time.
        commit_seconds: how long a commit takes.
        pauses: how long each was.
    """

    def __init__(
        self,
        commits: Sequence[Committed | Exception] = (),
        verdicts: Sequence[Verdict[str] | Exception | Callable[[Look], Verdict[str]]] = (),
        reads: Sequence[Reading | Exception] = (),
    ) -> None:
        self.log: list[str] = []
        self.looks: list[Look] = []
        self.sent: list[Commit[str] | None] = []
        self.gone: set[str] = set()
        self.smaller_commit: Commit[str] | None = None
        self.now = 0.0
        self.commit_seconds = 0.0
        self.pauses: list[float] = []
        self._commits = iter(commits)
        self._verdicts = iter(verdicts)
        self._reads = iter(reads)
        self._numbers: Iterator[int] = iter(range(1, 1_000))

    def settled(self, first: Commit[str] | None = None, **options: Any) -> str:
        """Settle it."""
        bounds = {name: options.pop(name) for name in ("attempts_max", "insists") if name in options}

        async def work() -> str:
            made = Bounds(
                timeout_seconds=TIMEOUT_SECONDS,
                jitter=lambda: 1.0,
                monotonic=lambda: self.now,
                sleep=self.sleep,
                **bounds,
            )
            return await settle(self, self, made, first, **options)  # type: ignore[arg-type]

        return anyio.run(work)

    def judged_as(self, *verdicts: Verdict[str] | Callable[[Look], Verdict[str]]) -> None:
        """What is judged of each look."""
        self._verdicts = iter(verdicts)

    # The clock

    async def sleep(self, seconds: float) -> None:
        """So long nothing happens."""
        self.log.append("pause")
        self.pauses.append(seconds)
        self.now += seconds

    # The engine

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """The next answer."""
        self.log.append(f"commit {writes[0].path.removeprefix('c/')}")
        self.now += self.commit_seconds
        return _given(next(self._commits))

    async def read(self, paths: Sequence[str]) -> Reading:
        """The next answer."""
        self.log.append("look")
        number = next(self._numbers)
        return _given(next(self._reads, Reading(tuple(None for _ in paths), number)))

    def scan(self, scan: Scan) -> Paged[Document]:
        """Two documents, if so many are wanted."""
        self.log.append("scan")
        pages = iter([[document("x", 1), document("y", 1)][: scan.limit], None])

        async def fetch() -> list[Document] | None:
            return next(pages)

        return Paged(fetch)

    # The matter

    def reads(self, sent: Commit[str] | None) -> Sequence[str]:
        """The first document, and the one that was sent."""
        return ["c/a"] if sent is None else list(dict.fromkeys(["c/a", sent.writes[0].path]))

    def judge(self, look: Look, sent: Commit[str] | None) -> Verdict[str]:
        """The next verdict."""
        self.log.append("judge")
        self.looks.append(look)
        self.sent.append(sent)
        verdict = next(self._verdicts)
        return _given(verdict(look) if callable(verdict) else verdict)

    def is_overtaken(self, sent: Commit[str], look: Look) -> bool:
        """As the test says."""
        assert look.documents
        return sent.writes[0].path.removeprefix("c/") in self.gone

    def smaller(self, sent: Commit[str], error: TooLarge) -> Commit[str] | None:
        """As the test says."""
        self.log.append(f"smaller {sent.writes[0].path.removeprefix('c/')}, {error.what}")
        return self.smaller_commit

    def outrun(self) -> str:
        """Others were faster each time."""
        raise OUTRUN

    def unsettled(self) -> TaiStateError:
        """It could not be found out."""
        return UNSETTLED


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def raised(script: Scripted, first: Commit[str] | None = None, **options: Any) -> Exception:
    """The error that it ends with."""
    with pytest.raises(Exception) as error:  # noqa: PT011 - which one is what the test is about
        script.settled(first, **options)
    return error.value


# The order -------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_end():
    """A commit that is acknowledged gives its result, and nothing is looked at."""
    script = Scripted([COMMITTED])
    assert script.settled(commit()) == "a at 7"
    assert script.log == ["commit a"]


def test_without_a_first_commit_it_looks_first():
    """What is to be sent is said by the first judgement, and sent at once."""
    script = Scripted([COMMITTED], [commit()])
    assert script.settled() == "a at 7"
    assert script.log == ["look", "judge", "commit a"]
    assert script.sent == [None]


def test_the_pause_is_before_the_look():
    """Commit, pause, look, judge: a pause never parts a look from the commit that rests on it."""
    # After the first commit there is none: mostly, one look is enough.
    script = Scripted([REFUSED, LOST, REFUSED, COMMITTED], [commit("b"), commit("c"), commit("d")])
    assert script.settled(commit()) == "d at 7"
    assert " ".join(script.log) == ("commit a look judge commit b pause look judge commit c pause look judge commit d")
    assert [sent and sent.writes[0].path for sent in script.sent] == ["c/a", "c/b", "c/c"]
    assert [set(look.documents) for look in script.looks] == [{"c/a"}, {"c/a", "c/b"}, {"c/a", "c/c"}]


def test_pauses_grow_with_each_try():
    """The bound of a pause begins with the time that the commit took, doubles each time and ends at a second."""
    script = Scripted([REFUSED] * 12, [commit()] * 12)
    script.commit_seconds = 0.004
    raised(script, commit(), attempts_max=12)
    assert script.pauses == pytest.approx([0.004 * 2**n for n in range(1, 8)] + [1.0] * 4)
    script = Scripted([REFUSED, REFUSED, COMMITTED], [commit(), commit()])
    script.settled(commit())
    assert script.pauses == pytest.approx([0.002])


def test_a_result_that_was_judged_is_the_end():
    """Where a look shows that it is done, that is the result, and nothing more is sent."""
    script = Scripted([LOST], [Done("found")])
    assert script.settled(commit()) == "found"
    assert script.log == ["commit a", "look", "judge"]


def test_what_a_look_tells():
    """A judgement is told how many looks there were, of lost answers, of copies under way, and of the time."""
    script = Scripted([REFUSED, LOST, REFUSED], [commit("b"), More(), commit("c"), Done("found")])
    script.settled(commit())
    assert [look.looks for look in script.looks] == [1, 1, 2, 1]
    assert [look.was_unanswered for look in script.looks] == [False, True, True, True]
    assert [look.may_arrive for look in script.looks] == [False, True, True, True]
    assert [look.time_us for look in script.looks] == [1, 2, 3, 4]
    assert [look.asked for look in script.looks] == [look.answered for look in script.looks]


def test_who_observes_sees_each_look_before_it_is_judged():
    """The observer is shown what the judgement is shown, and before it."""
    script = Scripted([REFUSED], [More(), Done("found")])
    seen: list[Look] = []

    def observe(look: Look) -> None:
        script.log.append("observe")
        seen.append(look)

    script.settled(commit(), on_look=observe)
    assert script.log == ["commit a", "look", "observe", "judge", "pause", "look", "observe", "judge"]
    assert seen == script.looks


# More to be read -------------------------------------------------------------------------------------------------


def test_more_is_read_into_the_same_look():
    """Further documents and scans are added to what was read, without a pause."""
    scan, short = Scan("c", limit=5), Scan("c", limit=1)
    script = Scripted([REFUSED], [More(("c/b",)), More(scan=scan), More(("c/d",), short), Done("found")])
    script.settled(commit())
    assert " ".join(script.log) == "commit a look judge look judge scan judge look scan judge"
    last = script.looks[-1]
    assert set(last.documents) == {"c/a", "c/b", "c/d"}
    assert {each: len(found) for each, found in last.scanned.items()} == {scan: 2, short: 1}
    assert [look.looks for look in script.looks] == [1, 2, 3, 4]
    assert last.time_us == 3


def test_looking_again_begins_anew():
    """Where nothing is named, all is read again after a pause, and what was read before is forgotten."""
    readings = [Reading((document("a", n),), n) for n in (1, 2, 3)]
    script = Scripted([REFUSED], [More(scan=Scan("c")), More(), More(), Done("found")], readings)
    script.settled(commit())
    assert " ".join(script.log) == "commit a look judge scan judge pause look judge pause look judge"
    assert [look.documents["c/a"] for look in script.looks] == [document("a", n) for n in (1, 1, 2, 3)]
    assert [len(look.scanned) for look in script.looks] == [0, 1, 0, 0]


# The bounds ------------------------------------------------------------------------------------------------------


def test_attempts_are_bounded_and_the_last_one_is_looked_up():
    """After the last commit there is one more look; if that says to send again, others were faster each time."""
    script = Scripted([REFUSED] * 3, [commit()] * 3)
    assert raised(script, commit(), attempts_max=3) is OUTRUN
    assert " ".join(script.log) == "commit a look judge commit a pause look judge commit a pause look judge"


def test_the_last_look_may_find_it_done():
    """What the last commit has come to is found, though nothing more would be sent."""
    script = Scripted([REFUSED, LOST], [commit(), Done("found")])
    assert script.settled(commit(), attempts_max=2) == "found"


def test_the_deadline_counts_from_the_first_refusal():
    """Once so much time has passed nothing more is sent, but after one last look; commits before do not count."""
    script = Scripted([REFUSED] * 3, [commit()] * 3)
    script.commit_seconds = TIMEOUT_SECONDS * 0.6
    assert raised(script, commit()) is OUTRUN
    assert script.log.count("commit a") == 3
    assert script.log[-2:] == ["look", "judge"]
    assert script.now == pytest.approx(TIMEOUT_SECONDS * 1.8 + sum(script.pauses))


def test_what_was_never_sent_is_sent_whatever_time_it_is():
    """Bounds are for what was sent; a first commit is sent after however many looks."""
    script = Scripted([COMMITTED], [More()] * 30 + [commit()])
    assert script.settled(attempts_max=1) == "a at 7"


# Lost answers ----------------------------------------------------------------------------------------------------


def test_what_was_not_applied_is_said_at_once():
    """An engine that could not do it, and knows that, is not looked at and not asked again."""
    script = Scripted([UNAVAILABLE])
    assert raised(script, commit()) is UNAVAILABLE
    assert script.log == ["commit a"]


def test_who_insists_asks_again():
    """Where that is wanted, it is tried again; in the end the engine's own error is told."""
    script = Scripted([UNAVAILABLE, REFUSED, COMMITTED], [commit(), commit()])
    assert script.settled(commit(), insists=True) == "a at 7"
    script = Scripted([REFUSED, UNAVAILABLE], [commit(), commit()])
    assert raised(script, commit(), insists=True, attempts_max=2) is UNAVAILABLE
    assert script.log[-1] == "judge"


def test_what_was_never_sent_is_not_unknown():
    """Where nothing was sent, that is told also if nothing can be looked at any more."""
    reads = [StoreUnavailable("read", "TEST")] * 9
    script = Scripted([UNAVAILABLE], reads=reads)
    assert raised(script, commit(), insists=True, attempts_max=2) is UNAVAILABLE
    assert script.log == ["commit a", "look", "pause", "look"]
    assert raised(Scripted([REFUSED], reads=reads), commit(), insists=True, attempts_max=2) is UNSETTLED
    script = Scripted([UNAVAILABLE], reads=reads)
    assert raised(script, commit(), insists=True, attempts_max=2, is_open=True) is UNSETTLED
    script = Scripted([UNAVAILABLE, COMMITTED], [commit()], reads[:1])
    assert script.settled(commit(), insists=True) == "a at 7"


def test_what_was_not_applied_does_not_end_what_may_be():
    """While a copy is under way, an engine that cannot do it now is asked again."""
    script = Scripted([LOST, UNAVAILABLE, COMMITTED], [commit(), commit()])
    assert script.settled(commit()) == "a at 7"
    script = Scripted([LOST, UNAVAILABLE], [commit()])
    script.gone = {"a"}
    assert raised(script, commit()) is UNAVAILABLE


@pytest.mark.parametrize("last", [REFUSED, LOST, UNAVAILABLE], ids=["refused", "lost", "unavailable"])
def test_a_copy_that_may_still_arrive_leaves_it_unknown(last: TaiStateError):
    """Where the bounds are reached while a copy of it is under way, nobody knows what becomes of it."""
    script = Scripted([LOST, last], [commit(), commit()])
    error = raised(script, commit(), attempts_max=2)
    assert error is UNSETTLED
    assert error.__cause__ is last


def test_what_lasts_is_not_sent_again():
    """Once the engine says that it cannot until somebody changes something, a look is all that follows."""
    lasting = StoreUnusable("commit", "NO_ACCESS")
    script = Scripted([LOST, lasting], [commit(), commit()])
    error = raised(script, commit())
    assert (error, error.__cause__) == (UNSETTLED, lasting)
    assert " ".join(script.log) == "commit a look judge commit a pause look judge"
    script = Scripted([LOST, lasting], [commit(), Done("found")])
    assert script.settled(commit()) == "found"
    assert raised(Scripted([lasting], [commit()]), commit(), insists=True) is lasting


def test_a_refused_request_says_nothing_of_an_earlier_copy():
    """While a copy is under way, the outcome is unknown although the engine finds fault with the next one."""
    refused = InvalidData("a request that means nothing")
    error = raised(Scripted([LOST, refused], [commit()]), commit())
    assert (error, error.__cause__) == (UNSETTLED, refused)
    script = Scripted([LOST, refused], [commit()])
    script.gone = {"a"}
    assert raised(script, commit()) is refused
    assert raised(Scripted([refused]), commit()) is refused


def test_a_copy_that_is_overtaken_leaves_nothing_open():
    """Where no copy can be applied any more, others were faster, or the engine could not: and that is known."""
    for last, known in ((REFUSED, OUTRUN), (LOST, LOST)):
        script = Scripted([LOST, last], [commit(), commit()])
        script.gone = {"a"}
        assert raised(script, commit(), attempts_max=2) is known
        assert [look.may_arrive for look in script.looks] == [False, False]


@pytest.mark.parametrize(
    ("gone", "is_known"),
    [({"a"}, False), ({"b"}, False), ({"a", "b"}, True)],
    ids=lambda each: "".join(sorted(each)) if isinstance(each, set) else str(each),
)
def test_each_copy_is_weighed_for_itself(gone: set[str], is_known: bool):  # noqa: FBT001
    """One copy that is overtaken does not settle another one that is not."""
    script = Scripted([LOST, LOST])

    def then(_: Look) -> Verdict[str]:
        script.gone = gone
        return commit("b")

    script.judged_as(then, Failed(FINAL))
    assert raised(script, commit()) is (FINAL if is_known else UNSETTLED)


def test_a_copy_once_overtaken_stays_so():
    """What was found to be overtaken is not asked about again."""
    script = Scripted([LOST, REFUSED])
    script.gone = {"a"}

    def then(_: Look) -> Verdict[str]:
        script.gone = set()
        return commit("b")

    script.judged_as(then, Failed(FINAL))
    assert raised(script, commit()) is FINAL


# Errors ----------------------------------------------------------------------------------------------------------


def test_an_error_of_a_verdict_is_the_end():
    """What can never be applied is said, with its reason."""
    script = Scripted([REFUSED], [Failed(FINAL)])
    error = raised(script, commit())
    assert error is FINAL
    assert error.__cause__ is None


def test_an_error_is_not_final_while_a_copy_may_arrive():
    """Then the outcome is unknown, and the reason is what was judged."""
    script = Scripted([LOST], [Failed(FINAL)])
    error = raised(script, commit())
    assert error is UNSETTLED
    assert error.__cause__ is FINAL
    script = Scripted([LOST], [Failed(FINAL)])
    script.gone = {"a"}
    assert raised(script, commit()) is FINAL


def test_an_unknown_outcome_stays_the_one_that_was_judged():
    """A verdict that is itself an unknown outcome is told as it is."""
    unknown = CommitOutcomeUnknown(("other",), ())
    assert raised(Scripted([LOST], [Failed(unknown)]), commit()) is unknown


@pytest.mark.parametrize("answer", [REFUSED, LOST], ids=["refused", "lost"])
@pytest.mark.parametrize("place", ["judge", "observe"])
def test_a_judgement_that_raises(answer: TaiStateError, place: str):
    """Its error is final, or the reason why nobody knows, as that of a verdict is."""
    mistake = ZeroDivisionError("in a function of the application")

    def observe(_: Look) -> None:
        if place == "observe":
            raise mistake

    error = raised(Scripted([answer], [mistake]), commit(), on_look=observe)
    assert (error if answer is REFUSED else error.__cause__) is mistake
    assert (error is UNSETTLED) == (answer is LOST)


def test_who_has_sent_nothing_is_told_that_it_could_not_look():
    """The engine's own error comes out, and it is not looked again."""
    script = Scripted(reads=[CANNOT_LOOK])
    assert raised(script) is CANNOT_LOOK
    assert script.log == ["look"]


def test_who_has_sent_something_looks_again():
    """A look that fails for the moment is made anew, after a pause."""
    script = Scripted([REFUSED], [Done("found")], [CANNOT_LOOK, CANNOT_LOOK])
    assert script.settled(commit()) == "found"
    assert " ".join(script.log) == "commit a look pause look pause look judge"
    assert script.looks[0].looks == 3


def test_what_cannot_be_looked_up_is_unknown():
    """After so many looks, or so much time, or an error that lasts, nobody knows what became of what was sent."""
    script = Scripted([REFUSED], [], [CANNOT_LOOK] * 9)
    error = raised(script, commit(), attempts_max=4)
    assert (error, error.__cause__, script.log.count("look")) == (UNSETTLED, CANNOT_LOOK, 4)

    script = Scripted([LOST], [], [CANNOT_LOOK] * 50)
    error = raised(script, commit())
    assert (error, error.__cause__) == (UNSETTLED, CANNOT_LOOK)
    assert script.now == pytest.approx(TIMEOUT_SECONDS, abs=1.0)

    damage = CorruptDocument("c/a", "is damaged")
    script = Scripted([REFUSED], [], [damage])
    error = raised(script, commit())
    assert (error, error.__cause__, script.log) == (UNSETTLED, damage, ["commit a", "look"])


@pytest.mark.parametrize("answer", [REFUSED, LOST], ids=["refused", "lost"])
def test_who_is_closed_cannot_look(answer: TaiStateError):
    """An engine that was closed after a commit says nothing of it; who has sent nothing gets the error itself."""
    script = Scripted([answer], [], [CLOSED])
    error = raised(script, commit())
    assert (error, error.__cause__, script.log) == (UNSETTLED, CLOSED, ["commit a", "look"])
    assert raised(Scripted(reads=[CLOSED])) is CLOSED
    assert raised(Scripted(reads=[CLOSED]), is_open=True) is UNSETTLED


def test_who_is_closed_before_the_next_try_leaves_it_unknown():
    """An engine that was closed between a look and the next commit says nothing of an earlier copy."""
    error = raised(Scripted([LOST, CLOSED], [commit()]), commit())
    assert (error, error.__cause__) == (UNSETTLED, CLOSED)
    assert raised(Scripted([REFUSED, CLOSED], [commit()]), commit()) is CLOSED
    assert raised(Scripted([CLOSED]), commit()) is CLOSED


def test_what_is_open_from_before_is_looked_after():
    """Where something was sent before this began, not being able to look leaves it unknown, too."""
    damage = CorruptDocument("c/a", "is damaged")
    error = raised(Scripted(reads=[damage]), is_open=True)
    assert (error, error.__cause__) == (UNSETTLED, damage)
    assert Scripted([], [Done("found")], [CANNOT_LOOK]).settled(is_open=True) == "found"


def test_other_errors_come_out_as_they_are():
    """What is no answer of an engine ends it at once: a caller's mistake, or a cancellation."""
    mistake = ValueError("the commit names a path twice")
    script = Scripted([mistake])
    assert raised(script, commit()) is mistake
    assert script.log == ["commit a"]


# Too large -------------------------------------------------------------------------------------------------------

TOO_LARGE = CommitTooLarge("bytes", 2, 1)


def test_what_is_too_large_is_sent_smaller():
    """It is sent at once, without a look; what was too large does not count as a try."""
    script = Scripted([TOO_LARGE, REFUSED, COMMITTED], [commit("c")])
    script.smaller_commit = commit("b")
    assert script.settled(commit(), attempts_max=2) == "c at 7"
    assert " ".join(script.log) == "commit a smaller a, bytes commit b look judge commit c"
    assert script.sent == [script.smaller_commit]


def test_what_cannot_be_smaller_is_too_large():
    """The engine's error comes out; while a copy is under way, the outcome is unknown."""
    assert raised(Scripted([TOO_LARGE]), commit()) is TOO_LARGE
    script = Scripted([LOST, TOO_LARGE], [commit("b")])
    error = raised(script, commit())
    assert (error, error.__cause__) == (UNSETTLED, TOO_LARGE)


def test_requirements_are_sent_as_they_were_judged():
    """The loop adds nothing to what is sent and takes nothing away."""
    writes = [Put("c/a", {"n": 1}, At(3)), Put("c/b", {}, ABSENT)]
    seen: list[Sequence[Write]] = []
    script = Scripted([COMMITTED])
    answer = script.commit

    async def noted(writes: Sequence[Write]) -> Committed:
        seen.append(writes)
        return await answer(writes)

    script.commit = noted  # type: ignore[method-assign]
    script.settled(Commit(writes, lambda _: "done"))
    assert seen == [writes]
