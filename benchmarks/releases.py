"""Compares two releases of this library in one run: an earlier one, and the working tree.

``python benchmarks/releases.py`` builds a wheel of each and installs it into its own virtual environment, with the same
versions of everything else. In each round, each release works in its own process. Each row runs four times in a round:
one release, the other, the other, and the first again. Which release begins changes from row to row and from round to
round. The ratio of the two releases is taken within each round, and the median of these ratios is judged.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from work import Measured
from workload import TABLES, Row

from tai_state.testing.emulator import fresh_project, running_emulator

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".nox" / "releases"
BASE = "3c9dabb"
BEFORE, NOW = "before", "now"
LEAST = 0.97
READING_LEAST = 0.88
"""Since format 2, documents are checked as they are read."""


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """The output of a command that must succeed."""
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def built(source: Path, folder: Path) -> Path:
    """The wheel of a source tree."""
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", folder, source)
    [wheel] = folder.glob("*.whl")
    return wheel


def wheel_of(base: str, folder: Path) -> Path:
    """The wheel at this path, or the wheel of this revision."""
    if base.endswith(".whl"):
        return Path(base).resolve()
    archive, source = folder / "source.tar", folder / "source"
    run("git", "archive", "--output", archive, base)
    source.mkdir()
    run("tar", "-xf", archive, "-C", source)
    return built(source, folder)


def installed(wheel: Path, name: str, *options: str | Path) -> Path:
    """The Python of the environment with this name, with the wheel installed in it."""
    home, digest = CACHE / name, hashlib.sha256(wheel.read_bytes()).hexdigest()
    python, mark = home / "bin" / "python", home / "wheel"
    if not python.exists():
        venv.create(home, with_pip=True)
    run(python, "-m", "pip", "install", "-qq", f"{wheel}[all]", *options)
    if not mark.exists() or mark.read_text() != digest:
        run(python, "-m", "pip", "install", "-qq", "--force-reinstall", "--no-deps", wheel)
        mark.write_text(digest)
    return python


def environments(base: str) -> dict[str, Path]:
    """The Python of each release's environment."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for each in (BEFORE, NOW):
            (folder / each).mkdir()
        now = installed(built(ROOT, folder / NOW), NOW)
        others = folder / "others.txt"
        others.write_text(run(now, "-m", "pip", "freeze", "--exclude", "tai-state"))
        return {BEFORE: installed(wheel_of(base, folder / BEFORE), BEFORE, "--constraint", others), NOW: now}


class Worker:
    """A process in which one release works.

    Args:
        python: the Python of its environment.
        folder: where its files go.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        # So that neither the working tree nor the hashes of texts make a difference.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": ""}
        script = Path(__file__).with_name("workload.py")
        self._process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
        )

    def ask(self, engine: str, row: str | None, url: str) -> dict[str, Any]:
        """Ask the process to run a row, or to prepare what the reading rows read. Returns its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: PT018 - both are pipes
        print(json.dumps({"engine": engine, "row": row, "url": url}), file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"{row} failed")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def workers(pythons: dict[str, Path], folder: Path) -> Generator[dict[str, Worker]]:
    """A new process of each release."""
    with ExitStack() as stack:
        found: dict[str, Worker] = {}
        for name, python in pythons.items():
            found[name] = Worker(python, folder)
            stack.callback(found[name].close)
        yield found


@dataclass(frozen=True)
class Place:
    """Where the stores of a run live."""

    folder: Path

    def lasting(self, engine: str, release: str) -> str:
        """The address of the store that a release reads in every round."""
        return f"sqlite:///{self.folder}/{release}.db" if engine == "sqlite" else f"firestore://lasting-{release}"

    def fresh(self, engine: str) -> str:
        """The address of an empty store."""
        project = fresh_project()
        return f"sqlite:///{self.folder}/{project}.db" if engine == "sqlite" else f"firestore://{project}"


Found: TypeAlias = dict[tuple[str, str], list[dict[str, Measured]]]
"""For each engine and row, what each release took in each round."""


