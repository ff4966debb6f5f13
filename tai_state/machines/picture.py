"""A definition as a picture, in SVG: drawn here, so that it needs no other program."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

import msgspec

from tai_state.machines.definition import Definition
from tai_state.machines.edges import Edge, allowed_edges, edges_max, forbidden_edges, named, prohibition
from tai_state.machines.labels import classes_of, end_name, label_of, shown, width_of
from tai_state.machines.layering import Box, Link, Point, placed
from tai_state.machines.outline import StateOutline
from tai_state.machines.states import S, StateKey

STYLE: Final = """\
.machine { font-family: system-ui, sans-serif; font-size: 13px; max-width: 100%; height: auto;
  --ink: #1d2733; --soft: #5b6775; --line: #7b8794; --paper: #ffffff; --here: #ffe08a; --seen: #e3ecfa;
  --bad: #b00020; --way: #1f5fbf }
@media (prefers-color-scheme: dark) { .machine { --ink: #e6ebf1; --soft: #9aa7b5; --line: #75818e; --paper: #161b22;
  --here: #5c4a10; --seen: #1c2f4d; --bad: #ff8a94; --way: #7ab0ff } }
.machine rect { fill: var(--paper); stroke: var(--line) }
.machine text { fill: var(--ink); text-anchor: middle; dominant-baseline: central }
.machine .name { font-weight: 600 }
.machine .small { fill: var(--soft); font-size: 11px }
.machine .edge path { fill: none; stroke: var(--line); stroke-width: 1.2 }
.machine .edge text { fill: var(--soft); font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 6px;
  stroke-linejoin: round }
.machine .edge .tip { fill: var(--line); stroke: none }
.machine .taken path { stroke: var(--way); stroke-width: 2 }
.machine .taken .tip { fill: var(--way) }
.machine .never path { stroke: var(--bad); stroke-dasharray: 5 4 }
.machine .never .tip, .machine .never text { fill: var(--bad) }
.machine .visited rect { fill: var(--seen) }
.machine .current rect { fill: var(--here); stroke-width: 2.5 }
.machine .failure rect { stroke: var(--bad) }
.machine .failure .name { fill: var(--bad) }
.machine .any rect { stroke-dasharray: 4 3 }
.machine .start { fill: var(--ink); stroke: var(--ink) }
.machine .other { fill: none }
.machine .note { text-anchor: start; fill: var(--bad); font-size: 11px }
"""
"""The style of a picture. It stands in each, so that a picture is whole by itself."""

_DRAWN_MAX: Final = 34
"""How many columns of a text are drawn; all that is shown of it is a tooltip."""

_EDGES_MAX: Final = 20_000
"""A definition that may have more edges is not laid out: that would take long, and nobody could read it."""

_LABELS_MAX: Final = 3
"""How many lines a label has."""

_LINE: Final = 15.0
_MARGIN: Final = 12.0
_TIP: Final = 7.0
_LOOP: Final = 34.0


class _Arrow(msgspec.Struct, frozen=True):
    """What is drawn between two states.

    Attributes:
        source: the name of the state before; None: any.
        target: the name of the state after.
        labels: what it bears, a line each.
        marks: its classes of the style.
    """

    source: str | None
    target: str
    labels: tuple[str, ...]
    marks: str

    @property
    def size(self) -> Box:
        """How much room the labels take."""
        lines = self.labels[:_LABELS_MAX]
        return Box(max(map(_width, lines), default=8.0), max(_LINE * len(lines), 8.0))


def to_svg(
    definition: Definition[S, Any],
    current: StateKey[S] | str | None = None,
    path: Sequence[StateKey[S] | str] = (),
    *,
    show_forbidden: bool = True,
) -> str:
    """A definition as a picture in SVG, without a script. Its colours follow the reader's setting, light or dark.

    The current state is filled, and so are those of the path, whose steps are thick and bear their numbers. Terminal
    states have a double border, failures are red. A dot marks where a machine begins. What any state may do leads from
    a box of its own. Forbidden steps are dashed, and bear their reasons. A definition that is too large to be read as a
    picture is a picture that says so.

    Args:
        definition: what is drawn.
        current: the state that is marked as the one in which the machine is.
        path: the states that the machine went through, in this order.
        show_forbidden: whether forbidden steps are shown.

    Raises:
        InvalidData: one of them is not a state of the definition.
    """
    outline, visited = definition.outline, named(definition, path)
    if edges_max(outline) > _EDGES_MAX:
        return _too_large(definition)
    here = None if current is None else named(definition, [current])[0]
    forbidden = forbidden_edges(outline) if show_forbidden else []
    arrows = _arrows(_together(allowed_edges(outline, visited)), forbidden)
    loops = {arrow.source: arrow for arrow in arrows if arrow.source == arrow.target}
    between = [arrow for arrow in arrows if arrow.source != arrow.target]
    places: dict[str | None, int] = {state.name: number for number, state in enumerate(outline.states)}
    boxes = [_box(state) for state in outline.states]
    rooms = [_widened(box, loops.get(state.name)) for box, state in zip(boxes, outline.states, strict=True)]
    if any(arrow.source is None for arrow in between):
        places[None] = len(boxes)
        rooms.append(Box(_width(end_name(None)) + 24, 26.0))
    links = [Link(places[arrow.source], places[arrow.target], arrow.size) for arrow in between]
    drawing = placed(rooms, links, [places[name] for name in outline.starts])
    if drawing is None:
        return _too_large(definition)
    parts: list[str] = []
    for arrow, line, label in zip(between, drawing.lines, drawing.labels, strict=True):
        parts += _edge(arrow, _curve(line), _tip(line), label)
    for number, state in enumerate(outline.states):
        centre, box = drawing.boxes[number], boxes[number]
        start = outline.starts.index(state.name) if state.name in outline.starts else None
        parts += _loop(loops[state.name], centre, box) if state.name in loops else []
        parts += _state(state, centre, box, classes_of(state, here, visited), start)
    if None in places:
        parts += _any_state(drawing.boxes[places[None]], rooms[places[None]])
    notes = _notes(forbidden)
    width = max([drawing.size.width, *(_width(note) for note in notes)])
    for number, note in enumerate(notes):
        parts.append(_text(note, 0, drawing.size.height + _LINE * (number + 1.5), "note"))
    return _framed(definition, Box(width, drawing.size.height + _LINE * (len(notes) + (1 if notes else 0))), parts)


def _too_large(definition: Definition[Any, Any]) -> str:
    """The picture of a definition that cannot be drawn."""
    return _framed(definition, Box(420.0, _LINE), [_text("it is too large to be drawn", 210, 7, "small")])


def _together(edges: Sequence[Edge]) -> list[Edge]:
    """The edges, those of a rule for any state as one to each of its targets, but for the steps that were taken."""
    found: dict[tuple[str | None, str | None, str], Edge] = {}
    for number, edge in enumerate(edges):
        is_for_any = edge.rule is not None and edge.rule.sources is None and not edge.steps
        key = (
            (None, edge.target, edge.rule.name) if is_for_any and edge.rule else (edge.source, edge.target, str(number))
        )
        found.setdefault(key, Edge(key[0], edge.target, edge.rule, edge.steps))
    return list(found.values())


def _arrows(allowed: Sequence[Edge], forbidden: Sequence[Edge]) -> list[_Arrow]:
    """The arrows: one for all that leads from one state to another."""
    labels: dict[tuple[str | None, str, str], dict[str, None]] = {}
    for edge in allowed:
        unless = "" if edge.rule is None or edge.source is not None else ", ".join(edge.rule.unless_from)
        text = label_of(edge) + (f" (but from {unless})" if unless else "")
        marks = "edge taken" if edge.steps else "edge"
        labels.setdefault((edge.source, edge.target or "", marks), {}).update({text: None} if text else {})
    for edge in forbidden:
        if edge.rule is not None and edge.source is not None and edge.target is not None:
            labels.setdefault((edge.source, edge.target, "edge never"), {})[prohibition(edge.rule)] = None
    return [_Arrow(source, target, tuple(texts), marks) for (source, target, marks), texts in labels.items()]


def _notes(forbidden: Sequence[Edge]) -> list[str]:
    """What is forbidden to more than a pair of states, as lines below the picture."""
    return [
        f"never from {end_name(edge.source)} to {end_name(edge.target)}: {prohibition(edge.rule)}"
        for edge in forbidden
        if edge.rule is not None and (edge.source is None or edge.target is None)
    ]


def _box(state: StateOutline) -> Box:
    return Box(max(_width(state.name, 8.2), _width(state.description)) + 30, 44.0 if state.description else 30.0)


def _widened(box: Box, loop: _Arrow | None) -> Box:
    """A box with room for its loop at the right, and as much at the left."""
    return box if loop is None else Box(box.width + 2 * (_LOOP + loop.size.width), box.height)


def _state(state: StateOutline, centre: Point, box: Box, marks: set[str], start: int | None) -> list[str]:
    """A state: a box with its name and description, and what is marked of it."""
    parts = [f'<g class="{" ".join(["state", *sorted(marks)])}">', _title(f"{state.name}: {state.description}")]
    parts.append(_rect(centre, box))
    if "terminal" in marks:
        parts.append(_rect(centre, Box(box.width - 7, box.height - 7)))
    name_y = centre.y - 7 if state.description else centre.y
    parts.append(_text(state.name, centre.x, name_y, "name"))
    if state.description:
        parts.append(_text(state.description, centre.x, centre.y + 10, "small"))
    if start is not None:
        x, y = centre.x - box.width / 2 + 9, centre.y - box.height / 2 + 9
        parts.append(f'<circle class="start{" other" * (start > 0)}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    return [*parts, "</g>"]


def _any_state(centre: Point, box: Box) -> list[str]:
    name = end_name(None)
    return ['<g class="any">', _rect(centre, box), _text(name, centre.x, centre.y, "small"), "</g>"]


def _edge(arrow: _Arrow, curve: str, tip: str, label: Point) -> list[str]:
    """An arrow with its labels."""
    parts = [f'<g class="{arrow.marks}">', f'<path d="{curve}"/>', f'<path class="tip" d="{tip}"/>']
    lines = arrow.labels[:_LABELS_MAX]
    if lines:
        parts.append(_title("; ".join(arrow.labels)))
    for number, line in enumerate(lines):
        parts.append(_text(line, label.x, label.y + _LINE * (number - (len(lines) - 1) / 2)))
    return [*parts, "</g>"]


def _loop(arrow: _Arrow, centre: Point, box: Box) -> list[str]:
    """An arrow from a state to itself, at the right of its box."""
    x, y, way = centre.x + box.width / 2, centre.y, _LOOP - 6
    curve = f"M{x:.1f} {y - 8:.1f}C{x + way:.1f} {y - 18:.1f} {x + way:.1f} {y + 18:.1f} {x + _TIP:.1f} {y + 8:.1f}"
    tip = f"M{x:.1f} {y + 8:.1f}l{_TIP} -4v8z"
    return _edge(arrow, curve, tip, Point(x + way + arrow.size.width / 2, y))


def _curve(line: Sequence[Point]) -> str:
    """A smooth line through points that leaves and meets boxes upright, as long as its tip shorter than them."""
    down = line[-1].y > line[-2].y
    end = Point(line[-1].x, line[-1].y - _TIP if down else line[-1].y + _TIP)
    words = [f"M{line[0].x} {line[0].y}"]
    for one, other in pairwise([*line[:-1], end]):
        middle = round((one.y + other.y) / 2, 1)
        words.append(f"C{one.x} {middle} {other.x} {middle} {other.x} {other.y:.1f}")
    return "".join(words)


def _tip(line: Sequence[Point]) -> str:
    """The tip of an arrow that meets a box from above or from below."""
    x, y = line[-1].x, line[-1].y
    return f"M{x} {y}l-4 {-_TIP if y > line[-2].y else _TIP}h8z"


def _rect(centre: Point, box: Box) -> str:
    x, y = centre.x - box.width / 2, centre.y - box.height / 2
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="7"/>'


def _text(text: str, x: float, y: float, mark: str = "") -> str:
    drawn = _cut(text) if mark != "note" else shown(text)
    return f'<text{f" class={chr(34)}{mark}{chr(34)}" * bool(mark)} x="{x:.1f}" y="{y:.1f}">{escape(drawn)}</text>'


def _title(text: str) -> str:
    return f"<title>{escape(shown(text))}</title>"


def _cut(text: str) -> str:
    line = shown(text)
    if width_of(line) <= _DRAWN_MAX:
        return line
    while width_of(line) >= _DRAWN_MAX:
        line = line[:-1]
    return f"{line}…"


def _width(text: str, column: float = 6.3) -> float:
    """About how wide a text is drawn."""
    return width_of(_cut(text)) * column


def _framed(definition: Definition[Any, Any], size: Box, parts: Sequence[str]) -> str:
    """The picture, of the parts inside its margin."""
    width, height = size.width + 2 * _MARGIN, size.height + 2 * _MARGIN
    box = f'viewBox="{-_MARGIN} {-_MARGIN} {width:.1f} {height:.1f}" width="{width:.0f}" height="{height:.0f}"'
    name = escape(f"The machine {shown(definition.name)}")
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" class="machine" role="img" aria-label="{name}" {box}>'
    return "\n".join([begin, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"
