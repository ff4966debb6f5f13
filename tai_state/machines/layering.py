"""Where the parts of a diagram stand: boxes in layers, edges down from layer to layer, so that few of them cross.

The steps are the usual ones for drawings of graphs in layers: edges that would close a circle are turned round, each
box goes one layer below all that lead to it, an edge gets a point in each layer that it crosses, the points of a layer
are put into an order, and then moved towards their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

POINTS_MAX: Final = 3000
"""How many points a drawing has at most; one with more could not be read, and would take long."""

_SWEEPS: Final = 8
_LINK_WEIGHT: Final = 6.0
_GAP: Final = 26.0
_LAYER_GAP: Final = 20.0


class Box(msgspec.Struct, frozen=True):
    """What is to be placed: its size."""

    width: float
    height: float


class Link(msgspec.Struct, frozen=True):
    """An edge between two boxes, given by their places in the list of boxes, and the size of its label."""

    source: int
    target: int
    label: Box


class Point(msgspec.Struct, frozen=True):
    """A place: x to the right, y downwards."""

    x: float
    y: float


class Placed(msgspec.Struct, frozen=True):
    """A drawing.

    Attributes:
        size: that of the whole drawing.
        boxes: the centre of each box.
        lines: the points of each link, from its source to its target.
        labels: the centre of each link's label.
    """

    size: Box
    boxes: list[Point]
    lines: list[list[Point]]
    labels: list[Point]


def placed(boxes: Sequence[Box], links: Sequence[Link], first: Sequence[int]) -> Placed | None:
    """Place boxes and the links between them; None if the drawing would have too many points.

    Args:
        boxes: the boxes.
        links: the links, each between two different boxes.
        first: the boxes that are to stand at the top.
    """
    turned = _turned(len(boxes), links, first)
    ends = [(b, a) if is_turned else (a, b) for (a, b), is_turned in zip(_ends(links), turned, strict=True)]
    ranks = _ranks(len(boxes), ends)
    if len(boxes) + sum(ranks[b] - ranks[a] - 1 for a, b in ends) > POINTS_MAX:
        return None
    drawing = _Drawing(boxes, links, ends, ranks)
    drawing.order()
    drawing.spread()
    return drawing.placed(turned)


def _ends(links: Iterable[Link]) -> list[tuple[int, int]]:
    return [(link.source, link.target) for link in links]


def _turned(count: int, links: Sequence[Link], first: Sequence[int]) -> list[bool]:
    """Which links are turned round, so that no circle is left: those that lead back on a walk from the first boxes."""
    leaving: list[list[int]] = [[] for _ in range(count)]
    for number, link in enumerate(links):
        leaving[link.source].append(number)
    turned = [False] * len(links)
    seen, on_the_way = set[int](), set[int]()
    for root in [*first, *range(count)]:
        if root in seen:
            continue
        seen.add(root)
        on_the_way.add(root)
        walk = [(root, iter(leaving[root]))]
        while walk:
            box, left = walk[-1]
            following = next(left, None)
            if following is None:
                on_the_way.discard(box)
                walk.pop()
                continue
            target = links[following].target
            turned[following] = target in on_the_way
            if target not in seen:
                seen.add(target)
                on_the_way.add(target)
                walk.append((target, iter(leaving[target])))
    return turned


def _ranks(count: int, ends: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of each box: an even number, greater than those of all boxes that lead to it."""
    waiting = [0] * count
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in ends:
        waiting[b] += 1
        below[a].append(b)
    ranks = [0] * count
    free = [box for box in range(count) if not waiting[box]]
    for box in free:
        for each in below[box]:
            ranks[each] = max(ranks[each], ranks[box] + 2)
            waiting[each] -= 1
            if not waiting[each]:
                free.append(each)
    return ranks


