"""One look for all figures: colours that the colour-blind tell apart, and a marker and a dash of its own for
each series.

The palette is Okabe and Ito's (2008). Printed in grey, markers and dashes still tell the series apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circa_train.files import write_file

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)), (0, (1, 2)))

GREY = "#555555"

#: The modes of a truncated sign, in the order and with the names that figures show them.
MODE_NAMES = {"poszero": "PosZero", "negpass": "NegPass"}
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


def mode_name(mode: object) -> str:
    return MODE_NAMES.get(str(mode), str(mode))


def mode_rank(mode: object) -> int:
    """Sort key: PosZero, NegPass, then anything else."""
    return list(MODE_NAMES).index(str(mode)) if str(mode) in MODE_NAMES else len(MODE_NAMES)


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 4.2, **options: Any
) -> tuple[Figure, Any]:
    """A figure (inches) with its axes, without pyplot; ``options`` go to ``Figure.subplots``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def dress(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Labels, a light grid behind the data, no box."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(
    figure: Figure, path: str | os.PathLike[str], *, command: str, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write ``path`` with each format's suffix, atomically; ``command`` goes into the metadata.

    The same figure gives the same bytes: no date, and fixed identifiers in SVG.

    Raises:
        ValueError: for a format other than png and svg.
    """
    _check_formats(formats)
    written = []
    for suffix in formats:
        target = Path(path).with_name(f"{Path(path).name}.{suffix}")
        metadata = (
            {"Software": "circa_train", "Comment": command}
            if suffix == "png"
            else {"Description": command, "Date": None}
        )
        draw = partial(figure.savefig, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)
        with matplotlib.rc_context({"svg.hashsalt": "circa_train"}):
            write_file(target, draw)
        written.append(target)
    return written


def _check_formats(formats: Iterable[str]) -> None:
    unknown = [suffix for suffix in formats if suffix not in ("png", "svg")]
    if unknown:
        raise ValueError(f"figures are written as png and svg, not {', '.join(unknown)}")
