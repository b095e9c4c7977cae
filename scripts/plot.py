#!/usr/bin/env python3
"""Collect results into one table, and draw every figure for which there is data: ``plot.py
runs=runs/sweeps/truncation``.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from circa_train.config import config_folder, entry, run_tool
from circa_train.config.schema import PlotConfig


def plot(config: PlotConfig, command: str) -> None:
    """Write ``results.csv`` and the figures into ``config.out``, and print what was found."""
    from circa_train.plots import gallery, save_figure
    from circa_train.runs.table import collect, select, site_rows, write_csv
    from circa_train.runs.text import describe_collection, table

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
    print(table(rows))
    for name, reason in drawn.left_out.items():
        print(f"not drawn: {name}: {reason}")
    print("written:", *(f"  {path}" for path in written), sep="\n")


@entry
@hydra.main(version_base="1.3", config_path=config_folder(), config_name="plot")
def main(cfg: DictConfig) -> None:
    command = shlex.join(["scripts/plot.py", *HydraConfig.get().overrides.task])
    run_tool(cfg, lambda config: plot(config, command))


if __name__ == "__main__":
    main()
