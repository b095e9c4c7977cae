"""One page about any set of runs: ``report.html``, which needs nothing but itself.

    page        the page put together: head, sections, data, style and script
    sections    what was run, the table, what searches answered, sites, costs
    figures     figures as SVG within the page, and what to say at each of their points
    markup      text and values as HTML, escaped
    page.css, page.js    how it looks, and what it does; no library

The page asks nobody for anything (its content security policy forbids it), holds the table as the CSV file
has it, and reads without its script, which only sorts, filters and tells about points.
"""

from __future__ import annotations

from circa_train.report.page import Content, report_page

__all__ = ["Content", "report_page"]
