"""Firestore: this library against Google's client and against bare calls, on an emulator.

``python benchmarks/firestore.py`` starts an emulator, unless ``FIRESTORE_EMULATOR_HOST`` names one. A transition is one
commit that creates an event and puts a state. Every contestant runs once in each round, in a different order each time.
The ratio of two contestants is taken within each round, and the median of these ratios is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from google.cloud import firestore
from google.cloud.firestore_v1 import types
from ours import append
from work import GOVERNOR, MACHINE

from tai_state import ChangeMetadata, StateStore, open_store
from tai_state.engines.firestore.codec import encode
from tai_state.streams.records import EventMetadata, EventRecord, StateMetadata, StateRecord
from tai_state.testing.emulator import fresh_project, running_emulator

ROUNDS = 9
TASKS = 16
TRANSITIONS = 50
EVENTS = 20_000
METADATA = ChangeMetadata("operator", "by hand")
DATA = {"status": "running", "power": 4.5, "owner": {"name": "a", "tags": ["x", "y"]}}


def records(version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An event and a state, as large as they are in a store."""
    text = msgspec.json.encode(DATA).decode()
    shared: dict[str, Any] = {
        "version": version,
        "timestamp": "2026-03-01T12:00:00.000000Z",
        "causality": {"0123456789abcdef": version},
        "hlc": 116_000_000_000_000 + version,
        "state_hash": "a" * 64,
        "digest": "b" * 64,
        "schema": 1,
    }
    event = EventRecord(
        event_id=secrets.token_hex(16),
        state_id="pump",
        action="start",
        metadata=EventMetadata("operator", "by hand", version - 1, "{}"),
        previous="c" * 64,
        to_state=text,
        **shared,
    )
    state = StateRecord(
        data=DATA,
        as_of=shared["timestamp"],
        metadata=StateMetadata("operator", "by hand", version - 1, {}),
        kept=(),
        kept_as_of="",
        unkept_bytes=0,
        **shared,
    )
    return msgspec.to_builtins(event), msgspec.to_builtins(state)


