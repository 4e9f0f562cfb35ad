"""Pieces of HTML that every page and section is made of."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from .figures import Style
from .verdict import Sentence, Strong, Tile


def read_part(package: str, name: str) -> str:
    """A file that lies in a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def document(
    title: str,
    versions: Sequence[str],
    sections: str,
    data: str,
    *,
    script: str,
    style: str = "",
    picker: str = "",
    library: str = "",
) -> str:
    """A page that needs nothing but itself.

    Args:
        title: Plain text.
        versions: Of virtgym, by which what it shows was made.
        sections: What stands in it, HTML.
        data: Blocks of ``json_script``.
        script: What draws.
        style: More CSS.
        picker: What stands at the right of the title, HTML.
        library: What ``script`` uses.
    """
    here = __package__
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z").strip()
    run = f"virtgym {', '.join(versions)} · " if versions else ""
    return Template(read_part(here, "template.html")).substitute(
        title=escape(title),
        css=read_part(here, "report.css") + style,
        made=escape(f"{run}written {now}"),
        picker=picker,
        sections=sections,
        data=data,
        base=read_part(here, "base.js"),
        library=library,
        script=script,
    )


def json_script(ident: str, data: Any) -> str:
    """Data for a page's script, in which no text can end the block."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<script type="application/json" id="{ident}">{safe}</script>'


def pieces(sentence: Sentence) -> str:
    """A sentence as HTML."""
    return "".join(f"<strong>{escape(p)}</strong>" if isinstance(p, Strong) else escape(p) for p in sentence)


def add_figure(figures: dict[str, Any], key: str, figure: Any) -> None:
    """Add a plotly figure to what is drawn by the page's script."""
    figures[key] = json.loads(figure.to_json())


def plot_div(key: str, label: str, kind: str = "", height: int | None = None) -> str:
    """Where a figure is drawn.

    Args:
        key: Its key.
        label: What it shows, for those who do not see it.
        kind: Classes that say how it is drawn.
        height: px; None = by class.
    """
    style = f' style="height:{height}px"' if height is not None else ""
    return (
        f'<div class="plot {kind}"{style} data-figure="{escape(key)}" role="img" '
        f'aria-label="{escape(label)}"></div>'
    )


def block(name: str, title: str, body: str, lead: str = "") -> str:
    """A part of the page with a heading; ``lead`` is HTML."""
    text = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section class="block {name}"><h3>{escape(title)}</h3>{text}{body}</section>'


def tile_list(tiles: Sequence[Tile]) -> str:
    """Numbers at a glance."""
    inner = "".join(
        f'<div class="tile"><dt>{escape(t.label)}</dt><dd><b>{escape(t.value)}</b>'
        f'<span class="who">{escape(t.who)}</span><span class="note">{escape(t.note)}</span></dd></div>'
        for t in tiles
    )
    return f'<dl class="tiles">{inner}</dl>'


def chip_fieldset(
    policies: Sequence[tuple[str, Style]],
    default: Sequence[str],
    n_shown: int,
    legend: str = "Policies shown",
) -> str:
    """A legend that is also the switch of each line, for mouse, finger and keyboard.

    Args:
        policies: Name and look of each.
        default: Those shown at first.
        n_shown: How many the button for the best ones names.
        legend: What they are.
    """
    chips = "".join(
        f'<label class="chip"><input type="checkbox" data-policy="{escape(name)}"'
        f"{' checked data-default' if name in default else ''}>"
        f'<i class="swatch {style.dash}" style="--ink:var(--{style.ink})"></i>{escape(name)}</label>'
        for name, style in policies
    )
    buttons = ""
    if len(policies) > n_shown + 1:
        buttons = "".join(
            f'<button type="button" data-show="{what}">{text}</button>'
            for what, text in (("default", f"Top {n_shown}"), ("all", "All"), ("none", "None"))
        )
    return f'<fieldset class="chips"><legend>{legend}</legend>{buttons}{chips}</fieldset>'
