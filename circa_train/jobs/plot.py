"""One table of all results, every figure for which there is data, and a page with both: the work of
``scripts/plot.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circa_train.files import write_text
from circa_train.jobs.settings import PlotConfig
from circa_train.jobs.tracked import plot_settings, show_plots
from circa_train.plots import gallery, knees, save_figure
from circa_train.report import Content, report_page
from circa_train.runs import Row, collect, describe_collection, format_rows, select, site_rows, write_csv
from circa_train.runs.metrics import METRICS_NAME, read_metrics
from circa_train.runs.sites import allocation_rows
from circa_train.runs.table import Collection

#: The page, beside the figures.
REPORT = "report.html"


def work(config: PlotConfig, command: str) -> None:
    """Write ``results.csv``, ``knees.csv``, the figures and, if asked, ``report.html`` into ``config.out``,
    and print what was found. With ``tracker=wandb_offline`` or ``wandb_online`` Weights & Biases gets the
    same table and figures.

    Args:
        config: what to collect, and where to write.
        command: goes into the figures' metadata and the report.
    """
    mirror = plot_settings(config.tracker, config.formats)
    folders = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    found = collect(*folders)
    print(describe_collection(found))
    if not found.rows:
        raise ValueError(
            f"no finished result below {', '.join(map(str, folders))}; run scripts/evaluate.py first"
        )
    rows = select(found.rows, config.where)
    kept = {row["run"] for row in rows}
    sites, allocations = (
        [row for row in table(found) if row["run"] in kept] for table in (site_rows, allocation_rows)
    )
    out = Path(config.out)
    written = [write_csv(rows, out / "results.csv")]
    if table_of_knees := knees(
        [row for row in rows if row["kind"] == "evaluate"],
        [row for row in rows if row["kind"] == "search"],
        tolerance=config.tolerance,
    ):
        written.append(write_csv(table_of_knees, out / "knees.csv"))
    drawn = gallery(
        rows, sites, allocations=allocations, histories=histories(rows), tolerance=config.tolerance
    )
    for name, figure in drawn.figures.items():
        written += save_figure(figure, out / name, command=command, formats=config.formats)
    if config.report:
        content = Content(
            title=f"Results of {folders[0] if len(folders) == 1 else f'{len(folders)} places'}",
            command=command,
            rows=rows,
            sites=sites,
            allocations=allocations,
            figures=drawn.figures,
            left_out=drawn.left_out,
            remarks=what_gave_nothing(found),
        )
        write_text(out / REPORT, report_page(content))
        written.append(out / REPORT)
    print(format_rows(rows))
    for name, reason in drawn.left_out.items():
        print(f"not drawn: {name}: {reason}")
    if mirror is not None:
        pictures = [path for path in written if path.suffix == ".png"]
        show_plots(mirror, out, rows, pictures, asdict(config))
    print("written:", *(f"  {path}" for path in written), sep="\n")


def what_gave_nothing(found: Collection) -> str:
    """Every file that was skipped and every job that failed, a line each."""
    lines = [f"skipped: {item.path}: {item.reason}" for item in found.skipped]
    lines += [
        f"failed: {item.path} ({' '.join(item.overrides)}): {item.error}: {item.message}"
        for item in found.failures
    ]
    lines += [f"superseded by a newer result of the same command: {path}" for path in found.superseded]
    return "\n".join(lines)


def histories(rows: Sequence[Row]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The metrics of every training of the table, by its folder's name, in the order in which they ended; one
    whose file is gone or damaged has none.
    """
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    trained = [row for row in rows if row["kind"] == "train"]
    for row in sorted(trained, key=lambda row: float(row.get("finished") or 0)):
        folder = Path(row["run"])
        if not (folder / METRICS_NAME).is_file():
            continue
        try:
            found[folder.name if folder.name not in found else str(folder)] = read_metrics(folder)
        except (OSError, ValueError) as error:
            print(f"no training curve of {folder}: {error}")
    return found
