"""What an equalization did: scales by channel, what kept its scale and why, and the damage it saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from circa_train.nn.equalizing.groups import NONE, ChannelGroups
from circa_train.nn.equalizing.scaling import apply_scales, reciprocals

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Equalization:
    """The report of :func:`~circa_train.nn.equalize.equalize`.

    Attributes:
        groups: the groups of channels, where their scales went in and out.
        scales: of each group.
        before, after: expected squared error of each site's outputs per image, as the network was and as it
            is now, in units of the network as it was.
        out_of_range: groups that could have been scaled, but for the range of a weight's format, and where.
    """

    groups: ChannelGroups
    scales: tuple[float, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    out_of_range: Mapping[int, str] = field(default_factory=dict)

    def undo(self, model: Network) -> Network:
        """A copy of the rewritten network (or of one with its weights) that has the old scales again."""
        return apply_scales(model, self.groups, reciprocals(self.scales))

    def site_scales(self) -> dict[str, Tensor]:
        """The scale of each element of one image before each ReLU: float64, by site."""
        table = torch.tensor([*self.scales, 1.0], dtype=torch.float64)
        return {site: table[groups] for site, groups in self.groups.sites.items()}

    def unscaled(self) -> dict[str, tuple[str, ...]]:
        """Sites with channels that had to keep their scale, and the reasons."""
        found = {}
        for site, groups in self.groups.sites.items():
            out = [self.out_of_range[g] for g in torch.unique(groups).tolist() if g in self.out_of_range]
            if reasons := tuple(dict.fromkeys((*self.groups.reasons(site), *out))):
                found[site] = reasons
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row per site: channels, how many could be scaled, exponents, damage before and after."""
        reasons, rows = self.unscaled(), []
        fixed = {*self.groups.kept, *self.out_of_range}
        for site, groups in self.groups.sites.items():
            columns = groups.reshape(len(groups), -1)[:, 0]
            free = torch.tensor([group not in fixed and group != NONE for group in columns.tolist()])
            scales = self.site_scales()[site].log2()
            rows.append(
                {
                    "site": site,
                    "channels": len(columns),
                    "free": int(free.sum()),
                    "lowest": round(float(scales.min()), 3),
                    "highest": round(float(scales.max()), 3),
                    "before": _finite(self.before[site]),
                    "after": _finite(self.after[site]),
                    "why_not": "; ".join(reasons.get(site, ())),
                }
            )
        return rows

    def record(self) -> dict[str, Any]:
        """JSON-ready: the rows, and for each layer the exponents that it multiplies and divides by."""
        table = torch.tensor([*self.scales, 1.0], dtype=torch.float64)
        return {
            "sites": self.rows(),
            "before": _finite(sum(self.before.values())),
            "after": _finite(sum(self.after.values())),
            "multiplied": {
                n: table[g].log2().tolist() for n, g in self.groups.makers.items() if _any(table[g])
            },
            "divided": {
                n: table[g].log2().tolist() for n, g in self.groups.readers.items() if _any(table[g])
            },
        }

    def __str__(self) -> str:
        lines = [f"{'site':<28} {'channels':>8} {'free':>5} {'2^':>9} {'damage before':>14} {'after':>10}"]
        for row in self.rows():
            span, site = f"{row['lowest']:g}..{row['highest']:g}", row["site"]
            lines.append(
                f"{site:<28} {row['channels']:>8} {row['free']:>5} {span:>9} {self.before[site]:>14.4g} "
                f"{self.after[site]:>10.4g}{'  ' + row['why_not'] if row['why_not'] else ''}"
            )
        before, after = sum(self.before.values()), sum(self.after.values())
        lines.append(f"expected squared error per image {before:.4g}, now {after:.4g}")
        return "\n".join(lines)


def _finite(damage: float) -> float | None:
    """For JSON, which has no infinity: None where values leave the field."""
    return damage if math.isfinite(damage) else None


def _any(scales: Tensor) -> bool:
    return bool((scales != 1).any())
