"""The page: head, sections, data, style and script in one file that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from circa_train.plots import NotedFigure
from circa_train.report import sections
from circa_train.report.figures import inline_svg
from circa_train.report.markup import data_element, escaped
from circa_train.runs import Row
from circa_train.runs.table import to_csv

_HINT = "Heads of tables sort. Figures tell about a point under the pointer, or with the arrow keys."


@dataclass
class Content:
    """What a report is about.

    Attributes:
        title: its heading.
        command: that made it.
        rows: of the table, all kinds; they are in the page as the CSV file has them.
        sites: of evaluations.
        allocations: of searches.
        figures: by name.
        left_out: figures that were not drawn, and why.
        remarks: what gave no row: skipped files, jobs that failed, superseded results.
    """

    title: str
    command: str
    rows: Sequence[Row]
    sites: Sequence[Row] = ()
    allocations: Sequence[Row] = ()
    figures: Mapping[str, NotedFigure] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    remarks: str = ""


def report_page(content: Content) -> str:
    """The whole page as HTML."""
    style, script = _asset("page.css"), _asset("page.js")
    drawn = {
        name: inline_svg(figure, f"figure{place}", _words(name))
        for place, (name, figure) in enumerate(content.figures.items())
    }
    notes = {f"figure{place}": texts for place, (_, texts) in enumerate(drawn.values())}
    parts = {
        "Accuracy": sections.evaluations(content.rows),
        "Figures": _figures({name: svg for name, (svg, _) in drawn.items()}, content.left_out),
        "What the search answers": sections.searches(content.rows, content.allocations),
        "Sites": sections.sites(content.sites),
        "Costs": sections.costs(content.rows),
        "Trained, verified, exported": sections.others(content.rows),
        "What was run": sections.what_was_run(content.rows) + _remarks(content.remarks),
    }
    parts = {title: body for title, body in parts.items() if body}
    links = "".join(f'<li><a href="#{_anchor(title)}">{escaped(title)}</a></li>' for title in parts)
    body = "\n".join(
        f'<section id="{_anchor(title)}"><h2>{escaped(title)}</h2>\n{text}</section>'
        for title, text in parts.items()
    )
    # only this very script may run: one that a name brought with it may not
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="circa_train">
<title>{escaped(content.title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{escaped(content.title)}</h1>
<p>Made by <code>{escaped(content.command)}</code></p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<p class="tools"><button type="button" class="button" id="save-csv">Save the table as CSV</button>
<span class="muted">{_HINT}</span></p>
</header>
<main>
{body}
</main>
<div id="told" role="status" hidden></div>
{data_element("report-data", {"csv": to_csv(content.rows), "notes": notes})}
<script>{script}</script>
</body>
</html>
"""


def _figures(drawn: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    figures = "".join(
        f"<figure>{svg}<figcaption>{escaped(_words(name))}</figcaption></figure>\n"
        for name, svg in drawn.items()
    )
    if not left_out:
        return figures
    reasons = "".join(
        f"<li>{escaped(_words(name))}: {escaped(reason)}</li>" for name, reason in left_out.items()
    )
    return f"{figures}<details><summary>Not drawn: {len(left_out)}</summary><ul>{reasons}</ul></details>"


def _remarks(text: str) -> str:
    return f'<p class="warning" style="white-space: pre-wrap">{escaped(text)}</p>' if text else ""


def _words(name: str) -> str:
    """A figure's file name as a caption."""
    return name.replace("_vs_", " against ").replace("_", " ")


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _asset(name: str) -> str:
    return files("circa_train.report").joinpath(name).read_text(encoding="utf-8")
