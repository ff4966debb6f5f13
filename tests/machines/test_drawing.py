"""Diagrams and tables of definitions: what they show, and that hostile texts do not break them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tai_state import InvalidData
from tai_state.machines import (
    ANY_STATE,
    ComponentState,
    Definition,
    MachineEvent,
    allow,
    define,
    described,
    forbid,
    time_out,
    to_dot,
    to_mermaid,
    to_table,
)

from ..support.machine_kit import ORDER, Closed, Node, Open, Paid, node


class Job(ComponentState):
    """States for the pictures below."""

    Queued = described("Waits for a worker", accepts_new_work=True)
    Running = described("A worker runs it")
    Done = described("Has a result", terminal=True)
    Failed = described("", terminal=True, failure=True)


def _has_worker(_: object) -> bool:
    return True


JOB = define(
    "job",
    Job,
    initial=Job.Queued,
    rules=[
        allow(Job.Queued, Job.Running, on=MachineEvent("start"), guard=_has_worker, reason="needs a worker"),
        allow(Job.Running, Job.Done, advances_epoch=True, effects=["mail", "log"], guard=lambda _: True),
        allow(ANY_STATE, Job.Failed, name="Fail"),
        time_out(Job.Queued, Job.Failed, seconds=2.5),
        forbid(Job.Queued, [Job.Done, Job.Queued], "skips the work"),
        forbid(ANY_STATE, Job.Queued, "is queued once", unless_from=[Job.Done]),
    ],
)
PATH = [Job.Queued, Job.Running, Job.Queued, Job.Running]

MERMAID = """\
stateDiagram-v2
    state "Queued" as s0
    state "Running" as s1
    state "Done" as s2
    state "Failed" as s3
    s0 : Waits for a worker
    s1 : A worker runs it
    s2 : Has a result
    [*] --> s0
    s0 --> s1 : start [_has_worker], steps 1, 3
    s1 --> s2 : [guard] / mail, log (epoch + 1)
    s0 --> s3
    s1 --> s3
    s0 --> s3 : after 2.5 s
    s1 --> s0 : by no rule, step 2
    s2 --> [*]
    s3 --> [*]
    note right of s0 : never to Done, skips the work<br/>never to Queued, skips the work<br/>\
never from any state to Queued, is queued once (but from Done)
    classDef failure stroke:#b00020,color:#b00020
    class s3 failure
    classDef terminal stroke-width:3px
    class s2,s3 terminal
    classDef visited fill:#e3ecfa
    class s0,s1 visited
    classDef current fill:#ffe08a,font-weight:bold
    class s1 current
"""

DOT = """\
digraph "job" {
    rankdir=LR;
    node [shape=box, style="rounded,filled", fillcolor="#ffffff", fontname="sans-serif"];
    edge [fontname="sans-serif", fontsize=10];
    s0 [label="Queued", tooltip="Waits for a worker", fillcolor="#e3ecfa"];
    s1 [label="Running", tooltip="A worker runs it", fillcolor="#ffe08a", penwidth=2];
    s2 [label="Done", tooltip="Has a result", peripheries=2];
    s3 [label="Failed", tooltip="", peripheries=2, color="#b00020", fontcolor="#b00020"];
    start0 [shape=point, label=""];
    start0 -> s0;
    s0 -> s1 [label="start [_has_worker], steps 1, 3", style=bold, color="#1f5fbf"];
    s1 -> s2 [label="[guard] / mail, log (epoch + 1)"];
    s0 -> s3 [label=""];
    s1 -> s3 [label=""];
    s0 -> s3 [label="after 2.5 s"];
    s1 -> s0 [label="by no rule, step 2", style=dotted, color="#1f5fbf"];
    any [shape=plaintext, style="", label="any state"];
    s0 -> s2 [label="skips the work", style=dashed, color="#b00020", fontcolor="#b00020", constraint=false];
    s0 -> s0 [label="skips the work", style=dashed, color="#b00020", fontcolor="#b00020", constraint=false];
    any -> s0 [label="is queued once (but from Done)", style=dashed, color="#b00020", fontcolor="#b00020", \
constraint=false];
}
"""

TABLE = """\
   from       to       may  rule                      event  guard        after  reason                          steps
