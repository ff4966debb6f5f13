"""Firestore: this library's engine against Google's client and against bare calls, on an emulator.

``python benchmarks/firestore.py`` starts an emulator, unless ``FIRESTORE_EMULATOR_HOST`` names one. Rounds are
interleaved, medians are printed as JSON. A transition is one commit that creates an event and puts a state.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.cloud import firestore
from google.cloud.firestore_v1 import types

from tai_state.engines.api import ABSENT, Put, at
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.store.records import EVENT, EventMetadata, EventRecord, StateMetadata, StateRecord
from tai_state.testing.emulator import fresh_project, running_emulator

ROUNDS = 9
TASKS = 16
TRANSITIONS = 25
EVENTS = 2_000
DATA = {"status": "running", "power": 4.5, "owner": {"name": "a", "tags": ["x", "y"]}}


def records(version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An event and a state, of the size they have in a store."""
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
    """Transitions per second, and the processor time of one, with so many tasks."""
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[work(task) for task in range(tasks)])
    count = tasks * TRANSITIONS
    return {
        "per_second": count / (time.perf_counter() - began),
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


def ours(engine: FirestoreEngine) -> Callable[[int], Awaitable[None]]:
    """Through the engine."""

    async def work(_: int) -> None:
        state_id, revision = secrets.token_hex(6), None
        for version in range(1, TRANSITIONS + 1):
            event, state = records(version)
            require = ABSENT if revision is None else at(revision)
            committed = await engine.commit(
                [Put(f"g/b/e/{state_id}~{version}", event, ABSENT), Put(f"g/b/s/{state_id}", state, require)]
            )
            revision = committed.revision

    return work


def bare(client: Any) -> Callable[[int], Awaitable[None]]:
    """The same two writes by a bare call, their contents as one text each."""
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
            write.update.fields["text"].string_value = msgspec.json.encode(event).decode()
            write.current_document.exists = False
            write = request.writes.add()
            write.update.name = f"{root}/g/b/s/{state_id}"
            write.update.fields["text"].string_value = msgspec.json.encode(state).decode()
            await commit(request, metadata=client._rpc_metadata, timeout=15)

    return work


def batched(client: Any) -> Callable[[int], Awaitable[None]]:
    """Google's batch: nothing is checked but the event's absence."""

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
    """Google's transaction: reads the state, then writes both."""

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


async def replayed(engine: FirestoreEngine, client: Any) -> dict[str, float]:
    """Events per second, read into values by the engine, and into dicts by Google's stream."""
    began = time.perf_counter()
    seen = [document.decode(EVENT) async for document in engine.scan("r/b/e")]
    middle = time.perf_counter()
    theirs = [each.to_dict() async for each in client.collection("r/b/e").stream()]
    if not len(seen) == len(theirs) == EVENTS:
        raise RuntimeError("the two read different numbers of events")
    return {"ours": EVENTS / (middle - began), "stream": EVENTS / (time.perf_counter() - middle)}


async def main() -> None:
    """Measure, and print medians and ratios."""
    project = fresh_project()
    client: Any = firestore.AsyncClient(project=project)
    async with FirestoreEngine(project) as engine:
        for start in range(0, EVENTS, 1_000):
            numbers = range(start + 1, start + 1_001)
            await engine.commit([Put(f"r/b/e/pump~{n:012d}", records(n)[0]) for n in numbers])
        works = {
            "ours": ours(engine),
            "bare": bare(client),
            "batch": batched(client),
            "transactional": transactional(client),
        }
        found: dict[str, list[float]] = {}
        for number in range(ROUNDS + 1):
            for tasks in (1, TASKS):
                for name, work in works.items():
                    for unit, value in (await measured(work, tasks)).items():
                        found.setdefault(f"{name} {tasks} {unit}", []).append(value)
            for name, value in (await replayed(engine, client)).items():
                found.setdefault(f"replay {name}", []).append(value)
            if number == 0:
                found.clear()  # the first round warms up
    await client._firestore_api.transport.close()
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    ratios = {
        f"{kind} of {other}, {tasks} tasks": round(
            medians[f"ours {tasks} {unit}"] / medians[f"{other} {tasks} {unit}"], 2
        )
        for tasks in (1, TASKS)
        for other in ("bare", "batch", "transactional")
        for kind, unit in (("speed", "per_second"), ("cpu", "cpu_us"))
    }
    ratios["replay of stream"] = round(medians["replay ours"] / medians["replay stream"], 2)
    print(json.dumps({"rounds": ROUNDS, "medians": medians, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    with running_emulator() as running:
        os.environ["FIRESTORE_EMULATOR_HOST"] = running.host
        asyncio.run(main())
