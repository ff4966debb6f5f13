"""Opening a store by its address."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from tai_state.engines.api import Engine
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import UnknownStore
from tai_state.store.core import Settings, SystemClock
from tai_state.store.layout import Layout
from tai_state.store.policies import EveryEvents, SnapshotPolicy
from tai_state.store.store import StateStore
from tai_state.store.upcasting import Upcast, Upcasting
from tai_state.values.times import Clock

ENVIRONMENT = "TAI_STATE_STORE"
DEFAULT_URL = "sqlite:///tai-state.db"

PROJECT = "GOOGLE_CLOUD_PROJECT"

_FORMS = "memory://, sqlite:///relative.db, sqlite:////absolute.db or firestore://project/database"


def open_store(
    url: str | Engine | None = None,
    *,
    root: str = "",
    namespace: str = "",
    indexed: Sequence[str] = (),
    snapshots: SnapshotPolicy | None = None,
    schema: int | None = 1,
    upcasters: Mapping[int, Upcast] | None = None,
    create: bool = True,
    timeout_seconds: float = 30.0,
    clock: Clock | None = None,
) -> StateStore:
    """A store at an address; nothing is opened before ``async with``.

    Args:
        url: ``memory://``, ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``firestore://project`` or
            ``firestore://project/database`` (without a project: the environment's ``GOOGLE_CLOUD_PROJECT``); without
            one the environment's ``TAI_STATE_STORE``, else ``sqlite:///tai-state.db``.
            ``?root=…&namespace=…&indexed=a,b`` may follow. Tests also give an engine, such as a ``FaultyEngine``.
        root: with ``namespace``, the documents the store lives under, where it shares its engine.
        namespace: see ``root``.
        indexed: state fields that ``find_states`` may ask for.
        snapshots: when a snapshot is kept; by default every 100 events, the newest 5.
        schema: the application's version of its data; None reads every version as it is stored.
        upcasters: for each version before ``schema``, the step to the next.
        create: make the store where there is none; else that is ``StoreNotFound``.
        timeout_seconds: how long one change is looked after when answers are lost.
        clock: the time of changes that come without one, and of an engine that has no time of its own; the system's,
            if not given.

    Raises:
        UnknownStore: the address or an option in it means nothing here.
        InvalidId: only one of root and namespace is given.
        ValueError: upcasters do not fit the schema.
        TypeError: ``snapshots`` is no policy.
    """
    address = url if url is not None else os.environ.get(ENVIRONMENT) or DEFAULT_URL
    if not isinstance(address, (str, Engine)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise UnknownStore(f"{address!r} is no store's address", f"use {_FORMS}")
    if isinstance(indexed, str):
        indexed = (indexed,)
    options = _options(address) if isinstance(address, str) else {}
    settings = Settings(
        create=create,
        indexed=tuple(indexed) or tuple(filter(None, options.get("indexed", "").split(","))),
        snapshots=_policy(snapshots),
        upcasting=Upcasting(schema, upcasters or {}),
        timeout_seconds=timeout_seconds,
        clock=clock or SystemClock(),
    )
    layout = Layout(root or options.get("root", ""), namespace or options.get("namespace", ""))
    engine = _engine(address, settings.clock, create=create) if isinstance(address, str) else address
    return StateStore(engine, layout, settings)


def FirestoreStore(  # noqa: N802 - the original's name
    project_id: str, database: str = "(default)", **options: Any
) -> StateStore:
    """A store on a Firestore database: :func:`open_store` with its address, by the original's name.

    Args:
        project_id: the id of the Google Cloud project.
        database: the id of the database in it.
        options: those of :func:`open_store`.

    Raises:
        UnknownStore: an id is none.
    """
    return open_store(f"firestore://{quote(project_id, safe='')}/{quote(database, safe='')}", **options)


def _options(address: str) -> dict[str, str]:
    options = dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))
    for name in options:
        if name not in ("root", "namespace", "indexed"):
            raise UnknownStore(f"the option {name!r} in {address!r}", "use root, namespace or indexed")
    return options


def _policy(snapshots: SnapshotPolicy | None) -> SnapshotPolicy:
    if snapshots is None:
        return EveryEvents()
    if isinstance(snapshots, type) or not isinstance(snapshots, SnapshotPolicy):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"snapshots must be a policy, like EveryEvents(100), not {snapshots!r}")
    return snapshots


def _engine(address: str, clock: Clock, *, create: bool) -> Engine:
    scheme, separator, rest = address.partition("://")
    make = _ENGINES.get(scheme) if separator else None
    if make is None:
        raise UnknownStore(f"{address!r} is no store's address", f"use {_FORMS}")
    return make(address, rest.partition("?")[0], clock, create)


def _memory(address: str, rest: str, clock: Clock, _create: bool) -> Engine:  # noqa: FBT001
    if rest:
        raise UnknownStore(f"{address!r} is no store's address", "the memory engine has no path: use memory://")
    return MemoryEngine(clock)


def _sqlite(address: str, rest: str, clock: Clock, create: bool) -> Engine:  # noqa: FBT001
    path = unquote(rest[1:])
    if path == ":memory:":
        raise UnknownStore(f"{address!r} is no store's address", "for a store in memory use memory://")
    if not rest.startswith("/") or not path or "\0" in path:
        raise UnknownStore(f"{address!r} is no store's address", f"a file needs three slashes or four: {_FORMS}")
    return SqliteEngine(path, clock, create=create)


def _firestore(address: str, rest: str, _clock: Clock, _create: bool) -> Engine:  # noqa: FBT001
    project, _, database = rest.partition("/")
    project = unquote(project) or os.environ.get(PROJECT, "")
    database = unquote(database) or "(default)"
    if not project or "/" in project or "/" in database:
        raise UnknownStore(f"{address!r} is no store's address", f"use firestore://project/database, or set {PROJECT}")
    return FirestoreEngine(project, database)


_ENGINES: Mapping[str, Callable[[str, str, Clock, bool], Engine]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "firestore": _firestore,
}