def rounds(pythons: dict[str, Path], chosen: Sequence[tuple[str, str]], count: int, place: Place) -> Found:
    """Run the chosen rows for this many rounds."""
    found: Found = {each: [] for each in chosen}
    with workers(pythons, place.folder) as working:
        for engine in sorted({engine for engine, row in chosen if TABLES[engine][row].is_reading}):
            for release, worker in working.items():
                worker.ask(engine, None, place.lasting(engine, release))
    for number in range(count):
        with workers(pythons, place.folder) as working:
            for offset, (engine, name) in enumerate(chosen):
                one, other = (BEFORE, NOW) if (number + offset) % 2 else (NOW, BEFORE)
                row, took = TABLES[engine][name], {each: Measured(0) for each in working}
                for release in (one, other, other, one):
                    url = place.lasting(engine, release) if row.is_reading else place.fresh(engine)
                    _add(took[release], Measured(**working[release].ask(engine, name, url)))
                found[engine, name].append(took)
        print(f"round {number + 1} of {count}", file=sys.stderr)
    return found


def _add(total: Measured, part: Measured) -> None:
    total.count += part.count
    total.seconds += part.seconds
    total.cpu_seconds += part.cpu_seconds


def judged(row: Row, found: Sequence[dict[str, Measured]]) -> dict[str, Any]:
    """The outcome of one row. For speed, more is better; for processor time, less."""
    speed = [each[NOW].rate / each[BEFORE].rate for each in found]
    cpu = [each[NOW].cpu_us / each[BEFORE].cpu_us for each in found]
    least = READING_LEAST if row.is_reading else LEAST
    return {
        "per_second": {each: statistics.median(one[each].rate for one in found) for each in (BEFORE, NOW)},
        "cpu_us": {each: statistics.median(one[each].cpu_us for one in found) for each in (BEFORE, NOW)},
        "speed": {"median": statistics.median(speed), "min": min(speed), "max": max(speed)},
        "cpu": {"median": statistics.median(cpu), "min": min(cpu), "max": max(cpu)},
        "least": least,
        "is_below": statistics.median(speed) < least,
        "is_cpu_below": 1 / statistics.median(cpu) < least,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print(f"median of {result['rounds']} rounds, {result['base']} and the working tree")
    print(f"{'':28} {'per second':>17} {'CPU us each':>15} {'speed':>20} {'CPU':>20} {'least':>6}")
    for name, each in result["rows"].items():
        rates = "{before:8,.0f} {now:8,.0f}".format(**each["per_second"])
        cpu = "{before:7,.0f} {now:7,.0f}".format(**each["cpu_us"])
        spreads = ["{median:.3f} ({min:.2f} to {max:.2f})".format(**each[what]) for what in ("speed", "cpu")]
        words = [word for word, key in (("speed", "is_below"), ("CPU", "is_cpu_below")) if each[key]]
        print(f"{name:28} {rates} {cpu} {spreads[0]} {spreads[1]} {each['least']:6.2f}  {_below(words)}")


def _below(words: Sequence[str]) -> str:
    return f"below: {', '.join(words)}" if words else ""


def chosen_rows(only: str) -> Iterator[tuple[str, str]]:
    """The engine and row of all rows whose name contains this text."""
    for engine, table in TABLES.items():
        yield from ((engine, row) for row in table if only in f"{engine}: {row}")


def main() -> int:
    """Build, run, print, and write the results to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=BASE, help="the revision or wheel to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="only rows whose name has this text, such as 'sqlite' or 'update'")
    parser.add_argument("--folder", type=Path, help="where the files go; by default, a temporary folder")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a row is slower than allowed")
    options = parser.parse_args()
    chosen = list(chosen_rows(options.only))
    pythons = environments(options.base)
    with ExitStack() as stack:
        if any(engine == "firestore" for engine, _ in chosen):
            os.environ["FIRESTORE_EMULATOR_HOST"] = stack.enter_context(running_emulator()).host
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))).resolve()
        found = rounds(pythons, chosen, options.rounds, Place(folder))
    rows = {f"{engine}: {row}": judged(TABLES[engine][row], each) for (engine, row), each in found.items()}
    result = {"base": options.base, "rounds": options.rounds, "rows": rows}
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if options.check and any(each["is_below"] for each in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
