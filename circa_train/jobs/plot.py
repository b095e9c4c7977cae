"""One table of all results, and every figure for which there is data: the work of ``scripts/plot.py``."""

from __future__ import annotations

from pathlib import Path

from circa_train.jobs.settings import PlotConfig
from circa_train.plots import gallery, save_figure
from circa_train.runs import collect, describe_collection, format_rows, select, site_rows, write_csv


def work(config: PlotConfig, command: str) -> None:
    """Write ``results.csv`` and the figures into ``config.out``, and print what was found.

    Args:
        config: what to collect, and where to write.
        command: goes into the figures' metadata.
    """
    folders = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    found = collect(*folders)
    print(describe_collection(found))
    if not found.rows:
        raise ValueError(
            f"no finished result below {', '.join(map(str, folders))}; run scripts/evaluate.py first"
        )
    rows = select(found.rows, config.where)
    sites = select(site_rows(found), config.where) if site_rows(found) else []
    out = Path(config.out)
    written = [write_csv(rows, out / "results.csv")]
    drawn = gallery(rows, sites, tolerance=config.tolerance)
    for name, figure in drawn.figures.items():
        written += save_figure(figure, out / name, command=command, formats=config.formats)
    print(format_rows(rows))
    for name, reason in drawn.left_out.items():
        print(f"not drawn: {name}: {reason}")
    print("written:", *(f"  {path}" for path in written), sep="\n")
