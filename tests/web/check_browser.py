"""The pages in a real browser: styled as they are meant to be, nothing refused. ``nox -s browser`` runs this by name.

A screenshot of each page, wide and narrow, light and dark, is kept in the folder that ``TAI_STATE_SCREENSHOTS`` names.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tai_state import ChangeMetadata, open_store
from tai_state.machines import Event, ready

from ..support.orders import ORDER, PAY, Cart, Payment
from ..support.program import Program

CHROMIUM = shutil.which("chromium")
SHOTS = Path(os.environ.get("TAI_STATE_SCREENSHOTS", "screenshots"))
PAGES = {
    "list": ("machines", "node-1"),
    "machine": ("machines/cluster/node-1", "What may come next"),
    "state": ("machines/cluster/node-1/state", "Newest steps"),
    "history": ("machines/cluster/node-1/history", "an operator looked at it"),
    "diagram": ("machines/cluster/system/diagram", "Bootstrapping"),
    "order": ("machines/shop/a%2Fb", "a/b"),
    "hostile": ("machines?governor=shop", "&lt;script&gt;"),
    "problem": ("machines/shop/plain", "409 Conflict"),
}
LOOKS = {"wide": (1200, 1400), "narrow": (420, 1400), "dark": (1200, 1400)}


async def fill(url: str) -> None:
    """A cluster that has worked for a while, and a shop with odd names."""
    states = ready.CoordinatorState
    async with open_store(url, metadata=ChangeMetadata("tester", "")) as store:
        node = store.machine("cluster", "node-1", ready.COORDINATOR)
        await node.initialize(initial=states.Ready)
        for state in (states.Computing, states.Aggregating, states.Committing, states.Ready, states.Computing):
            await node.transition_to(state, Event("Inference request received"))
        await node.force_state(states.Degraded, "an operator looked at it")
        system = store.machine("cluster", "system", ready.SYSTEM)
        await system.initialize()
        await system.fire(ready.SystemEvents.bootstrap, None)
        for number in range(4):
            await store.machine("cluster", f"request-{number}", ready.INFERENCE_REQUEST).initialize()
        for name in ("a/b", "<script>alert(1)</script>"):
            order = store.machine("shop", name, ORDER)
            await order.initialize(context=Cart())
            await order.fire(PAY, Payment(cents=100))
        await store.save_state("shop", "plain", {"status": "no machine"})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for such a store."""
    assert CHROMIUM, "install Debian's package chromium"
    folder = tmp_path_factory.mktemp("browser")
    anyio.run(fill, f"sqlite:///{folder}/tai-state.db")
    orders = Path(__file__).parents[1] / "support" / "orders.py"
    shutil.copy(orders, folder / "orders.py")
    (folder / "shown.py").write_text(
        "from orders import ORDER\nfrom tai_state.machines import ready\n"
        "ALL = [ORDER, ready.COORDINATOR, ready.SYSTEM, ready.INFERENCE_REQUEST]\n"
    )
    program = Program(folder, command=(sys.executable, "-m", "tai_state"))
    with program.started("serve", "--app", "shown:ALL", "--port", "0") as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()


def looked_at(address: str, *options: str) -> str:
    """What the browser finds at an address: the page as it stands after it was read."""
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
    done = subprocess.run(
        [str(CHROMIUM), *fixed, *options, address], capture_output=True, text=True, timeout=100, check=True
    )
    refused = [line for line in done.stderr.splitlines() if "Content Security Policy" in line or "CONSOLE" in line]
    assert refused == []
    return done.stdout


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_a_browser(address: str, page: str, look: str) -> None:
    """The browser shows the page with what belongs there, refuses no part of it, and runs no script of a name."""
    path, part = PAGES[page]
    width, height = LOOKS[look]
    document = looked_at(f"{address}{path}", "--dump-dom")
    assert part in document
    assert "<script" not in document
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = SHOTS / f"{page}-{look}.png"
    dark = (
        ("--blink-settings=preferredColorScheme=0",) if look == "dark" else ("--blink-settings=preferredColorScheme=1",)
    )
    looked_at(f"{address}{path}", f"--window-size={width},{height}", f"--screenshot={shot}", *dark)
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (width, height)
    assert shot.stat().st_size > 8_000
