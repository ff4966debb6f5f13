"""A fault proxy that also ends calls with any status, and says what it is told to on streams that listen."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

import grpc

from .fault_proxy import FaultProxy

CODES: Final = {code.name: code for code in grpc.StatusCode}


class Ending(NamedTuple):
    """How a call ends: with which status, and after how many messages. Before the first, it never arrives."""

    code: str
    messages: int


class Ended(NamedTuple):
    """A call that ended as planned."""

    method: str
    ending: Ending


Word: TypeAlias = bytes | Ending | BaseException | None
"""What is said on a stream that listens: a message, its end as planned, or its end as it came."""


class EndingProxy(FaultProxy):
    """Ends the next calls of a method as planned; all else is as for a fault proxy.

    Attributes:
        ended: the calls that ended as planned, in the order in which they did.

    Args:
        target: the emulator's host and port.
        stray_calls: as for a fault proxy.
    """

    def __init__(self, target: str, *, stray_calls: int = 2) -> None:
        super().__init__(target, stray_calls=stray_calls)
        self.ended: list[Ended] = []
        self._endings: dict[str, deque[Ending | None]] = defaultdict(deque)
        self._listening: set[queue.SimpleQueue[Word]] = set()

    @property
    def listening(self) -> int:
        """How many streams listen now."""
        return len(self._listening)

    def end_next(self, method: str, code: str, *, messages: int = 0, passing: int = 0) -> None:
        """End the next call of a method with a status.

        Args:
            method: like ``Commit``.
            code: the status; ``OK`` only for a call that streams.
            messages: of a call that streams, after so many.
            passing: so many calls of the method pass before.
        """
        self._endings[method].extend([*[None] * passing, Ending(code, messages)])

    def say(self, message: bytes) -> None:
        """Say something on every stream that listens."""
        for each in tuple(self._listening):
            each.put(message)

    def end_listening(self, code: str) -> None:
        """End every stream that listens now, with a status."""
        for each in tuple(self._listening):
            each.put(Ending(code, 0))

    def one_answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Pass on a unary call, or end it."""
        if (ending := self._next(method)) is not None:
            self._end(method, ending, context)
        return super().one_answer(method, request, context)

    def many_answers(
        self, method: str, request: bytes | Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Pass on a call whose answer is a stream, as far as it goes."""
        ending = self._next(method)
        if ending is not None and not ending.messages:
            self._end(method, ending, context)
            return
        if isinstance(request, bytes):
            answers = super().many_answers(method, request, context)
        else:
            answers = super().many_answers(method, _until_broken(request), _Endless(context))
            answers = self._with_words(method, answers, context)
        for number, answer in enumerate(answers, 1):
            yield answer
            if ending is not None and number == ending.messages:
                self._end(method, ending, context)
                return

    def _next(self, method: str) -> Ending | None:
        endings = self._endings[method]
        return endings.popleft() if endings else None

    def _end(self, method: str, ending: Ending, context: grpc.ServicerContext) -> None:
        """Raises, unless the call is to end well."""
        self.ended.append(Ended(method, ending))
        if ending.code != "OK":
            context.abort(CODES[ending.code], "planned")

    def _with_words(self, method: str, answers: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """What the server says, and what this proxy is told to say."""
        words: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self._listening.add(words)
        threading.Thread(target=_pass_on, args=(answers, words), daemon=True).start()
        try:
            while (word := words.get()) is not None:
                if isinstance(word, BaseException):
                    raise word
                if isinstance(word, Ending):
                    self._end(method, word, context)
                    return
                yield word
        finally:
            self._listening.discard(words)


class _Endless:
    """The context of a call without a deadline: gRPC names an infinite one to servers, and takes none from clients."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def time_remaining(self) -> None:
        """There is no end of it."""


def _until_broken(requests: Iterator[bytes]) -> Iterator[bytes]:
    """What a client says, until it says no more for whatever cause: else gRPC logs the cause from a thread of its own.

    While a thread writes a traceback, Python 3.11 may fail to parse the source for another one, as pytest does.
    """
    with suppress(Exception):
        yield from requests


def _pass_on(answers: Iterator[bytes], words: queue.SimpleQueue[Word]) -> None:
    try:
        for answer in answers:
            words.put(answer)
    except BaseException as error:  # noqa: BLE001 - raised by the thread that answers
        words.put(error)
    else:
        words.put(None)