-  ---------  -------  ---  ------------------------  -----  -----------  -----  ------------------------------  -----
   Queued     Running  yes  QueuedToRunning on start  start  _has_worker         needs a worker                  1, 3
*  Running    Done     yes  RunningToDone                    guard
   Queued     Failed   yes  Fail
*  Running    Failed   yes  Fail
   Queued     Failed   yes  QueuedToFailed in time                        2.5 s
*  Running    Queued   no                                                        by no rule                      2
   Queued     Done     no   NoQueuedToDoneOrQueued                               skips the work
   Queued     Queued   no   NoQueuedToDoneOrQueued                               skips the work
*  any state  Queued   no   NoAnyToQueued                                        is queued once (but from Done)
"""


def test_a_mermaid_diagram():
    """Mermaid's text has states, edges, marks, numbered steps, and notes on what is forbidden."""
    assert to_mermaid(JOB, Job.Running, PATH) == MERMAID


def test_a_dot_graph():
    """Graphviz's text has the same, forbidden edges dashed."""
    assert to_dot(JOB, Job.Running, PATH) == DOT


def test_a_table():
    """The table has a line for each step that a rule allows or forbids, and only columns that say something."""
    assert to_table(JOB, Job.Running, PATH) == TABLE
    plain = to_table(
        define(
            "pair",
            Job,
            initial=Job.Queued,
            rules=[allow(Job.Queued, [Job.Running, Job.Done])],
            unreached=[Job.Failed],
            dead_ends=[Job.Running],
        )
    )
    assert plain.splitlines()[0].split() == ["from", "to", "may", "rule"]


def test_what_is_forbidden_is_not_drawn_as_allowed():
    """A step that a broad rule allows and another one forbids is shown as forbidden alone."""
    rules = [allow(ANY_STATE, Node.Committing, name="any"), forbid(Node.Degraded, Node.Committing, "recover first")]
    lines = [line.split()[:3] for line in to_table(node(rules)).splitlines()]
    assert [line for line in lines if line[:2] == ["Degraded", "Committing"]] == [["Degraded", "Committing", "no"]]


def test_what_is_forbidden_can_be_left_out():
    """Without forbidden steps neither notes nor dashed edges are drawn."""
    assert "note" not in to_mermaid(JOB, show_forbidden=False)
    assert "dashed" not in to_dot(JOB, show_forbidden=False)
    assert "any" not in to_dot(JOB, show_forbidden=False)


@pytest.mark.parametrize("draw", [to_mermaid, to_dot, to_table])
def test_states_may_be_given_by_name_with_data_or_without(draw: Callable[..., str]):
    """A state may be given as it is, without its data, or by its name, as a stored machine has it."""
    pictures = {draw(ORDER, current, ["Open", current]) for current in (Paid(receipt="secret"), Paid, "Paid")}
    assert len(pictures) == 1
    assert "secret" not in pictures.pop()
    for wrong in ("Nowhere", Node.Ready, 5):
        with pytest.raises(InvalidData, match="is not a state of the machine 'order'"):
            draw(ORDER, wrong)
        with pytest.raises(InvalidData, match="is not a state of the machine 'order'"):
            draw(ORDER, None, [wrong])


def test_a_path_of_one_state_has_no_step():
    """A machine that only began has visited a state and taken no step."""
    assert "step" not in to_mermaid(ORDER, Open, [Open]).replace("steps", "")
    assert "class s0 visited" in to_mermaid(ORDER, Open, [Open])
    assert "s2 visited" not in to_mermaid(ORDER, Closed, [Open])


HOSTILE = [
    'quote " here', "back\\slash", "trailing \\", "line\nbreak\r\nand\ttab", "a --> b", "<script>alert(1)</script>",
    "end note", "[*]", "%%{init: {}}%%", "ünï → 日本", "x" * 1_000, "; semi:colon;", "#quot; #35; &lt;&amp;",
    "note right of s0", "style:#fff;", "classDef x fill:#fff;", "---", "} }", "{ {", "\u202ertl\u0000\u0007",
    "class s0 x", 'state "q" as z', "|||", "`~!@$^&*()_+=,.<>?/", "direction LR", "Direction\tTB", ":::", "<br/>",
    "s0 --> s1", "'", "fork <<fork>>", "  ", "\u2028",
]  # fmt: skip


