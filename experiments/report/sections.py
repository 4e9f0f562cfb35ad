"""Sections of one's own: what a plug-in adds to every group of a report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from virtgym.envs.files import one_line
from virtgym.envs.registry import PluginWarning, Registry

from ..analysis.run_data import Group
from .parts import add_figure, block, plot_div


@dataclass(frozen=True)
class Section:
    """What a function of a group of runs makes of it.

    Attributes:
        title: Heading.
        html: Text, as HTML; ``html.escape`` what comes from rows.
        figures: Figures of plotly by what they show, drawn below the text.
        markdown: The same for ``report.md``, lines.
    """

    title: str
    html: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    markdown: Sequence[str] = ()


SECTIONS = Registry(
    "section",
    lambda thing: callable(thing) and not isinstance(thing, type),
    "a function of a Group (virtgym.experiments.analysis.run_data) that gives a Section or None",
)
"""Every section of one's own by name; what ships stands in ``page``."""


def make_sections(group: Group, asked: Sequence[str] = ()) -> list[Section]:
    """Ask every section what it has to say of a group.

    Args:
        group: Runs that may be compared.
        asked: Sections by dotted path, beside those that plug-ins register.

    Returns:
        What there is; one that fails is told in a warning, for a report is more than one section.

    Raises:
        ConfigError: If there is no such section.
    """
    found: list[Section] = []
    for name in dict.fromkeys([*SECTIONS, *asked]):
        make: Callable[[Group], Section | None] = SECTIONS.find(name, "sections").factory
        try:
            made = make(group)
            if made is not None and not isinstance(made, Section):
                raise TypeError(f"must give a Section or None, not {type(made).__name__}")
        except Exception as error:  # code of others, on which nothing else depends
            text = f"section {name} is left out: {type(error).__name__}: {one_line(error)}"
            warnings.warn(text, PluginWarning, stacklevel=2)
            continue
        if made is not None:
            found.append(made)
    return found


def section_html(sections: Sequence[Section], figures: dict[str, Any]) -> str:
    """Sections as parts of a page.

    Args:
        sections: The sections of a group.
        figures: Figures of the group's page by key; theirs are added.
    """
    parts = []
    for number, section in enumerate(sections):
        plots = []
        for place, (label, figure) in enumerate(section.figures.items()):
            key = f"own-{number}-{place}"
            add_figure(figures, key, figure)
            plots.append(f"<figure><figcaption>{escape(label)}</figcaption>{plot_div(key, label)}</figure>")
        parts.append(block("own", section.title, section.html + "".join(plots)))
    return "".join(parts)
