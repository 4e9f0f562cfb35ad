"""Pages from templates, which escape whatever they are given."""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from .figures import Style


@dataclass(frozen=True)
class PagePart:
    """A part of a page that is seen at a time.

    Attributes:
        html: It.
        data: What its script draws.
    """

    html: Markup
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chips:
    """A legend that switches lines on and off.

    Attributes:
        styles: Look of each, by name.
        default: Those shown at first.
        n_shown: How many the button for the best ones names.
        legend: What they are.
    """

    styles: Mapping[str, Style]
    default: Sequence[str]
    n_shown: int
    legend: str = "Policies shown"


def read_part(name: str) -> str:
    """A file of a page.

    Args:
        name: Its path below ``virtgym.experiments``.
    """
    return (resources.files("virtgym.experiments") / name).read_text(encoding="utf-8")


@functools.cache
def _templates() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(read_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["strong"] = _is_strong
    made.filters["raw"] = lambda value: f"{value:.12g}" if math.isfinite(value) else ""
    made.filters["json"] = _json
    return made


def _is_strong(piece: object) -> bool:
    from .verdict import Strong  # loads what reports of runs need, too

    return isinstance(piece, Strong)


def render(template: str, **values: Any) -> Markup:
    """HTML of a template.

    Args:
        template: Its path below ``virtgym.experiments``.
        values: What it shows.
    """
    from markupsafe import Markup

    return Markup(_templates().get_template(template).render(**values))


def document(
    title: str,
    versions: Sequence[str],
    sections: Sequence[PagePart],
    *,
    script: str,
    style: str = "",
    titles: Sequence[str] = (),
    library: str = "",
    live: bool = False,
) -> str:
    """A page that needs nothing but itself.

    Args:
        title: Plain text.
        versions: Of virtgym, by which what it shows was made.
        sections: What stands in it.
        script: What draws.
        style: More CSS.
        titles: Of the sections, to choose from.
        library: What ``script`` uses.
        live: Whether it asks the server that it came from for a newer one.
    """
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z").strip()
    run = f"virtgym {', '.join(versions)} · " if versions else ""
    return render(
        "report/templates/page.html",
        title=title,
        css=read_part("report/report.css") + style,
        made=f"{run}written {now}",
        titles=titles,
        live=live,
        sections=sections,
        base=read_part("report/base.js"),
        library=library,
        script=script,
    )


def _json(data: Any) -> Markup:
    """Data for a page's script, in which no text can end the block."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(safe)


def add_figure(figures: dict[str, Any], key: str, figure: Any) -> None:
    """Add a plotly figure to what is drawn by the page's script."""
    figures[key] = json.loads(figure.to_json())