def _hostile() -> Definition[Any, Any]:
    """A definition whose every text is hostile: its names, descriptions, rules, events, effects and reasons."""
    states: Any = ComponentState("Hostile", {each: described(each) for each in HOSTILE})  # type: ignore[arg-type]
    members = list(states)
    ring = [
        allow(one, two, on=MachineEvent(one.name), effects=[one.name.replace(":", ";")], reason=one.name)
        for one, two in zip(members, members[1:] + members[:1], strict=True)
    ]
    never = [forbid(each, members[0], each.name) for each in members[1:-1]]
    never += [forbid(ANY_STATE, members[5], HOSTILE[0], unless_from=[members[4]])]
    return define(HOSTILE[0], states, initial=members[0], rules=[*ring, *never])


LINE = {
    "state": r'state "[^"\n]*" as s\d+',
    "description": r"s\d+ : [^:;\n\"<>{}%]+",
    "edge": r"(?:\[\*\]|s\d+) --> (?:\[\*\]|s\d+)(?: : [^:;\n\"<>{}%]+)?",
    "note": r"note right of s\d+ : (?:[^:;\n\"<>{}%]|<br/>)+",
    "class": r"class(?:Def)? [\w,]+ [\w#:,-]+",
}
"""The lines that a diagram may have; entities are letters here."""


def test_hostile_texts_do_not_break_a_mermaid_diagram():
    """Whatever a text says, each line is one of those that were meant, and none begins or ends something else."""
    definition = _hostile()
    states = list(definition.states)
    head, *lines = to_mermaid(definition, states[3], [*states, *states[:3]]).splitlines()
    assert head == "stateDiagram-v2"
    kinds = [
        [kind for kind, form in LINE.items() if re.fullmatch(form, re.sub(r"#\d+;", "x", line.strip()))]
        for line in lines
    ]
    assert [line for line, kind in zip(lines, kinds, strict=True) if not kind] == []
    assert sum("state" in kind for kind in kinds) == len(HOSTILE)
    assert sum("edge" in kind for kind in kinds) == len(HOSTILE) + 1
    text = "\n".join(lines)
    assert "direction" not in text.lower()
    assert max(map(len, lines)) < 3_000
    assert text.isprintable() or all(each.isprintable() or each == "\n" for each in text)


_QUOTED = r'"(?:[^"\\\n]|\\["\\])*"'


def test_hostile_texts_do_not_break_a_dot_graph():
    """Whatever a text says, it stays between its quotes, and Graphviz, where there is one, reads the graph."""
    definition = _hostile()
    text = to_dot(definition, "end note", definition.states)
    without = re.sub(_QUOTED, "Q", text)
    assert re.fullmatch(r"digraph Q \{\n(?: {4}[\w\[\]=, >;-]+;\n)+\}\n", without)
    assert not re.search(r"&(?!amp;)", text)
    if dot := shutil.which("dot"):
        subprocess.run([dot, "-Tsvg"], input=text, text=True, check=True, capture_output=True)


def test_hostile_texts_do_not_break_a_table():
    """Each step has one line, and no text is longer than it may be; wide letters count twice."""
    definition = _hostile()
    lines = to_table(definition).splitlines()
    rules = definition.rules
    assert len(lines) == 2 + len(rules)
    assert all(each.isprintable() for each in lines)


def test_long_texts_are_cut():
    """Of a long text its beginning is shown, and that it goes on."""
    for shown in (to_table(_hostile()), to_dot(_hostile()), to_mermaid(_hostile()).replace("#8230;", "…")):
        assert "x" * 119 + "…" in shown
        assert "x" * 120 not in shown


def test_wide_letters_count_twice_in_a_table():
    """The columns stay straight in a terminal, where some letters take two places."""
    states: Any = ComponentState("Wide", {each: described(each) for each in ("日本", "abcd")})  # type: ignore[arg-type]
    one, two = states
    table = to_table(define("wide", states, initial=one, rules=[allow(one, two), allow(two, one)]))
    assert [line.split("  ")[:2] for line in table.splitlines()[1:]] == [
        ["----", "----"],
        ["日本", "abcd"],
        ["abcd", "日本"],
    ]
