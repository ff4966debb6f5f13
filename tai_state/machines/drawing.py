"""A definition as a diagram, in Mermaid's or Graphviz's language, or as a table.

Names and texts are escaped, so whatever stands in them, a diagram stays one: of control characters and line breaks
nothing is left, and long texts are cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tai_state.machines.definition import Definition
from tai_state.machines.edges import Edge, allowed_edges, forbidden_edges, guard_name, named, prohibition
from tai_state.machines.labels import NO_RULE, classes_of, end_name, label_of, shown, width_of
from tai_state.machines.outline import StateOutline
from tai_state.machines.states import S, StateKey

_PLAIN: Final = frozenset(" .,_()[]/+-=?!'")
"""Besides letters and digits, what means nothing in Mermaid's texts."""

_DIRECTION: Final = re.compile("d(?=irection)", re.IGNORECASE)
"""Where this word stands before "LR", Mermaid takes the whole line for a setting."""

_MERMAID_CLASSES: Final = {
    "failure": "stroke:#b00020,color:#b00020",
    "terminal": "stroke-width:3px",
    "visited": "fill:#e3ecfa",
    "current": "fill:#ffe08a,font-weight:bold",
}


def to_mermaid(
    definition: Definition[S, Any],
    current: StateKey[S] | str | None = None,
    path: Sequence[StateKey[S] | str] = (),
    *,
    show_forbidden: bool = True,
) -> str:
    """A definition as a state diagram of Mermaid.

    Steps of the path bear their numbers. Mermaid cannot draw dashed edges between states, so a note at a state says
    which steps are forbidden there, and why.

    Args:
        definition: what is drawn.
        current: the state that is marked as the one in which the machine is.
        path: the states that the machine went through, in this order.
        show_forbidden: whether forbidden steps are shown.

    Raises:
        InvalidData: one of them is not a state of the definition.
    """
    outline, visited = definition.outline, named(definition, path)
    ids = {state.name: f"s{number}" for number, state in enumerate(outline.states)}
    lines = ["stateDiagram-v2"]
    lines += [f'state "{_mermaid(state.name)}" as {ids[state.name]}' for state in outline.states]
    said = {state.name: _mermaid(state.description) for state in outline.states}
    lines += [f"{ids[name]} : {text}" for name, text in said.items() if text]
    lines += [f"[*] --> {ids[name]}" for name in outline.starts]
    for edge in allowed_edges(outline, visited):
        label = _mermaid(label_of(edge))
        lines.append(f"{ids[edge.source or '']} --> {ids[edge.target or '']}{f' : {label}' if label else ''}")
    lines += [f"{ids[state.name]} --> [*]" for state in outline.states if state.is_terminal]
    if show_forbidden:
        lines += _mermaid_notes(forbidden_edges(outline), ids)
    here = None if current is None else named(definition, [current])[0]
    used = {ids[state.name]: classes_of(state, here, visited) for state in outline.states}
    for name, style in _MERMAID_CLASSES.items():
        members = [each for each, classes in used.items() if name in classes]
        lines += [f"classDef {name} {style}", f"class {','.join(members)} {name}"] if members else []
    return "\n    ".join(lines) + "\n"


def _mermaid_notes(edges: Iterable[Edge], ids: dict[str, str]) -> list[str]:
    """A note at each state that some steps must not leave, or that must not be entered from anywhere."""
    notes: dict[str, list[str]] = {}
    for edge in edges:
        if edge.rule is not None:
            where = edge.source or edge.target or next(iter(ids))
            step = (
                f"to {end_name(edge.target)}"
                if edge.source is not None
                else f"from any state to {end_name(edge.target)}"
            )
            notes.setdefault(ids[where], []).append(_mermaid(f"never {step}, {prohibition(edge.rule)}"))
    return [f"note right of {where} : {'<br/>'.join(texts)}" for where, texts in notes.items()]


