"""Which transaction must come before which, and the cycles that say that no order exists.

Names of cycles are Adya's ("Weak Consistency", 1999); the search of one cycle for each component, from the strongest
name to the weakest, is that of Elle (Kingsbury and Alvaro, 2020); components are Tarjan's (1972).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

WW, WR, RW, TIME = 1, 2, 4, 8
"""The second overwrote the first; read the first; overwrote what the first had read; began after the first ended."""

Edge: TypeAlias = tuple[int, int, str]
"""Where to, of which kind, and the key it is about."""

WORDS: Final = {
    WW: "wrote before",
    WR: "was read by",
    RW: "read before the write of",
    TIME: "ended before the start of",
}

LEVELS: Final = (("G0", WW, WW), ("G1c", WW | WR, WR), ("G-single", WW | WR, RW), ("G2", WW | WR | RW, RW))
"""Names of cycles: one edge of the last kind, closed by a path of those before."""

REAL_TIME: Final = " (real time)"
"""What is added to the name of a cycle that only the clock closes: serializable, but not strictly."""

VISITS_MAX = 2_000_000
"""Edges looked at for the best cycle of one component and name."""

CLOSINGS_MAX = 64
"""Cycles compared for the shortest one."""


@dataclass(frozen=True)
class Cycle:
    """Transactions of which each must come before the next, and the last before the first.

    Attributes:
        name: of the anomaly.
        nodes: the transactions.
        edges: from each to the next: kind and key.
    """

    name: str
    nodes: tuple[int, ...]
    edges: tuple[tuple[int, str], ...]

    def steps(self) -> list[str]:
        """The reasons, one a line."""
        following = (*self.nodes[1:], self.nodes[0])
        return [
            f"T{node} {WORDS[kind]} T{after}" + (f": {key}" if key else "")
            for node, after, (kind, key) in zip(self.nodes, following, self.edges, strict=True)
        ]


class Graph:
    """Transactions by number, and which must come before which.

    Args:
        count: how many transactions there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._edges: list[list[Edge]] = [[] for _ in range(count)]

    def add(self, before: int, after: int, kind: int, key: str) -> None:
        """Say that one comes before another."""
        if before != after:
            self._edges[before].append((after, kind, key))

    def add_times(self, intervals: Sequence[tuple[int, float, float]]) -> None:
        """Say of these (number, start, end) that each comes before those that start after it has ended.

        A chain of nodes, one for each end, stands for all pairs: edges grow with transactions, not with their square.
        """
        ends = sorted((end, number) for number, _, end in intervals)
        first = len(self._edges)
        self._edges += [[(first + place + 1, TIME, "")] for place in range(len(ends))]
        if ends:
            self._edges[-1].clear()
        for place, (_, number) in enumerate(ends):
            self._edges[number].append((first + place, TIME, ""))
        passed = 0
        for start, number in sorted((start, number) for number, start, _ in intervals):
            while passed < len(ends) and ends[passed][0] < start:
                passed += 1
            if passed:
                self._edges[first + passed - 1].append((number, TIME, ""))

    def cycles(self) -> list[Cycle]:
        """One cycle for each knot of transactions, with the first name that one of its cycles has."""
        suspects = [node for knot in self._components(range(len(self._edges)), ~0) for node in knot]
        found: list[Cycle] = []
        explained: set[int] = set()
        for suffix, time in (("", 0), (REAL_TIME, TIME)):
            for name, path, closing in LEVELS if suspects else ():
                for knot in self._components(suspects, path | closing | time):
                    members = set(knot)
                    cycle = None if members & explained else self._shortest(members, path | time, closing)
                    if cycle is not None:
                        found.append(self._named(name + suffix, cycle))
                        explained.update(found[-1].nodes)
        return found

    def _components(self, nodes: Collection[int], kinds: int) -> Iterator[list[int]]:
        """Tarjan's strongly connected components of more than one node, without recursion."""
        allowed = bytearray(len(self._edges))
        for node in nodes:
            allowed[node] = 1
        index = [0] * len(self._edges)
        low = [0] * len(self._edges)
        waiting = bytearray(len(self._edges))
        path: list[int] = []
        count = 0
        for root in nodes:
            if index[root]:
                continue
            count += 1
            index[root] = low[root] = count
            path.append(root)
            waiting[root] = 1
            work = [(root, iter(self._edges[root]))]
            while work:
                node, edges = work[-1]
                for target, kind, _ in edges:
                    if not kind & kinds or not allowed[target]:
                        continue
                    if not index[target]:
                        count += 1
                        index[target] = low[target] = count
                        path.append(target)
                        waiting[target] = 1
                        work.append((target, iter(self._edges[target])))
                        break
                    if waiting[target] and index[target] < low[node]:
                        low[node] = index[target]
                else:
                    work.pop()
                    if work and low[node] < low[work[-1][0]]:
                        low[work[-1][0]] = low[node]
                    if low[node] == index[node]:
                        component: list[int] = []
                        while not component or component[-1] != node:
                            component.append(path.pop())
                            waiting[component[-1]] = 0
                        if len(component) > 1:
                            yield component

    def _shortest(self, members: set[int], kinds: int, closing: int) -> list[tuple[int, int, str]] | None:
        """The shortest of some cycles: an edge of the closing kind, then a path of the others back to its beginning."""
        best: list[tuple[int, int, str]] | None = None
        visits = closings = 0
        for node in sorted(members):
            for target, kind, key in self._edges[node]:
                if kind != closing or target not in members:
                    continue
                path, seen = self._path(target, node, members, kinds)
                visits += seen
                if path is not None:
                    closings += 1
                    if best is None or len(path) + 1 < len(best):
                        best = [(node, kind, key), *path]
                if best is not None and (len(best) == 2 or closings >= CLOSINGS_MAX or visits > VISITS_MAX):
                    return best
                if visits > VISITS_MAX:
                    return None
        return best

    def _path(
        self, start: int, goal: int, members: set[int], kinds: int
    ) -> tuple[list[tuple[int, int, str]] | None, int]:
        """The shortest path, as nodes with the edge that leaves them, and how many edges were looked at."""
        came: dict[int, tuple[int, int, str]] = {start: (-1, 0, "")}
        queue, visits = deque([start]), 0
        while queue:
            node = queue.popleft()
            for target, kind, key in self._edges[node]:
                visits += 1
                if not kind & kinds or target not in members or target in came:
                    continue
                came[target] = (node, kind, key)
                if target == goal:
                    path = [came[goal]]
                    while path[-1][0] != start:
                        path.append(came[path[-1][0]])
                    return path[::-1], visits
                queue.append(target)
        return None, visits

    def _named(self, name: str, steps: Sequence[tuple[int, int, str]]) -> Cycle:
        """Without the nodes that only stand for moments: a walk over them is one step in time."""
        kept = [step for step in steps if step[0] < self.count]
        return Cycle(name, tuple(node for node, _, _ in kept), tuple((kind, key) for _, kind, key in kept))
