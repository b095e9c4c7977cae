"""Figures as SVG within a page: their points can be pointed at, and their colours follow the page's."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib

from circa_train.plots import NotedFigure
from circa_train.report.markup import escaped

#: Colours of ink, of grids and of paper that become the page's own: in the dark they are others.
_INK = {
    "#000000": "currentColor",
    "#555555": "var(--muted)",
    "#dddddd": "var(--line)",
    "#ffffff": "var(--paper)",
}

_REACH = 6  # of a pointer, around a point, in points of 1/72 inch


def inline_svg(figure: NotedFigure, name: str, title: str) -> tuple[str, list[str]]:
    """A figure as one ``svg`` element, with a circle that can be hit at each of its notes, and their texts in
    the order of the circles.

    Args:
        figure: is drawn; the same figure gives the same text.
        name: unique in the page: identifiers within get it in front.
        title: what a screen reader says of the figure.
    """
    stream = io.BytesIO()
    settings: Any = {"svg.hashsalt": "circa_train", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # would hold for the whole page
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for color, own in _INK.items():
        text = text.replace(color, own)
    width, height = (72 * size for size in figure.get_size_inches())
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width * 1.4:g}px" class="figure" role="group" tabindex="0" '
        f'aria-label="{escaped(title)}" data-figure="{escaped(name)}">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    return text.replace("</svg>", f"{_targets(figure)}</svg>"), [note.text for note in figure.notes]


def _targets(figure: NotedFigure) -> str:
    """The circles, in the coordinates of the drawing, whose origin is at the top."""
    scale, height = 72 / figure.dpi, 72 * figure.get_size_inches()[1]
    circles = []
    for note in figure.notes:
        x, y = note.axes.transData.transform((note.x, note.y))
        place = f'cx="{x * scale:.2f}" cy="{height - y * scale:.2f}"'
        circles.append(f'<circle class="hit" {place} r="{_REACH}"/>')
    return f'<g class="hits">{"".join(circles)}</g>' if circles else ""
