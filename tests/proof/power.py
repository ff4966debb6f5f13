"""Loss of power at every moment: what the disk may hold then is built from one recorded run, and opened."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crew import PROCESSES, Crew, scratch, workloads
from images import RANDOM, VARIANTS, Disk, Line, Recording, Sync
from report import Section
from scenarios import Scenario, copy, judge, prepare
from tracing import WRITING, Fault
from workload import IMPATIENCE_SECONDS, PATIENCE_SECONDS

ATTEMPTS = 3
_STRING_BYTES_MAX = 1 << 26
_PARTS = 4 * PROCESSES


@dataclass(frozen=True)
class Sampling:
    """Which of all possible images are checked.

    Attributes:
        seed: for all that is random.
        draws: random images for each random variant and moment.
        every: check one image in so many.
    """

    seed: int
    draws: int
    every: int


@dataclass(frozen=True)
class Share:
    """One process's part of the images of one recording.

    Attributes:
        scenario: what was recorded.
        recording: the trace.
        sampling: which images.
        part: this share, from 0.
        parts: how many there are.
    """

    scenario: Scenario
    recording: Recording
    sampling: Sampling
    part: int
    parts: int


@dataclass
class Checked:
    """What came of a share.

    Attributes:
        images: digests of those checked.
        variants: how many of each there were, those like another included.
        failures: what was wrong.
    """

    images: set[bytes] = field(default_factory=set)
    variants: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def prove(
    crew: Crew,
    scenarios: Sequence[Scenario],
    *,
    seed: int,
    draws: int,
    every: int = 1,
    faults: tuple[Fault | None, ...] = (None,),
    minimum: int = 1,
    mutant: str = "",
    wanted: str = "",
) -> Section:
    """Check disk images of these scenarios.

    Args:
        crew: does the work.
        scenarios: what the workload does.
        seed: for all that is random.
        draws: random images for each random variant and moment.
        every: check one image in so many.
        faults: the disk's, each in a recording of its own.
        minimum: images below which too little was done.
        mutant: the mistake made on purpose.
        wanted: what must then be among the failures.
    """
    name = "power" if faults == (None,) else "power after a failed sync"
    section = Section(name + (f" [{mutant}]" if mutant else ""), minimum, wanted)
    started = time.monotonic()
    for scenario in scenarios:
        for recording in crew.map(record, [Take(scenario, fault, mutant) for fault in faults]):
            failed = any(isinstance(entry, Sync) and entry.failed for entry in recording.entries)
            if faults != (None,) and (recording.folder_syncs_failed or not failed):
                # No file's sync has failed: too few were made, or it was the folder's. SQLite does not look at what
                # syncs of folders return, so nothing above it can.
                continue
            _examine(crew, section, scenario, recording, Sampling(seed, draws, every))
    section.planned = Counter({variant: section.hit[variant] or 1 for variant in VARIANTS})
    section.seconds = time.monotonic() - started
    return section


def _examine(crew: Crew, section: Section, scenario: Scenario, recording: Recording, sampling: Sampling) -> None:
    """Add the images of one recording to the section."""
    said = [entry.text for entry in recording.entries if isinstance(entry, Line)]
    book = scenario.ledger(said)
    section.runs += 1
    section.operations += len(book.attempts) - len(scenario.before)
    section.acknowledged += book.acknowledged - len(scenario.before)
    section.refused += book.refused
    section.unknown += book.unknown
    if not book.ended:
        section.failures.append(f"{scenario.name}: the recorded run did not end: {said[-1:]}")
    shares = [Share(scenario, recording, sampling, part, _PARTS) for part in range(_PARTS)]
    images: set[bytes] = set()
    for checked in crew.map(sweep, shares):
        images |= checked.images
        section.hit += checked.variants
        section.failures += checked.failures
    section.images += len(images)


@dataclass(frozen=True)
class Take:
    """One run to be recorded.

    Attributes:
        scenario: what the workload does.
        fault: what the disk does to it; None: nothing.
        mutant: the mistake made on purpose.
    """

    scenario: Scenario
    fault: Fault | None = None
    mutant: str = ""


def record(take: Take) -> Recording:
    """Everything that one run did to its folder, and said."""
    calls = ",".join(f"?{call}" for call in (*WRITING, "mmap"))
    tracer = ["-xx", "-s", str(_STRING_BYTES_MAX), "-e", f"trace={calls}"]
    if take.fault is not None:
        tracer += ["-e", f"inject={take.fault.call}:{take.fault.action}:when={take.fault.when}"]
    with scratch() as template, scratch() as folder:
        path = copy(prepare(take.scenario, template), folder)
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        patience = PATIENCE_SECONDS if take.fault is None else IMPATIENCE_SECONDS
        job = take.scenario.job(path, mutant=take.mutant, attempts=ATTEMPTS, patience=patience)
        run = workloads().run(job, tracer)
        recording = Recording(folder, before)
        recording.read(run.log)
        recorded = tuple(entry.text for entry in recording.entries if isinstance(entry, Line))
        if recorded != run.lines:
            raise RuntimeError(f"the trace has {len(recorded)} lines, the workload said {len(run.lines)}")
        return recording


def sweep(share: Share) -> Checked:
    """Check this share's images, each different one once."""
    result = Checked()
    with scratch() as folder:
        for name, variant, image, said in _images(share):
            result.variants[variant] += 1
            key = _key(image, len(said))
            if key in result.images:
                continue
            result.images.add(key)
            problems = open_image(folder, image, share.scenario, said)
            result.failures += [f"{share.scenario.name}: {name}: {problem}" for problem in problems]
    return result


def _images(share: Share) -> Iterator[tuple[str, str, dict[str, bytes], list[str]]]:
    """The images of a stretch of the recording: name, variant, files, and what had been said by then."""
    entries = share.recording.entries
    disk = Disk(share.recording)
    said: list[str] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, Line):
            said.append(entry.text)
        disk.step(index, entry)
        if index * share.parts // len(entries) != share.part:
            continue
        for variant in VARIANTS:
            for draw in range(share.sampling.draws if variant in RANDOM else 1):
                name = f"{variant} {draw} at {index} with seed {share.sampling.seed}"
                rng = random.Random(name)
                if rng.randrange(share.sampling.every) == 0:
                    yield name, variant, disk.image(variant, rng), said


def _key(image: dict[str, bytes], said: int) -> bytes:
    digest = hashlib.blake2b(str(said).encode(), digest_size=16)
    for name, content in image.items():
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.digest()


def open_image(folder: Path, image: dict[str, bytes], scenario: Scenario, said: list[str]) -> list[str]:
    """What is wrong with a store that comes back like this after so much was said."""
    for file in folder.iterdir():
        file.unlink()
    for name, content in image.items():
        (folder / name).write_bytes(content)
    return judge(folder / "proof.db", scenario.ledger(said))