class _Drawing:
    """A drawing while it is made. Its points are the boxes, and one for each layer that a link crosses."""

    def __init__(
        self, boxes: Sequence[Box], links: Sequence[Link], ends: Sequence[tuple[int, int]], ranks: list[int]
    ) -> None:
        self._sizes = list(boxes)
        self._ranks = list(ranks)
        self._count = len(boxes)
        self._chains: list[list[int]] = []
        self._label_points: list[int] = []
        for link, (a, b) in zip(links, ends, strict=True):
            chain = [a]
            label = ranks[a] + 1 if a == link.source else ranks[b] - 1
            for rank in range(ranks[a] + 1, ranks[b]):
                if rank == label:
                    self._label_points.append(len(self._sizes))
                chain.append(len(self._sizes))
                self._sizes.append(link.label if rank == label else Box(8.0, 0.0))
                self._ranks.append(rank)
            self._chains.append([*chain, b])
        self._above: list[list[int]] = [[] for _ in self._sizes]
        self._below: list[list[int]] = [[] for _ in self._sizes]
        for a, b in (pair for chain in self._chains for pair in pairwise(chain)):
            self._below[a].append(b)
            self._above[b].append(a)
        self._layers: list[list[int]] = [[] for _ in range(max(self._ranks, default=-1) + 1)]
        for point, rank in enumerate(self._ranks):
            self._layers[rank].append(point)
        self._x = [0.0] * len(self._sizes)

    def order(self) -> None:
        """Put the points of each layer into an order in which few links cross: each between its neighbours."""
        place = {point: float(index) for layer in self._layers for index, point in enumerate(layer)}
        for sweep in range(_SWEEPS):
            near, layers = (self._below, self._layers[::-1]) if sweep % 2 else (self._above, self._layers)
            for layer in layers:
                mean = {each: _mean([place[near_by] for near_by in near[each]], place[each]) for each in layer}
                layer.sort(key=lambda each: (mean[each], place[each]))
                place.update((each, float(index)) for index, each in enumerate(layer))

    def spread(self) -> None:
        """Give each point its place from left to right: near its neighbours, and with room for its size."""
        for layer in self._layers:
            self._set(layer, [0.0] * len(layer))
        for sweep in range(2 * _SWEEPS):
            near, layers = (self._below, self._layers[::-1]) if sweep % 2 else (self._above, self._layers)
            for layer in layers:
                if sweep >= 2 * _SWEEPS - 2:
                    wanted = [
                        _mean([self._x[b] for b in (*self._above[a], *self._below[a])], self._x[a]) for a in layer
                    ]
                else:
                    wanted = [_mean([self._x[b] for b in near[a]], self._x[a]) for a in layer]
                self._set(layer, wanted)

    def _set(self, layer: Sequence[int], wanted: Sequence[float]) -> None:
        """Place the points of a layer as near as may be to where they want to be, with room between them.

        Points that come too near to each other become a group, which stands at the mean of what its members want. Those
        of a link between two layers weigh more than boxes, so that long links are straight.
        """
        groups: list[tuple[float, float, int]] = []  # where a group begins, its weight, how many members it has
        offsets = [0.0]
        for a, b in pairwise(layer):
            offsets.append(offsets[-1] + (self._sizes[a].width + self._sizes[b].width) / 2 + _GAP)
        for point, goal, offset in zip(layer, wanted, offsets, strict=False):
            place, weight, count = goal - offset, 1.0 if point < self._count else _LINK_WEIGHT, 1
            while groups and groups[-1][0] > place:
                before, heavy, members = groups.pop()
                place = (place * weight + before * heavy) / (weight + heavy)
                weight, count = weight + heavy, count + members
            groups.append((place, weight, count))
        begins = [place for place, _, count in groups for _ in range(count)]
        for point, begin, offset in zip(layer, begins, offsets, strict=False):
            self._x[point] = begin + offset

    def placed(self, turned: Sequence[bool]) -> Placed:
        """The finished drawing, its left edge and its top at 0."""
        left = min((x - size.width / 2 for x, size in zip(self._x, self._sizes, strict=True)), default=0.0)
        right = max((x + size.width / 2 for x, size in zip(self._x, self._sizes, strict=True)), default=0.0)
        y, top = [0.0] * len(self._sizes), 0.0
        for layer in self._layers:
            height = max((self._sizes[each].height for each in layer), default=0.0)
            for each in layer:
                y[each] = top + height / 2
            top += height + _LAYER_GAP
        points = [Point(round(x - left, 1), round(each, 1)) for x, each in zip(self._x, y, strict=True)]
        ports = self._ports(points)
        lines = [
            [ports[number, False], *(points[each] for each in chain[1:-1]), ports[number, True]]
            for number, chain in enumerate(self._chains)
        ]
        return Placed(
            Box(round(right - left, 1), round(max(top - _LAYER_GAP, 0.0), 1)),
            points[: self._count],
            [line[::-1] if is_turned else line for line, is_turned in zip(lines, turned, strict=True)],
            [points[each] for each in self._label_points],
        )

    def _ports(self, points: Sequence[Point]) -> dict[tuple[int, bool], Point]:
        """Where each link leaves the box above it, and meets the box below: side by side, in the order of its way."""
        sides: dict[tuple[int, bool], list[tuple[float, int]]] = {}
        for number, chain in enumerate(self._chains):
            sides.setdefault((chain[0], False), []).append((points[chain[1]].x, number))
            sides.setdefault((chain[-1], True), []).append((points[chain[-2]].x, number))
        ports: dict[tuple[int, bool], Point] = {}
        for (box, is_met), links in sides.items():
            size, centre = self._sizes[box], points[box]
            step = min(28.0, 0.8 * size.width / len(links))
            for index, (_, number) in enumerate(sorted(links)):
                x = centre.x + (index - (len(links) - 1) / 2) * step
                y = centre.y + (-size.height / 2 if is_met else size.height / 2)
                ports[number, is_met] = Point(round(x, 1), round(y, 1))
        return ports


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
