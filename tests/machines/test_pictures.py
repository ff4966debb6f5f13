"""Pictures of machines: what they show, that boxes and labels do not cover each other, and that they stay bounded."""

from __future__ import annotations

import os
import random
import re
import secrets
from itertools import combinations
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tai_state import InvalidData
from tai_state.machines import ANY_STATE, ComponentState, allow, define, described, ready, to_svg
from tai_state.machines.layering import POINTS_MAX, Box, Link, Point, placed

from ..support.machine_kit import NODE, ORDER, Node
from ..support.orders import ORDER as SHOP_ORDER
from ..support.orders import Order

SVG = "{http://www.w3.org/2000/svg}"
DEFINITIONS = [
    *(NODE, ORDER, SHOP_ORDER, ready.SYSTEM, ready.COORDINATOR, ready.WORKER),
    *(ready.PARTITION, ready.CONNECTION, ready.INFERENCE_REQUEST),
]


def drawn(*arguments: Any, **options: Any) -> ET.Element:
    """A picture, read as XML."""
    return ET.fromstring(to_svg(*arguments, **options))


def groups(picture: ET.Element, mark: str) -> list[ET.Element]:
    """The groups of a picture that bear a mark."""
    return [each for each in picture.iter(f"{SVG}g") if mark in each.get("class", "").split()]


def texts(element: ET.Element) -> list[str]:
    """The texts in a part of a picture."""
    return [each.text or "" for each in element.iter(f"{SVG}text")]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each.name)
def test_every_state_is_in_the_picture_once(definition: Any) -> None:
    """Each state has a box with its name and description, and marks for what it is."""
    states = groups(drawn(definition), "state")
    assert [texts(each)[0] for each in states] == [each.name for each in definition.outline.states]
    for each, outline in zip(states, definition.outline.states, strict=True):
        marks = (each.get("class") or "").split()
        assert ("failure" in marks, "terminal" in marks) == (outline.is_failure, outline.is_terminal)
        assert len([*each.iter(f"{SVG}rect")]) == 1 + outline.is_terminal
        assert len([*each.iter(f"{SVG}circle")]) == (outline.name in definition.outline.starts)


def test_what_is_marked() -> None:
    """The present state, those before it and the steps between them are marked, and the steps bear their numbers."""
    picture = drawn(SHOP_ORDER, Order.Shipped, [Order.Placed, Order.Paid, Order.Shipped])
    assert [texts(each)[0] for each in groups(picture, "current")] == ["Shipped"]
    assert [texts(each)[0] for each in groups(picture, "visited")] == ["Placed", "Paid", "Shipped"]
    assert [texts(each) for each in groups(picture, "taken")] == [["pay [is_enough], step 1"], ["step 2"]]
    assert groups(drawn(SHOP_ORDER), "taken") == []
    with pytest.raises(InvalidData):
        to_svg(SHOP_ORDER, "Elsewhere")


def test_what_any_state_may_do_leads_from_one_box() -> None:
    """A rule for any state is one arrow, but the step that was taken by it is an arrow of its own."""
    picture = drawn(NODE)
    assert len(groups(picture, "any")) == 1
    assert len(groups(picture, "edge")) == 7 + 1  # six rules, of which one has two sources; one is forbidden
    taken = drawn(NODE, Node.Failed, [Node.Degraded, Node.Failed])
    assert len(groups(taken, "edge")) == len(groups(picture, "edge")) + 1


def test_what_is_forbidden_is_dashed_or_below() -> None:
    """A forbidden pair is an arrow with its reason, and what is forbidden to any state is a line below."""
    picture = drawn(ready.SYSTEM)
    assert len(groups(picture, "never")) == 4
    notes = [each.text for each in picture.iter(f"{SVG}text") if each.get("class") == "note"]
    assert [note.partition(":")[0] for note in notes if note] == [
        "never from Terminated to any state",
        "never from any state to Bootstrapping",
    ]
    assert groups(drawn(ready.SYSTEM, show_forbidden=False), "never") == []


