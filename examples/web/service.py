"""Orders over HTTP: a version is an ETag, a change names the version it was decided on, and retries are safe.

Run it with ``uvicorn --app-dir examples/web service:app``; ``TAI_STATE_STORE`` says where its data lies.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID, uuid4, uuid5

from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import tai_state
from tai_state import ChangeMetadata, StateEvent, StateHandle, StateNotFound, StateSnapshot, StateStore

IDS = UUID("6f3c1d0e-9f0b-4f43-8a43-2f9c3b5a7d10")
WEB = ChangeMetadata("web", "a customer's request")
REFUSALS = {
    tai_state.Rejected: 400,
    tai_state.VersionConflict: 412,
    tai_state.IdempotencyConflict: 422,
    tai_state.Unavailable: 503,
    tai_state.CommitOutcomeUnknown: 503,
}
Status = Literal["placed", "paid", "shipped"]
Key = Annotated[str | None, Header(alias="Idempotency-Key")]
IfMatch = Annotated[str | None, Header()]


class Order(BaseModel):
    """An order, as it is stored and shown."""

    items: int = Field(ge=1)
    status: Status = "placed"


class Edit(BaseModel):
    """The changes that a request makes to an order; fields left out stay as they are."""

    items: int | None = Field(default=None, ge=1)
    status: Status | None = None


class Entry(BaseModel):
    """A change of an order, named as in ``StateEvent``; ``to_state`` is None if the change deleted the order."""

    version: int
    action: str
    recorded_at: datetime
    to_state: Order | None


def order_of(request: Request, order_id: str) -> StateHandle[Order]:
    """The handle of an order; making it reads nothing."""
    store: StateStore = request.state.store
    return store.state("orders", order_id, Order)


def version_in(if_match: str | None) -> int:
    """The version that ``If-Match`` names: the one that the client saw and decided on."""
    if if_match is None:
        raise HTTPException(428, "send If-Match with the ETag of the order as you read it")
    quoted = re.fullmatch(r'"([0-9]{1,18})"', if_match)
    if quoted is None:
        raise HTTPException(400, "If-Match takes one ETag of this service")
    return int(quoted[1])


def shown(state: StateSnapshot[Order], response: Response) -> Order:
    """The order as the response, with its version as the ETag."""
    response.headers["ETag"] = f'"{state.version}"'
    return state.data


async def absent(request: Request, error: Exception) -> JSONResponse:
    """The response if there is no such order: 410 if it was deleted, 404 if it never existed."""
    try:
        await anext(order_of(request, request.path_params["order_id"]).history(limit=1))
    except StateNotFound:
        return JSONResponse({"detail": str(error)}, 404)
    return JSONResponse({"detail": "the order was deleted"}, 410)


async def refused(_: Request, error: Exception) -> JSONResponse:
    """The response to an error of the store. The texts of errors never contain data."""
    status = next(status for family, status in REFUSALS.items() if isinstance(error, family))
    return JSONResponse({"detail": str(error)}, status)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, StateStore]]:
    """Open the store once, for the whole life of the process."""
    async with tai_state.open_store() as store:
        yield {"store": store}


app = FastAPI(lifespan=lifespan, exception_handlers={StateNotFound: absent, **dict.fromkeys(REFUSALS, refused)})


@app.post("/orders", status_code=201)
async def create(order: Order, request: Request, response: Response, key: Key = None) -> Order:
    """Place an order. Its id is derived from the key, so that a retry names the same order."""
    order_id = str(uuid4() if key is None else uuid5(IDS, key))
    response.headers["Location"] = f"/orders/{order_id}"
    return shown(await order_of(request, order_id).save(order, WEB, action="place", event_id=key), response)


@app.get("/orders/{order_id}")
async def read(order_id: str, request: Request, response: Response) -> Order:
    """Show an order as it is now."""
    return shown(await order_of(request, order_id).get(), response)


@app.patch("/orders/{order_id}")
async def change(
    order_id: str, edit: Edit, request: Request, response: Response, if_match: IfMatch = None, key: Key = None
) -> Order:
    """Change an order if it is still as the client saw it. The payload tells two edits with the same key apart."""
    edited = edit.model_dump(exclude_none=True)
    state = await order_of(request, order_id).update(
        lambda order: order.model_copy(update=edited),
        WEB,
        expected=version_in(if_match),
        action="edit",
        payload=edited,
        event_id=key,
    )
    return shown(state, response)


@app.delete("/orders/{order_id}", status_code=204)
async def delete(order_id: str, request: Request, if_match: IfMatch = None, key: Key = None) -> None:
    """Delete an order if it is still as the client saw it. Its history stays."""
    await order_of(request, order_id).delete(WEB, expected=version_in(if_match), event_id=key)


@app.get("/orders/{order_id}/history", response_model=list[Entry])
async def history(
    order_id: str,
    request: Request,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[StateEvent[Order]]:
    """Show the changes of an order in pages: the last version on a page is ``after`` for the next one."""
    return [event async for event in order_of(request, order_id).history(after=after, limit=limit)]
