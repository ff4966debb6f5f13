"""Compares this library with ``eventsourcing`` and with SQLite itself, all in one run.

Every round runs every contestant on all cores and confined to one core, each time on a fresh file of the same file
system. The order is different in each round. A comparison takes, for each side, the setting in which it is faster, and
then the median, over the rounds, of the ratio within a round: a machine that is slow for a while is slow for both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import ours
import raw
import recovery
import theirs
from work import Measured

TASKS = 64
MEMORY_MIB_MAX = 64
DOCUMENTS_MAX = {"sound": 103, "edited": 103, "lost": 108}
"""The 100 events that the default policy allows between two kept snapshots, and three more documents. If the document
of the state is gone, also the five kept snapshots: only that document lists them."""


@dataclass(frozen=True)
class Size:
    """How much work a run does.

    Attributes:
        writes: how many transitions each writing contestant does in a round.
        events: the length of the stream that is replayed.
        memory_events: the length of the stream whose replay is measured for memory.
        recovered: the lengths of the streams that are recovered.
    """

    writes: int
    events: int
    memory_events: int
    recovered: tuple[int, int]


FULL = Size(writes=2_048, events=10_000, memory_events=1_000_000, recovered=(1_000, 100_000))
QUICK = Size(writes=256, events=1_000, memory_events=20_000, recovered=(200, 2_000))


@dataclass(frozen=True)
class Comparison:
    """What is promised of one contestant compared with others.

    Attributes:
        title: what is compared.
        ours: the contestant's name.
        theirs: the names of the others; the fastest of them counts.
        least: the least ratio of ours to theirs.
    """

    title: str
    ours: str
    theirs: tuple[str, ...]
    least: float


SAVES = "eventsourcing, single saves"
REPLAYED = "eventsourcing, replay"
RAW_WRITES = "raw apsw, two rows"
RAW_READS = ("raw apsw, rows streamed", "raw apsw, rows by page")
ONE = "one task"
MANY = f"{TASKS} tasks"
GET_EVENTS = "get_events"
REPLAY = "replay"

ALL = "all cores"
ALONE = "one core"

COMPARISONS = (
    Comparison("one task against eventsourcing's single saves", ONE, (SAVES,), 0.9),
    Comparison(f"{TASKS} tasks against eventsourcing's single saves", MANY, (SAVES,), 4.0),
    Comparison("get_events against eventsourcing's replay", GET_EVENTS, (REPLAYED,), 4.0),
    Comparison("replay against eventsourcing's replay", REPLAY, (REPLAYED,), 4.0),
    Comparison("one task against raw asynchronous apsw", ONE, (RAW_WRITES,), 0.5),
    Comparison("get_events against raw asynchronous apsw", GET_EVENTS, RAW_READS, 0.4),
    Comparison("replay against raw asynchronous apsw", REPLAY, RAW_READS, 0.4),
)


def contestants(folder: Path, size: Size) -> dict[str, Callable[[Path], Measured]]:
    """Every contestant by name. It works on a new file at the given path, or reads a file made here for all rounds."""
    long, other = folder / "ours.db", folder / "theirs.db"
    ours.build(long, size.events)
    machine_id = theirs.build(other, size.events)
    copied = raw.Copied(long, size.writes)
    return {
        ONE: lambda path: ours.one_task(path, size.writes),
        MANY: lambda path: ours.many_tasks(path, size.writes, TASKS),
        SAVES: lambda path: theirs.single_saves(path, size.writes),
        RAW_WRITES: lambda path: raw.write(path, copied),
        GET_EVENTS: lambda _: ours.get_events(long, size.events),
        REPLAY: lambda _: ours.replay(long, size.events),
        REPLAYED: lambda _: theirs.replay(other, machine_id, size.events),
        RAW_READS[0]: lambda _: raw.rows_streamed(long, size.events),
        RAW_READS[1]: lambda _: raw.rows_by_page(long, size.events),
    }


Round: TypeAlias = dict[str, Measured]
"""What one contestant took in one round, by the name of the setting."""


def placements() -> dict[str, set[int]]:
    """The settings, each with the cores that a contestant may use.

    A single core is the last one, because the first serves most interrupts.
    """
    cores = os.sched_getaffinity(0)
    return {ALL: cores, ALONE: {max(cores)}}


def rounds(folder: Path, size: Size, count: int) -> dict[str, list[Round]]:
    """Run all contestants for this many rounds."""
    table = contestants(folder, size)
    names = list(table)
    settings = placements()
    gc.freeze()
    found: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(count):
        for name in _rotated(names, number):
            found[name].append({})
            for setting, cores in settings.items():
                os.sched_setaffinity(0, cores)  # this thread starts the threads of a contestant, which inherit this
                with tempfile.TemporaryDirectory(dir=folder) as fresh:
                    found[name][-1][setting] = table[name](Path(fresh) / "store.db")
        print(f"round {number + 1} of {count}", file=sys.stderr)
    os.sched_setaffinity(0, settings[ALL])
    return found


def _rotated(names: list[str], number: int) -> list[str]:
    start = number * 2 % len(names)
    return names[start:] + names[:start]


def judged(comparison: Comparison, found: dict[str, list[Round]]) -> dict[str, Any]:
    """The ratios of the rounds, and whether their median is as promised."""

    def ratios(*settings: str) -> tuple[float, float, float]:
        """The quartiles of the ratio, with each side in whichever of these settings it is faster."""
        ours, theirs = _fastest(found, [comparison.ours], settings), _fastest(found, comparison.theirs, settings)
        return _quartiles([mine / other for mine, other in zip(ours, theirs, strict=True)])

    low, middle, high = ratios(ALL, ALONE)
    return {
        "title": comparison.title,
        "ratio": middle,
        "quartiles": [low, high],
        "by_setting": {setting: ratios(setting)[1] for setting in (ALL, ALONE)},
        "least": comparison.least,
        "passed": middle >= comparison.least,
    }


def _fastest(found: dict[str, list[Round]], names: Sequence[str], settings: Sequence[str]) -> list[float]:
    """The rates, round by round, of the contestant and setting with the highest median."""
    rates = [[each[setting].rate for each in found[name]] for name in names for setting in settings]
    return max(rates, key=statistics.median)


def memory(folder: Path, count: int) -> dict[str, Any]:
    """Measure the memory of a replay in a process of its own; see ``memory.py``."""
    path = folder / "memory.db"
    ours.build(path, count)
    command = [sys.executable, str(Path(__file__).with_name("memory.py")), str(path), str(count)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found | {"most": MEMORY_MIB_MAX, "passed": found["grown_mib"] <= MEMORY_MIB_MAX}


def recovered(folder: Path, counts: tuple[int, int]) -> dict[str, Any]:
    """How many documents recovery reads from streams of two lengths. The number must not grow with the stream."""
    found = {str(count): recovery.documents_read(folder / f"recovery-{count}.db", count) for count in counts}
    passed = all(number <= DOCUMENTS_MAX[case] for cases in found.values() for case, number in cases.items())
    return {"documents": found, "most": DOCUMENTS_MAX, "passed": passed}


def surroundings(folder: Path) -> dict[str, Any]:
    """The facts that the figures depend on."""
    for path, build in ((folder / "settings-ours.db", ours.build), (folder / "settings-theirs.db", theirs.build)):
        build(path, 2)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load": list(os.getloadavg()),
        "tai-state": version("tai-state"),
        "apsw": version("apsw"),
        "apsw's SQLite": apsw.sqlite_lib_version(),
        "msgspec": version("msgspec"),
        "eventsourcing": version("eventsourcing"),
        "Python's SQLite (eventsourcing's)": sqlite3.sqlite_version,
        "settings": ours.settings(folder / "settings-ours.db"),
        "settings of eventsourcing": theirs.settings(folder / "settings-theirs.db"),
    }


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def run(folder: Path, size: Size, count: int) -> dict[str, Any]:
    """Run everything. Returns the content of the file of results."""
    found = rounds(folder, size, count)
    result: dict[str, Any] = {
        "surroundings": surroundings(folder),
        "rounds": count,
        "sizes": {"writes": size.writes, "events": size.events},
        "contestants": {
            name: {
                setting: {
                    "per_second": dict(
                        zip(("low", "median", "high"), _quartiles([each[setting].rate for each in many]), strict=True)
                    ),
                    "cpu_us": statistics.median(each[setting].cpu_us for each in many),
                }
                for setting in (ALL, ALONE)
            }
            for name, many in found.items()
        },
        "comparisons": [judged(comparison, found) for comparison in COMPARISONS],
        "memory": memory(folder, size.memory_events),
        "recovery": recovered(folder, size.recovered),
    }
    result["passed"] = all(each["passed"] for each in (*result["comparisons"], result["memory"], result["recovery"]))
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result as tables."""
    for name, value in result["surroundings"].items():
        print(f"{name:34} {value}")
    heading = f"median of {result['rounds']} rounds"
    for setting in (ALL, ALONE):
        print(f"\n{heading + ', ' + setting:34} {'per second':>12} {'quartiles':>21} {'CPU us each':>12}")
        for name, settings in result["contestants"].items():
            each = settings[setting]
            rate = each["per_second"]
            spread = f"{rate['low']:,.0f} to {rate['high']:,.0f}"
            print(f"{name:34} {rate['median']:12,.0f} {spread:>21} {each['cpu_us']:12.1f}")
    print(f"\n{'comparison':48} {ALL:>9} {ALONE:>9} {'each at its best':>22} {'least':>6}")
    for each in result["comparisons"]:
        both = " ".join(f"{ratio:9.2f}" for ratio in each["by_setting"].values())
        spread = "({:.2f} to {:.2f})".format(*each["quartiles"])
        print(f"{each['title']:48} {both} {each['ratio']:6.2f} {spread:>15} {each['least']:6.1f}  {_word(each)}")
    memory = result["memory"]
    print(
        f"\nreplay of {memory['events']:,} events adds {memory['grown_mib']:.1f} MiB to {memory['before_mib']:.0f} MiB"
        f" (at most {memory['most']} MiB), in {memory['seconds']:.1f} s  {_word(memory)}"
    )
    most = result["recovery"]["most"]
    print(f"\ndocuments read by recovery (at most {most}), by length of the stream  {_word(result['recovery'])}")
    for count, cases in result["recovery"]["documents"].items():
        print(f"{int(count):>10,}  " + ", ".join(f"{name}: {number}" for name, number in cases.items()))


def _word(judgement: dict[str, Any]) -> str:
    return "pass" if judgement["passed"] else "FAIL"


def main() -> int:
    """Run, print, and write the results to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--events", type=int, help="length of the stream whose replay is measured for memory")
    parser.add_argument("--folder", type=Path, help="where the files go; by default, a temporary folder")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything runs")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if arguments.events:
        size = Size(size.writes, size.events, arguments.events, size.recovered)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = run(Path(folder), size, 1 if arguments.quick else arguments.rounds)
    result["command"] = " ".join(["python", "benchmarks/run.py", *sys.argv[1:]])
    show(result)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if arguments.check and not result["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
