"""One look for all figures: colours that the colour-blind tell apart, and a marker and a dash of its own for
each series.

The palette is Okabe and Ito's (2008). Printed in grey, markers and dashes still tell the series apart.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from circa_train.files import write_file

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)), (0, (1, 2)))

GREY = "#555555"

#: What a figure can be written as: for a screen, for a page, for a paper.
FORMATS = ("png", "svg", "pdf")

_DOTS_PER_INCH = 200


@dataclass(frozen=True)
class SeriesStyle:
    """Colour, marker and dash of the n-th series."""

    color: str
    marker: str
    linestyle: Any


def series_style(index: int) -> SeriesStyle:
    """The n-th style; beyond seven series colours repeat with another marker and dash."""
    turn = index // len(PALETTE)
    return SeriesStyle(
        PALETTE[index % len(PALETTE)],
        MARKERS[(index + turn) % len(MARKERS)],
        DASHES[(index + 2 * turn) % len(DASHES)],
    )


@dataclass(frozen=True)
class Note:
    """What a figure says about one of its points: for a page that can be pointed at."""

    axes: Axes
    x: float
    y: float
    text: str


class NotedFigure(Figure):
    """A figure that knows what its points are."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.notes: list[Note] = []


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 4.2, **options: Any
) -> tuple[NotedFigure, Any]:
    """A figure (inches) with its axes, without pyplot; ``options`` go to ``Figure.subplots``."""
    figure = NotedFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def plain(text: object) -> str:
    """Somebody's name as matplotlib shows it letter by letter: dollars begin no formula, and an underscore in
    front does not hide it from the legend.
    """
    words = str(text).replace("$", r"\$")
    return f" {words}" if words.startswith("_") else words


def dress(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Labels, a light grid behind the data, no box."""
    axes.set_title(plain(title), fontsize=11)
    axes.set_xlabel(plain(xlabel))
    axes.set_ylabel(plain(ylabel))
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers only: there is no k between 17 and 18, however narrow the panel.

    By itself matplotlib wants two ticks at least, and takes fractions where one whole number is in view.
    """
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save_figure(
    figure: Figure, path: str | os.PathLike[str], *, command: str, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write ``path`` with each format's suffix, atomically; ``command`` goes into the metadata.

    The same figure gives the same bytes: no date, and fixed identifiers in SVG.

    Raises:
        ValueError: for a format other than png, svg and pdf.
    """
    unknown = [suffix for suffix in formats if suffix not in FORMATS]
    if unknown:
        raise ValueError(f"figures are written as {', '.join(FORMATS)}, not {', '.join(unknown)}")
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": "circa_train", "Comment": command},
        "svg": {"Description": command, "Date": None},
        "pdf": {"Creator": "circa_train", "Subject": command, "CreationDate": None},
    }
    written = []
    for suffix in formats:
        target = Path(path).with_name(f"{Path(path).name}.{suffix}")
        draw = partial(figure.savefig, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata[suffix])
        with matplotlib.rc_context({"svg.hashsalt": "circa_train", "pdf.fonttype": 42}), _quiet_fonts():
            write_file(target, draw)
        written.append(target)
    return written


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """A PDF holds parts of fonts, and fontTools logs each part that it keeps or drops: hundreds of lines."""
    logger = logging.getLogger("fontTools")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)
