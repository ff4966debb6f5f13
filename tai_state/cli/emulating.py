"""Commands for stores on Firestore: emulator, indexes."""

from __future__ import annotations

from typing import Annotated

import typer

from tai_state.cli.common import JsonOption, StoreOption
from tai_state.cli.output import print_json, print_line, say
from tai_state.engines.firestore.indexes import index_config
from tai_state.errors import StoreUnavailable
from tai_state.store.addresses import Address


def emulator(
    *,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="The port; by default, a free one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a Firestore emulator. Prints the shell command that makes other programs use it; runs until Ctrl-C."""
    from tai_state.engines.firestore.engine import EMULATOR  # noqa: PLC0415
    from tai_state.testing.emulator import started_emulator  # noqa: PLC0415

    with started_emulator(port=port) as running:
        if as_json:
            print_json({"host": running.host})
        else:
            print_line(f"export {EMULATOR}={running.host}")
            say("the emulator runs until Ctrl-C and keeps everything in memory")
        code = None if running.process is None else running.process.wait()
        raise StoreUnavailable("emulator", "ENDED", f"it ended by itself with exit code {code}")


def indexes(*, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Print the indexes that a store needs on Firestore. Includes those for the indexed fields in its address."""
    print_json(index_config(Address.parse(store).indexed))
    if not as_json:
        say("save this as firestore.indexes.json, then run: firebase deploy --only firestore:indexes")