async def measured(work: Callable[[int], Awaitable[None]], tasks: int) -> dict[str, float]:
    """Transitions per second, and the processor time of each, with this many tasks."""
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[work(task) for task in range(tasks)])
    count = tasks * TRANSITIONS
    return {
        "per_second": count / (time.perf_counter() - began),
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


def ours(store: StateStore) -> Callable[[int], Awaitable[None]]:
    """Transitions through the store: hashed, chained, and checked against the version before."""

    async def work(_: int) -> None:
        state_id = secrets.token_hex(6)
        for version in range(TRANSITIONS):
            await store.update_state("b", state_id, DATA, METADATA, expected=version)

    return work


def bare(client: Any) -> Callable[[int], Awaitable[None]]:
    """The same two documents through a bare call: nothing is hashed, checked or remembered."""
    channel = client._firestore_api.transport.grpc_channel
    request_type, response_type = types.CommitRequest.pb(), types.CommitResponse.pb()
    commit = channel.unary_unary(
        "/google.firestore.v1.Firestore/Commit",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    root = f"{client._database_string}/documents"

    async def work(_: int) -> None:
        state_id = secrets.token_hex(6)
        for version in range(1, TRANSITIONS + 1):
            event, state = records(version)
            request = request_type(database=client._database_string)
            write = request.writes.add()
            write.update.name = f"{root}/g/b/e/{state_id}~{version}"
            encode(event, write.update.fields)
            write.current_document.exists = False
            write = request.writes.add()
            write.update.name = f"{root}/g/b/s/{state_id}"
            encode(state, write.update.fields)
            await commit(request, metadata=client._rpc_metadata, timeout=15)

    return work


def batched(client: Any) -> Callable[[int], Awaitable[None]]:
    """Google's batch: only the absence of the event is checked."""

    async def work(_: int) -> None:
        state_id = secrets.token_hex(6)
        for version in range(1, TRANSITIONS + 1):
            event, state = records(version)
            batch = client.batch()
            batch.create(client.document(f"g/b/e/{state_id}~{version}"), event)
            batch.set(client.document(f"g/b/s/{state_id}"), state)
            await batch.commit()

    return work


def transactional(client: Any) -> Callable[[int], Awaitable[None]]:
    """Google's transaction: reads the state, then writes both documents."""

    async def work(_: int) -> None:
        state_id = secrets.token_hex(6)

        @firestore.async_transactional
        async def step(transaction: Any, event: Any, state: Any, version: int) -> None:
            await client.document(f"g/b/s/{state_id}").get(transaction=transaction)
            transaction.create(client.document(f"g/b/e/{state_id}~{version}"), event)
            transaction.set(client.document(f"g/b/s/{state_id}"), state)

        for version in range(1, TRANSITIONS + 1):
            await step(client.transaction(), *records(version), version)

    return work


def replayed(store: StateStore) -> Callable[[], AsyncIterator[object]]:
    """The events of a long stream as values; the stream is checked to be complete."""
    return lambda: store.get_events(GOVERNOR, MACHINE)


def streamed(client: Any) -> Callable[[], AsyncIterator[object]]:
    """The same documents as dicts, through Google's stream."""

    async def read() -> AsyncIterator[object]:
        async for each in client.collection(f"governors/{GOVERNOR}/events").stream():
            yield each.to_dict()

    return read


async def read_all(read: Callable[[], AsyncIterator[object]]) -> dict[str, float]:
    """Events per second, and the processor time of each."""
    began, cpu = time.perf_counter(), time.process_time()
    count = 0
    async for _ in read():
        count += 1
    if count != EVENTS:
        raise RuntimeError(f"{count} events were read, not {EVENTS}")
    return {
        "per_second": count / (time.perf_counter() - began),
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


LEAST = {"transactional": 2.5, "batch": 1.5, "bare": 0.7, "stream": 4.0}
"""The library must be at least this many times as fast as each of these."""
CPU_MOST = {"transactional": 0.4}
"""The library may take at most this share of the processor time of these."""


def contestants(store: StateStore, client: Any) -> dict[str, Callable[[], Awaitable[dict[str, float]]]]:
    """All contestants, by name."""
    works = {
        "ours": ours(store),
        "bare": bare(client),
        "batch": batched(client),
        "transactional": transactional(client),
    }
    found: dict[str, Callable[[], Awaitable[dict[str, float]]]] = {
        f"{name}, {tasks} task{'s' if tasks > 1 else ''}": partial(measured, work, tasks)
        for tasks in (1, TASKS)
        for name, work in works.items()
    }
    return {
        **found,
        "ours, replay": partial(read_all, replayed(store)),
        "stream, replay": partial(read_all, streamed(client)),
    }


async def main(rounds: int) -> dict[str, Any]:
    """Run all contestants. Returns the medians of each, and of the ratios."""
    project = fresh_project()
    client: Any = firestore.AsyncClient(project=project)
    found: dict[str, list[dict[str, float]]] = {}
    async with open_store(f"firestore://{project}") as store:
        for version in range(0, EVENTS, 1_000):
            await append(store, version, 1_000)
        running = contestants(store, client)
        for number in range(rounds + 1):
            for name in random.Random(number).sample(sorted(running), len(running)):
                result = await running[name]()
                if number:  # the first round warms up
                    found.setdefault(name, []).append(result)
    await client._firestore_api.transport.close()
    medians = {
        name: {unit: round(statistics.median(each[unit] for each in results), 1) for unit in results[0]}
        for name, results in sorted(found.items())
    }
    return {"rounds": rounds, "medians": medians, "ratios": ratios(found)}


def ratios(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """The median, over the rounds, of the ratio of this library to each other contestant."""
    result: dict[str, dict[str, Any]] = {}
    for name, theirs in sorted(found.items()):
        who, what = name.split(", ")
        if who == "ours":
            continue
        mine = found[f"ours, {what}"]
        pairs = list(zip(mine, theirs, strict=True))
        speed = statistics.median(own["per_second"] / other["per_second"] for own, other in pairs)
        cpu = statistics.median(own["cpu_us"] / other["cpu_us"] for own, other in pairs)
        kept = speed >= LEAST[who] and cpu <= CPU_MOST.get(who, cpu)
        result[name] = {
            "speed": round(speed, 2),
            "least": LEAST[who],
            "cpu": round(cpu, 2),
            "most": CPU_MOST.get(who),
            "kept": kept,
        }
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    with running_emulator() as emulator:
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator.host
        account = json.dumps(asyncio.run(main(options.rounds)), indent=2)
    print(account)
    if options.json:
        options.json.write_text(account + "\n")
