"""The address of a store: the engine that it names, and where the store lives on that engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, unquote

import msgspec

from tai_state.engines.api import Engine
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import UnknownStore
from tai_state.streams.layout import Layout
from tai_state.values.times import WallClock

ENVIRONMENT = "TAI_STATE_STORE"
DEFAULT_URL = "sqlite:///tai-state.db"

PROJECT = "GOOGLE_CLOUD_PROJECT"

FORMS = "memory://, sqlite:///relative.db, sqlite:////absolute.db or firestore://project/database"

_OPTIONS = ("root", "namespace", "indexed")


class Address(msgspec.Struct, frozen=True):
    """An address with its options.

    Attributes:
        url: the address as given.
        root: together with ``namespace``, the path under which the store's documents live; empty: at the top.
        namespace: see ``root``.
        indexed: the state fields that ``find_states`` may search by.
    """

    url: str
    root: str
    namespace: str
    indexed: tuple[str, ...]

    @classmethod
    def parse(cls, url: str | None) -> Address:
        """Parse the given address; without one, that of the environment, or the default.

        Raises:
            UnknownStore: the address is not valid Unicode, or has an option that does not exist.
        """
        url = url if url is not None else os.environ.get(ENVIRONMENT) or DEFAULT_URL
        try:
            url.encode()
        except UnicodeEncodeError:
            raise UnknownStore(f"{url!r} is not valid Unicode", f"use {FORMS}") from None
        options = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
        for name in options:
            if name not in _OPTIONS:
                raise UnknownStore(f"there is no option {name!r}, as in {url!r}", "use root, namespace or indexed")
        indexed = tuple(filter(None, options.get("indexed", "").split(",")))
        return cls(url, options.get("root", ""), options.get("namespace", ""), indexed)

    def layout(self) -> Layout:
        """Where the store's documents live.

        Raises:
            InvalidId: only one of root and namespace is given.
        """
        return Layout(self.root, self.namespace)

    def engine(self, clock: WallClock, *, create: bool) -> Engine:
        """The engine that the address names, not yet opened.

        Args:
            clock: the clock for an engine that has no clock of its own.
            create: whether to create the engine's storage if it does not exist.

        Raises:
            UnknownStore: the address does not name an engine.
        """
        scheme, separator, rest = self.url.partition("://")
        make = _ENGINES.get(scheme) if separator else None
        if make is None:
            raise UnknownStore(f"{self.url!r} is not a store address", f"use {FORMS}")
        return make(self.url, rest.partition("?")[0], clock, create)


def _memory(address: str, rest: str, clock: WallClock, _create: bool) -> Engine:  # noqa: FBT001
    if rest:
        raise UnknownStore(f"{address!r} is not a store address", "the memory engine has no path: use memory://")
    return MemoryEngine(clock)


def _sqlite(address: str, rest: str, clock: WallClock, create: bool) -> Engine:  # noqa: FBT001
    path = unquote(rest[1:])
    if path == ":memory:":
        raise UnknownStore(f"{address!r} is not a store address", "for a store in memory, use memory://")
    if not rest.startswith("/") or not path or "\0" in path:
        raise UnknownStore(f"{address!r} is not a store address", f"a file needs three or four slashes: {FORMS}")
    return SqliteEngine(path, clock, create=create)


def _firestore(address: str, rest: str, _clock: WallClock, _create: bool) -> Engine:  # noqa: FBT001
    project, _, database = rest.partition("/")
    project = unquote(project) or os.environ.get(PROJECT, "")
    database = unquote(database) or "(default)"
    if not project or "/" in project or "/" in database:
        raise UnknownStore(f"{address!r} is not a store address", f"use firestore://project/database, or set {PROJECT}")
    return FirestoreEngine(project, database)


_ENGINES: Mapping[str, Callable[[str, str, WallClock, bool], Engine]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "firestore": _firestore,
}
