"""The pages: templates that escape whatever stands in them."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tai_state.machines.picture import STYLE as PICTURE_STYLE
from tai_state.web.addresses import segment_of

STYLE: Final = files("tai_state.web").joinpath("templates", "style.css").read_text()

_STYLE: Final = Markup(STYLE)  # noqa: S704 - a file of this package

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_MILLISECONDS: Final = 1000


def page(template: str, **values: Any) -> str:
    """A page of HTML.

    Args:
        template: the name of its template.
        values: what stands in it. Only :func:`drawn` is not escaped.
    """
    return _ENVIRONMENT.get_template(f"{template}.html").render(style=_STYLE, **values)


def drawn(svg: str) -> Markup:
    """A picture, to stand in a page as it is."""
    return Markup(svg)  # noqa: S704 - the picture escapes its texts itself


def policy() -> str:
    """What a browser may do with a page: show it in its own style and send its form. No script, and no frame."""
    styles = " ".join(
        f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'" for each in (STYLE, PICTURE_STYLE)
    )
    rest = "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; style-src {styles}; {rest}"


def lasting(milliseconds: int) -> str:
    """A duration for people: its two largest units."""
    if milliseconds < _MILLISECONDS:
        return f"{milliseconds} ms"
    left, parts = int(timedelta(milliseconds=milliseconds).total_seconds()), list[str]()
    for name, seconds in _UNITS:
        if parts or left >= seconds:
            parts.append(f"{left // seconds} {name}")
            left %= seconds
    return " ".join(parts[:2])


def visible(text: str) -> str:
    """A text with what cannot be seen as escapes, so that no name can look like another one."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in text)


def moment(text: str) -> str:
    """A time for people, to the second."""
    return text[:19].replace("T", " ")


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("tai_state.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(segment=segment_of, lasting=lasting, visible=visible, moment=moment)