def to_dot(
    definition: Definition[S, Any],
    current: StateKey[S] | str | None = None,
    path: Sequence[StateKey[S] | str] = (),
    *,
    show_forbidden: bool = True,
) -> str:
    """A definition as a graph of Graphviz, for its program ``dot``.

    Terminal states have a double border, failures a red one. Forbidden steps are dashed, and bear their reasons.

    Args:
        definition: what is drawn.
        current: the state that is marked as the one in which the machine is.
        path: the states that the machine went through, in this order.
        show_forbidden: whether forbidden steps are shown.

    Raises:
        InvalidData: one of them is not a state of the definition.
    """
    outline, visited = definition.outline, named(definition, path)
    here = None if current is None else named(definition, [current])[0]
    ids: dict[str | None, str] = {state.name: f"s{number}" for number, state in enumerate(outline.states)}
    lines = [
        f"digraph {_dot(definition.name)} {{",
        "rankdir=LR;",
        'node [shape=box, style="rounded,filled", fillcolor="#ffffff", fontname="sans-serif"];',
        'edge [fontname="sans-serif", fontsize=10];',
    ]
    lines += [f"{ids[each.name]} [{_dot_state(each, classes_of(each, here, visited))}];" for each in outline.states]
    for number, name in enumerate(outline.starts):
        lines += [f'start{number} [shape=point, label=""];', f"start{number} -> {ids[name]};"]
    for edge in allowed_edges(outline, visited):
        style = "dotted" if edge.rule is None else "bold"
        style = f', style={style}, color="#1f5fbf"' if edge.steps else ""
        lines.append(f"{ids[edge.source]} -> {ids[edge.target]} [label={_dot(label_of(edge))}{style}];")
    forbidden = forbidden_edges(outline) if show_forbidden else []
    if any(None in {edge.source, edge.target} for edge in forbidden):
        ids[None] = "any"
        lines.append('any [shape=plaintext, style="", label="any state"];')
    for edge in forbidden:
        if edge.rule is not None:
            style = 'style=dashed, color="#b00020", fontcolor="#b00020", constraint=false'
            lines.append(f"{ids[edge.source]} -> {ids[edge.target]} [label={_dot(prohibition(edge.rule))}, {style}];")
    return "\n    ".join(lines) + "\n}\n"


def _dot_state(state: StateOutline, classes: set[str]) -> str:
    fill = "#ffe08a" if "current" in classes else "#e3ecfa" if "visited" in classes else ""
    return (
        f"label={_dot(state.name)}, tooltip={_dot(state.description)}"
        + (f', fillcolor="{fill}"' if fill else "")
        + (", penwidth=2" if "current" in classes else "")
        + (", peripheries=2" if "terminal" in classes else "")
        + (', color="#b00020", fontcolor="#b00020"' if "failure" in classes else "")
    )


def to_table(
    definition: Definition[S, Any],
    current: StateKey[S] | str | None = None,
    path: Sequence[StateKey[S] | str] = (),
) -> str:
    """The rules of a definition as a table: a line for each step that one allows or forbids.

    Args:
        definition: what is shown.
        current: the state whose lines are marked with an asterisk.
        path: the states that the machine went through, in this order; the steps bear their numbers.

    Raises:
        InvalidData: one of them is not a state of the definition.
    """
    visited = named(definition, path)
    here = None if current is None else named(definition, [current])[0]
    rows = [["", "from", "to", "may", "rule", "event", "guard", "after", "reason", "steps"]]
    for edge in [*allowed_edges(definition.outline, visited), *forbidden_edges(definition.outline)]:
        mark = "*" if here is not None and edge.source in {here, None} else ""
        ends = [mark, end_name(edge.source), end_name(edge.target)]
        steps = ", ".join(map(str, edge.steps))
        rule = edge.rule
        if rule is None:
            rows.append([*ends, "no", "", "", "", "", NO_RULE, steps])
            continue
        after = "" if rule.timeout_ms is None else f"{rule.timeout_ms / 1000:g} s"
        reason = prohibition(rule) if rule.is_forbidding else rule.reason or ""
        may = "no" if rule.is_forbidding else "yes"
        rows.append([*ends, may, rule.name, rule.event or "", guard_name(rule), after, reason, steps])
    columns = [column for column in zip(*[map(shown, row) for row in rows], strict=True) if any(column[1:])]
    widths = [max(map(width_of, column)) for column in columns]
    padded = [
        [cell + " " * (width - width_of(cell)) for cell in column]
        for column, width in zip(columns, widths, strict=True)
    ]
    head, *body = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    return "\n".join([head, "  ".join("-" * width for width in widths), *body]) + "\n"


def _mermaid(text: str) -> str:
    """A text for Mermaid: what could mean something there is a numeric entity."""
    escaped = "".join(each if each.isalnum() or each in _PLAIN else f"#{ord(each)};" for each in shown(text))
    return _DIRECTION.sub(lambda found: f"#{ord(found[0])};", escaped)


def _dot(text: str) -> str:
    """A quoted text for Graphviz, which takes backslashes for escapes and ampersands for entities."""
    escaped = shown(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{escaped}"'
