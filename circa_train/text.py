"""Rows of cells as a table of aligned text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]], left: int | None = None) -> str:
    """One line of text per row, columns two spaces apart, nothing after the last cell.

    Args:
        lines: rows of equally many cells; the first is usually the head.
        left: so many columns are flush left, those after them flush right; None for all.

    >>> print(aligned([["site", "k"], ["relu1", "12"]], left=1))
    site    k
    relu1  12
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = len(widths) if left is None else left
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
