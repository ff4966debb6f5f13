"""Opening a store by its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tai_state.engines.api import Engine
from tai_state.engines.observing import Observer
from tai_state.errors import InvalidId, UnknownStore
from tai_state.store.addresses import FORMS, Address
from tai_state.store.store import StateStore
from tai_state.streams.damage import Report
from tai_state.streams.layout import Layout
from tai_state.streams.policies import EveryEvents, OfOthers, SnapshotPolicy, check_policy
from tai_state.streams.settings import Settings, SystemClock
from tai_state.streams.upcasting import Upcast, Upcasting
from tai_state.values.checks import instance_option, seconds_option, whole_option
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
    """A store at an address. Nothing is opened before ``async with``.

    Args:
        url: ``memory://``, ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``firestore://project`` or
            ``firestore://project/database``. Without a project, ``GOOGLE_CLOUD_PROJECT`` of the environment is used.
            Without a URL, ``TAI_STATE_STORE`` of the environment is used, or ``sqlite:///tai-state.db``.
            ``?root=…&namespace=…&indexed=a,b`` may follow. Tests can also pass an engine, such as a ``FaultyEngine``.
        root: together with ``namespace``, the path under which the store's documents live, so that several stores can
            share an engine.
        namespace: see ``root``.
        indexed: the state fields that ``find_states`` may search by.
        snapshots: when to keep a snapshot, and how many; by default every 100 events, and the newest 5.
        schema: the application's version of its data; None returns data of every version as it is stored, and leaves
            as many kept snapshots as it finds, unless ``snapshots`` is given.
        upcasters: for each version before ``schema``, the step to the next.
        create: create the store if it does not exist; if False, opening such a store raises ``StoreNotFound``.
        timeout_seconds: how long the store tries to find out the outcome of a change when answers are lost.
        metadata: who makes the changes that do not name it, and why.
        clock: the time of changes without a timestamp, and of an engine that has no clock of its own; by default, the
            system clock.
        observer: is told of each commit, of each outcome, and of each wait for a lock or a turn.

    Raises:
        UnknownStore: the address is not a store address, or has an option that does not exist.
        InvalidId: only one of root and namespace is given, or one is not text.
        InvalidData: the metadata cannot be stored.
        TypeError: an option is of another type than it must be.
        ValueError: the upcasters do not match the schema, or a number is out of range.
    """
    engine, address = _found_at(url)
    instance_option(create, bool, "create", "True or False")
    settings = Settings(
        create=create,
        indexed=_fields(indexed) or address.indexed,
        snapshots=_policy(snapshots, schema),
        upcasting=Upcasting(schema, {} if upcasters is None else upcasters),
        timeout_seconds=seconds_option(timeout_seconds, "timeout_seconds"),
        metadata=check_default(metadata),
        clock=SystemClock() if clock is None else _clock(clock),
        observer=_observer(observer),
    )
    return StateStore(
        engine or address.engine(settings.clock, create=create),
        Layout(_text(root, "root") or address.root, _text(namespace, "namespace") or address.namespace),
        settings,
    )


def open_to_look(url: str | None, report: Report) -> StateStore:
    """A store at an address, to be read or recovered with its data as stored; it is not created.

    It opens even if the store's own document is damaged or missing, which is reported.
    """
    address = Address.parse(url)
    settings = Settings(
        create=False,
        snapshots=OfOthers(),
        upcasting=Upcasting(None, {}),
        unidentified=report,
    )
    return StateStore(address.engine(settings.clock, create=False), address.layout(), settings)


def FirestoreStore(  # noqa: N802 - the original's name
    project_id: str, database: str = "(default)", **options: Any
) -> StateStore:
    """A store on a Firestore database, under the original's name: :func:`open_store` with the address made from ids.

    Args:
        project_id: the id of the Google Cloud project.
        database: the id of the database in the project.
        options: the options of :func:`open_store`.

    Raises:
        UnknownStore: an id is not valid.
    """
    try:
        address = f"firestore://{quote(project_id, safe='')}/{quote(database, safe='')}"
    except (TypeError, UnicodeEncodeError):
        raise UnknownStore(f"{project_id!r} and {database!r} are not ids", f"use {FORMS}") from None
    return open_store(address, **options)


def _found_at(url: str | Engine | None) -> tuple[Engine | None, Address]:
    """The engine, if one was passed, and the address. A wrapper may have an engine's verbs by ``__getattr__``."""
    if url is None or isinstance(url, str):
        return None, Address.parse(url)
    if isinstance(url, type) or not all(hasattr(url, verb) for verb in ("read", "scan", "commit", "watch")):
        raise UnknownStore(f"{url!r} is not a store address", f"use {FORMS}")
    return url, Address("", "", "", ())


def _fields(indexed: Sequence[str]) -> tuple[str, ...]:
    fields = (indexed,) if isinstance(indexed, str) else tuple(indexed)
    for each in fields:
        instance_option(each, str, "each of the indexed fields", "the name of a field")
    return fields


def _policy(snapshots: SnapshotPolicy | None, schema: int | None) -> SnapshotPolicy:
    if snapshots is None:
        return OfOthers() if schema is None else EveryEvents()
    check_policy(snapshots, "snapshots")
    whole_option(snapshots.keep, "keep of snapshots", 1)
    return snapshots


def _clock(clock: WallClock) -> WallClock:
    if isinstance(clock, type) or not callable(getattr(clock, "now_us", None)):
        raise TypeError(f"clock must have the method now_us, and {clock!r} has not")
    return clock


def _text(name: str, what: str) -> str:
    if type(name) is not str:
        raise InvalidId(what, "a plain str")
    return name


def _observer(observer: Observer | None) -> Observer | None:
    if observer is not None:
        instance_option(observer, Observer, "observer", "an Observer")
    return observer
