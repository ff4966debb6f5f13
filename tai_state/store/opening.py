"""Opening a store by its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tai_state.engines.api import Engine
from tai_state.engines.observing import Observer
from tai_state.errors import UnknownStore
from tai_state.store.addresses import FORMS, Address
from tai_state.store.store import StateStore
from tai_state.streams.layout import Layout
from tai_state.streams.policies import EveryEvents, SnapshotPolicy
from tai_state.streams.settings import Settings, SystemClock
from tai_state.streams.upcasting import Upcast, Upcasting
from tai_state.values.metadata import ChangeMetadata, check_default
from tai_state.values.times import WallClock


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
    metadata: ChangeMetadata | None = None,
    clock: WallClock | None = None,
    observer: Observer | None = None,
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
        metadata: who makes the changes that do not say it, and why.
        clock: the time of changes that come without one, and of an engine that has no time of its own; the system's,
            if not given.
        observer: is told how changes went: each commit, each outcome, each wait for a lock or a turn.

    Raises:
        UnknownStore: the address or an option in it means nothing here.
        InvalidId: only one of root and namespace is given.
        ValueError: upcasters do not fit the schema.
        InvalidData: the metadata cannot be stored.
        TypeError: ``snapshots`` is not a policy, or ``observer`` not an observer.
    """
    if url is not None and not isinstance(url, (str, Engine)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise UnknownStore(f"{url!r} is no store's address", f"use {FORMS}")
    if isinstance(indexed, str):
        indexed = (indexed,)
    address = Address("", "", "", ()) if isinstance(url, Engine) else Address.parse(url)
    settings = Settings(
        create=create,
        indexed=tuple(indexed) or address.indexed,
        snapshots=_policy(snapshots),
        upcasting=Upcasting(schema, {} if upcasters is None else upcasters),
        timeout_seconds=timeout_seconds,
        metadata=check_default(metadata),
        clock=SystemClock() if clock is None else clock,
        observer=_observer(observer),
    )
    engine = url if isinstance(url, Engine) else address.engine(settings.clock, create=create)
    return StateStore(engine, Layout(root or address.root, namespace or address.namespace), settings)


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


def _policy(snapshots: SnapshotPolicy | None) -> SnapshotPolicy:
    if snapshots is None:
        return EveryEvents()
    if isinstance(snapshots, type) or not isinstance(snapshots, SnapshotPolicy):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"snapshots must be a policy, like EveryEvents(100), not {snapshots!r}")
    return snapshots


def _observer(observer: Observer | None) -> Observer | None:
    if observer is None:
        return None
    if isinstance(observer, type) or not isinstance(observer, Observer):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"observer must be an Observer, not {observer!r}")
    return observer
