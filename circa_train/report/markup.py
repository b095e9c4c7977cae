"""Text and values as HTML. Names of runs, sites and files are strangers' words: all of them pass here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: Texts of more letters are broken into lines.
_LONG = 50


def escaped(text: object) -> str:
    """Text that may stand in an element or in a quoted attribute. What no UTF-8 can say (names of files that
    are no text) is spelled out.

    >>> escaped('<b title="x">&')
    '&lt;b title=&quot;x&quot;&gt;&amp;'
    """
    return html.escape(str(text).encode("utf-8", "backslashreplace").decode(), quote=True)


def data_element(name: str, value: Any) -> str:
    """Data for the script, as JSON in an element that is not run. No character of it can end the element."""
    text = json.dumps(value, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escaped(name)}">{text}</script>'


@dataclass(frozen=True)
class Cell:
    """A value of a table, and how it is shown.

    Attributes:
        value: what it sorts by: a number, a text, or None, which comes last.
        shown: its text; the value as it is, if empty.
    """

    value: Any
    shown: str = ""


def percent(value: float | None) -> Cell:
    return Cell(value, "" if value is None else f"{100 * value:.2f}%")


def count(value: float | None) -> Cell:
    return Cell(value, "" if value is None else f"{value:,}")


def mebibytes(value: float | None) -> Cell:
    return Cell(value, "" if value is None else f"{value / 2**20:,.2f} MiB")


def seconds(value: float | None) -> Cell:
    return Cell(value, "" if value is None else f"{value:,.1f}")


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str, name: str | None = None
) -> str:
    """A table that the script can sort; with a ``name`` it has a filter, too."""
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    head = "".join(f'<th scope="col">{escaped(text)}</th>' for text in heads)
    shape = f'<table class="sortable"{_identity(name)}><caption>{escaped(caption)}</caption>'
    whole = f'<div class="wide">{shape}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    if name is None:
        return whole
    return (
        f'<p class="tools"><label>Show rows with all of these words '
        f'<input type="search" data-filters="{escaped(name)}"></label> '
        f'<span role="status" data-counts="{escaped(name)}"></span></p>\n{whole}'
    )


def _identity(name: str | None) -> str:
    return "" if name is None else f' id="{escaped(name)}"'


def _cell(cell: Cell) -> str:
    value = cell.value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    told = "" if value is None else escaped(repr(value) if number else value)
    shown = escaped(cell.shown) if cell.shown else told
    kind = ' class="number"' if number else ' class="long"' if len(shown) > _LONG else ""
    # what is sorted by, and read by whoever compares with the CSV, is the value to its last digit
    exact = f' data-value="{told}"' if number else ""
    return f"<td{kind}{exact}>{shown}</td>"
