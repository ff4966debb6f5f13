"""The proofs of crashes and of damage: ``python tests/proof --tier ci`` or ``--tier full``.

All but the flips and the features need strace and the right to trace. Ends with 0 when all is well, 1 when a proof
failed, hit none of the faults it planned or did too little, and 3 when nothing can be traced here.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import disk
import features
import flips
import kill
import power
import scenarios as s
from crew import Crew, crew
from report import Section, table
from tracing import Fault, TracingRefused, require_strace

Proof = Callable[[Crew], Section]

_KINDS = ("kill", "power", "disk", "mutants", "flips")
_FAILED_SYNCS = tuple(Fault("fdatasync", "error=EIO", str(n)) for n in range(1, 21))
_FEW_FAILED_SYNCS = tuple(Fault("fdatasync", "error=EIO", str(n)) for n in (1, 3, 4))
_EVERY_SCENARIO = (
    s.CREATE, s.FOUND, s.APPEND, s.SNAPSHOT, s.DELETE, s.CLEANUP, s.SHORT, s.CLOSE, s.CHECKPOINT, s.TOGETHER,
)  # fmt: skip


@dataclass(frozen=True)
class Tier:
    """What is proven, by kind."""

    kill: tuple[Proof, ...]
    power: tuple[Proof, ...]
    disk: tuple[Proof, ...]
    mutants: tuple[Proof, ...]
    flips: tuple[Proof, ...]
    features: tuple[Proof, ...]

    def proofs(self, kinds: list[str]) -> Iterator[Proof]:
        """The proofs of these kinds."""
        for kind in kinds:
            yield from getattr(self, kind)


def tiers(seed: int, minutes: float) -> dict[str, Tier]:
    """Both tiers; all that is random follows from the seed. Features are tried with each other for so many minutes."""
    together = tuple(partial(features.prove, kind=kind, minutes=minutes, seed=seed) for kind in features.MACHINES)
    mutants = (
        partial(kill.prove, scenarios=(s.BRIEF,), mutant="split", wanted="TORN"),
        partial(kill.prove, scenarios=(s.BRIEF,), mutant="hasty", wanted="LOST"),
        partial(_power, seed, (s.BRIEF,), every=2, mutant="synchronous-off", wanted="LOST"),
        partial(_power, seed, (s.BRIEF,), every=2, mutant="synchronous-normal", wanted="LOST"),
        partial(
            disk.prove, scenarios=(s.BRIEF,), lengths=("once",), calls=("fdatasync",), mutant="deaf", wanted="LOST"
        ),
        partial(
            disk.prove,
            scenarios=(s.BRIEF,),
            lengths=("on",),
            calls=("fdatasync",),
            mutant="sure",
            wanted="reported as failed, and is stored",
        ),
    )
    ci = Tier(
        kill=(partial(kill.prove, scenarios=(s.CREATE, s.FOUND, s.SHORT, s.CLOSE), minimum=150),),
        power=(
            partial(_power, seed, (s.ALL,), every=2, minimum=300),
            partial(_power, seed, (s.BRIEF,), every=4, faults=_FEW_FAILED_SYNCS, minimum=20),
        ),
        disk=(
            partial(disk.prove, scenarios=(s.SHORT,), lengths=("once",), minimum=150),
            partial(disk.prove, scenarios=(s.CLOSE,), lengths=("a while",), calls=("openat",), minimum=6),
        ),
        mutants=mutants,
        flips=(
            partial(flips.prove, engine="sqlite", seed=seed, count=300, minimum=240),
            partial(flips.prove, engine="memory", seed=seed, count=240, minimum=200),
        ),
        features=together,
    )
    full = Tier(
        kill=(partial(kill.prove, scenarios=(*_EVERY_SCENARIO, s.WORK), locks=True, minimum=2_000),),
        power=(
            partial(_power, seed, (*_EVERY_SCENARIO, s.ALL), draws=10, minimum=10_000),
            partial(_power, seed, (s.LONG,), draws=2, minimum=10_000),
            partial(
                _power,
                seed,
                (s.SHORT, s.CHECKPOINT, s.TOGETHER),
                every=2,
                faults=_FAILED_SYNCS,
                minimum=5_000,
            ),
        ),
        disk=(partial(disk.prove, scenarios=_EVERY_SCENARIO, minimum=2_000),),
        mutants=mutants,
        flips=(
            partial(flips.prove, engine="sqlite", seed=seed, count=100_000, minimum=30_000),
            partial(flips.prove, engine="memory", seed=seed, count=100_000, minimum=20_000),
        ),
        features=together,
    )
    return {"ci": ci, "full": full}


def _power(
    seed: int, scenarios: tuple[s.Scenario, ...], crew: Crew, *, draws: int = 1, every: int = 1, **options: object
) -> Section:
    return power.prove(crew, scenarios, seed=seed, draws=draws, every=every, **options)


def main() -> int:
    """Run the proofs asked for, and say what came of them."""
    parser = argparse.ArgumentParser(prog="python tests/proof", description=__doc__)
    parser.add_argument("--tier", choices=("ci", "full"), default="ci")
    parser.add_argument("--only", action="append", choices=(*_KINDS, "features"))
    parser.add_argument("--minutes", type=float, default=30.0, help="for each engine, with --only features")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="repeat a run")
    parser.add_argument("--json", type=Path, help="write the account to this file, too")
    options = parser.parse_args()
    print(f"tier {options.tier}, repeat with --seed {options.seed}", flush=True)
    kinds = options.only or list(_KINDS)
    try:
        if not set(kinds) <= {"flips", "features"}:
            require_strace()
        with crew() as hands:
            sections = [proof(hands) for proof in tiers(options.seed, options.minutes)[options.tier].proofs(kinds)]
    except TracingRefused as error:
        print(f"nothing can be shown here: {error}", file=sys.stderr)
        return 3
    print(table(sections))
    print(*(f"{each.name}: {detail}" for each in sections for detail in each.details), sep="\n")
    complaints = [f"{each.name}: {complaint}" for each in sections for complaint in each.complaints()]
    print(*complaints[:50], sep="\n")
    if options.json:
        account = {"tier": options.tier, "seed": options.seed, "proofs": [each.to_json() for each in sections]}
        options.json.write_text(json.dumps(account, indent=1) + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
