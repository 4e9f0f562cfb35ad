"""The page: a section for each group of runs; figures are JSON, everything else reads without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..analysis.placement_summary import Comparison
from ..analysis.rescheduling_summary import Movers
from ..analysis.run_data import Group
from .cluster import cluster_section
from .leaderboard import Leaderboard
from .parts import PagePart, document, read_part
from .placement.page import placement_section
from .rescheduling import mover_section
from .sections import Section

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Lead:
    """A part of its own that stands before all groups.

    Attributes:
        title: Its name in the picker.
        html: It.
        figures: The figures in it, by key.
        markdown: The same as lines of Markdown.
    """

    title: str
    html: Markup
    figures: dict[str, Any]
    markdown: list[str]


Board = Leaderboard | Comparison | Movers
"""What there is to say of a group, by its kind."""


def render_page(
    groups: Sequence[tuple[Group, Board]],
    leads: Sequence[Lead] = (),
    own: Sequence[Sequence[Section]] = (),
    *,
    live: bool = False,
) -> str:
    """The whole page as text.

    Args:
        groups: Runs, and what is to be said of them.
        leads: Parts that stand before them.
        own: Sections of one's own by group; empty = none.
        live: As ``document`` has it.
    """
    from plotly.offline import get_plotlyjs

    names = [lead.title for lead in leads] or sorted({g.scenario for g, _ in groups})
    windows = [(g, board) for g, board in groups if isinstance(board, Comparison)]
    sections = [PagePart(lead.html, {"figures": lead.figures, "heats": []}) for lead in leads]
    more = own or [()] * len(groups)
    for index, ((group, board), mine) in enumerate(zip(groups, more, strict=True), start=len(leads)):
        if isinstance(board, Comparison):
            sections.append(placement_section(group, board, windows, mine))
        elif isinstance(board, Movers):
            sections.append(mover_section(group, board, mine))
        else:
            sections.append(cluster_section(index, group, board, mine))
    return document(
        f"virtgym report: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}",
        sorted({str(v) for g, _ in groups for v in g.rows.get("virtgym_version", [])}),
        sections,
        script=read_part("report/report.js"),
        titles=[*(lead.title for lead in leads), *(g.title for g, _ in groups)],
        library=get_plotlyjs(),
        live=live,
    )
