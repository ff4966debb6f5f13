"""Commands that serve pages: serve."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any

import anyio
import typer

from tai_state.cli.common import Damage, JsonOption, StoreOption, UsageError, run
from tai_state.cli.loading import load_definitions
from tai_state.cli.output import print_json, print_line, say
from tai_state.machines.definition import Definition
from tai_state.store.opening import open_to_look

_GRACE_SECONDS = 3
"""How long answers that are under way may take when the command is told to end."""


def serve(
    *,
    app_name: Annotated[
        str,
        typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="The definition of the machines, or a list of them."),
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen at; by default, only this computer can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 takes a free one.")] = 8000,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve pages that show the machines of the store, until Ctrl-C. It only reads, and asks nobody for a password."""
    definitions = load_definitions(app_name)
    run(partial(_serve, definitions, host, port, store, as_json=as_json))


async def _serve(
    definitions: list[Definition[Any, Any]], host: str, port: int, store: str | None, *, as_json: bool
) -> None:
    try:
        # Imported only here: the extra is optional, and takes longer to import than other commands to run.
        from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: PLC0415
        from uvicorn import Config, Server  # noqa: PLC0415

        from tai_state.web import monitor_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError('serve needs the extra web: run: pip install "tai-state[web]"') from error

    class Serving(Server):
        """A server that leaves the signals to this command, which ends with 0."""

        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    damage = Damage(as_json=as_json)
    async with open_to_look(store, damage.report) as opened_store:
        with _listening(host, port) as listener:
            app: Any = monitor_app(opened_store, definitions)
            address = listener.getsockname()[0]
            if ip_address(address).is_loopback:
                # Another site's name may be made to lead here: its pages could then read what they are shown.
                app = TrustedHostMiddleware(app, ["localhost", address, host], www_redirect=False)
            config = Config(app, lifespan="off", ws="none", log_config=None, access_log=False, server_header=False)
            config.timeout_graceful_shutdown = _GRACE_SECONDS
            server = Serving(config)
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                _announce(listener, as_json=as_json)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.serve, [listener])
                    async for _ in signals:
                        server.should_exit = True
                        break


@contextmanager
def _listening(host: str, port: int) -> Generator[socket.socket, None, None]:
    """A socket that listens there.

    Raises:
        UsageError: it cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        why = "the port is in use; `--port 0` takes a free one" if is_taken else error.strerror or error
        raise UsageError(f"cannot listen at {host}, port {port}: {why}") from error
    with listener:
        yield listener


def _announce(listener: socket.socket, *, as_json: bool) -> None:
    """Print where the pages are."""
    address, port = listener.getsockname()[:2]
    where = f"http://{f'[{address}]' if ':' in address else address}:{port}/"
    if as_json:
        print_json({"address": where})
        return
    print_line(where)
    if not ip_address(address).is_loopback:
        say("everybody who can reach this address can read it")