def test_a_step_to_the_same_state_is_a_loop() -> None:
    """A step that leads to where it began is drawn beside its box, inside the picture."""
    door: Any = ComponentState("Door", {"Open": described("Is open"), "Shut": described("Is shut")})  # type: ignore[call-overload]
    rules = [allow(door.Open, door.Open), allow(door.Open, door.Shut), allow(door.Shut, door.Open)]
    assert len(groups(drawn(define("door", door, initial=door.Open, rules=rules)), "edge")) == 3


def test_a_picture_has_no_script_and_hostile_texts_are_texts() -> None:
    """Whatever names and reasons hold, the picture has the elements of a picture alone."""
    name = '</style><script>alert(1)</script>"\x00\u202e&amp;' + "x" * 500
    evil: Any = ComponentState("Evil", {name: described(name), "B": described("")})  # type: ignore[call-overload]
    first, second = evil
    picture = drawn(define(name, evil, initial=first, rules=[allow(first, second, reason=name), allow(second, first)]))
    found = {each.tag.removeprefix(SVG) for each in picture.iter()}
    assert found == {"svg", "style", "g", "rect", "text", "title", "path", "circle"}
    assert not re.search(r"[\x00-\x08\u202e]", ET.tostring(picture, encoding="unicode"))


def _apart(one: tuple[Point, Box], other: tuple[Point, Box]) -> bool:
    (a, first), (b, second) = one, other
    across = abs(a.x - b.x) >= (first.width + second.width) / 2 - 0.2
    return across or abs(a.y - b.y) >= (first.height + second.height) / 2 - 0.2


def test_boxes_and_labels_never_cover_each_other() -> None:
    """In random drawings, boxes and labels stand apart, and every link goes from its source to its target."""
    seed = int(os.environ.get("TAI_STATE_SEED", secrets.randbelow(2**32)))
    chance = random.Random(seed)
    for _ in range(60):
        count = chance.randrange(1, 14)
        boxes = [Box(chance.randrange(20, 200), chance.randrange(20, 60)) for _ in range(count)]
        pairs = [(chance.randrange(count), chance.randrange(count)) for _ in range(chance.randrange(2 * count))]
        links = [Link(a, b, Box(chance.randrange(8, 120), 15)) for a, b in pairs if a != b]
        drawing = placed(boxes, links, [0])
        assert drawing is not None
        parts = [
            *zip(drawing.boxes, boxes, strict=True),
            *zip(drawing.labels, [each.label for each in links], strict=True),
        ]
        assert all(_apart(one, other) for one, other in combinations(parts, 2)), f"TAI_STATE_SEED={seed}"
        for point, box in parts:
            assert point.x - box.width / 2 >= -0.2, f"TAI_STATE_SEED={seed}"
            assert point.x + box.width / 2 <= drawing.size.width + 0.2, f"TAI_STATE_SEED={seed}"
        for link, line in zip(links, drawing.lines, strict=True):
            for end, point in ((link.source, line[0]), (link.target, line[-1])):
                centre, box = drawing.boxes[end], boxes[end]
                assert abs(point.x - centre.x) <= box.width / 2, f"TAI_STATE_SEED={seed}"
                assert abs(abs(point.y - centre.y) - box.height / 2) < 0.2, f"TAI_STATE_SEED={seed}"


def test_a_drawing_is_bounded() -> None:
    """A chain that can be read is drawn; what has too many points is not, and the picture says so."""
    size = Box(60, 30)
    chain = [Link(number, number + 1, size) for number in range(500)]
    assert placed([size] * 501, chain, [0]) is not None
    assert placed([size] * (POINTS_MAX + 1), [], []) is None
    names = {f"S{number}": described(f"Is {number}") for number in range(200)}
    many: Any = ComponentState("Many", names)  # type: ignore[call-overload]
    states = list(many)
    rules = [allow(states[number], [*states[:number], *states[number + 1 :]]) for number in range(len(states))]
    whole = define("many", many, initial=states[0], rules=rules)
    free = define("free", many, initial=states[0], rules=[allow(ANY_STATE, each) for each in states])
    assert [texts(drawn(each)) for each in (whole, free)] == [["it is too large to be drawn"]] * 2
