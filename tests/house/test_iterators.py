"""No iterator of the library is forgotten by the tests that let something go wrong at every step of each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import tai_state

from ..support.iterating import ITERATORS, WATCHES

PACKAGE = Path(tai_state.__file__).parent

WITHIN = {
    "streams/reading.py": "what the iterators of a store are made of",
    "streams/backwards.py Backwards.events": "StateStore.get_events newest first",
    "streams/walking.py Walk.over": "StateStore.get_events",
    "streams/following.py": "StateStore.watch",
    "streams/reader.py StreamReader.records": "StreamReader.records",
    "history/replay.py": "StateMachinePersister.replay",
    "engines/paging.py": "what all of them are made of; tests/engines/test_paging.py has the parts one by one",
    "engines/ordering.py": "CommitOrdered.changed",
    "engines/api.py": "Engine.scan, Engine.watch",
    "engines/matters.py": "Engine.scan",
    "engines/memory.py": "Engine.scan, Engine.watch",
    "engines/sqlite/": "Engine.scan, Engine.watch",
    "engines/watching.py": "Engine.watch",
    "engines/firestore/": "as other engines, in tests/engines/firestore and by the examination of tai_state.testing",
    "streams/salvaging.py": "printed by a command, which ends with the first error",
    "cli/inspecting.py": "printed by a command, which ends with the first error",
    "locks/common.py": "Engine.scan, Engine.watch, for one who waits in line",
    "locks/listing.py": "LockManager.list_locks",
    "conflicts/recorded.py conflicts_of": "recorded_conflicts",
    "conflicts/sync.py": "sync, as work that iterates",
    "history/dropping.py": "verify, recover and restore, as work that iterates",
    "history/recovery.py": "recover, as work that iterates",
    "history/timers.py": "verify and recover, as work that iterates",
    "cli/machines.py": "printed by a command, which ends with the first error",
    "machines/running.py": "run_effects, which ends with the first error and is called again",
    "web/listing.py": "a page of a list, which is asked for again after an error",
    "machines/timers.py": "printed by a command, which ends with the first error",
    "history/survey.py": "verify and recover, as work that iterates",
    "history/exporting.py": "export, as work that iterates",
    "testing/faults.py": "an engine of tests",
}
"""What is not called by users, and what it is a part of: what goes wrong in it goes wrong in that."""


def iterators() -> Iterator[str]:
    """Every function of the package that returns an asynchronous iterator, by file and name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for name, function in _functions(ast.parse(path.read_text()), ()):
            returns = "" if function.returns is None else ast.unparse(function.returns)
            is_block = any("contextmanager" in ast.unparse(each) for each in function.decorator_list)
            is_iterator = re.search(r"Paged|AsyncIterator|AsyncGenerator|Fetch\[", returns) is not None
            if name.endswith("__anext__") or (is_iterator and not is_block):
                yield f"{file} {name}"


def _functions(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for each in ast.iter_child_nodes(node):
        inner = (
            (*names, each.name) if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else names
        )
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield ".".join(inner), each
        yield from _functions(each, inner)


def test_every_iterator_is_interrupted() -> None:
    """An iterator is among those of ``tests/support/iterating.py``, or is a part of one of them."""
    tested = {re.split(r"[ ,]", name)[0] for name in (*ITERATORS, *WATCHES)}
    found = list(iterators())
    unknown = [each for each in found if each.split()[1] not in tested and not each.startswith(tuple(WITHIN))]
    assert unknown == [], "add them to ITERATORS or WATCHES of tests/support/iterating.py"
    assert [each for each in WITHIN if not any(place.startswith(each) for place in found)] == []


def test_no_generator_is_given_to_users() -> None:
    """What users iterate over is no bare generator, which after an error ends as if everything had been given."""
    public = [each for each in iterators() if each.split()[1] in {*ITERATORS, *WATCHES}]
    assert len(public) >= 12
    for place in public:
        file, name = place.split()
        functions = dict(_functions(ast.parse((PACKAGE / file).read_text()), ()))
        assert isinstance(functions[name], ast.FunctionDef), f"{name} is a generator, or no iterator"
