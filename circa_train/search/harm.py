"""What a truncation at a site will do to the answers, foretold by the exact law, without running the network.

For a site with recorded activations z and importances g^2 (:mod:`circa_train.nn.site_values`) the law gives,
for every sign test and scale,

    D = mean of g^2 z^2 (P + c P^2),    P = P(gate wrong | z),

since a fault moves an activation by |z|, whatever its direction; the systematic part counts more
(:mod:`circa_train.nn.scales`). Errors of different values and sites add up as long as they are small, so

    harm(allocation) = sum over sites of  D(k) ReLUs / 2

is, for c = 0, the divergence KL(answer without faults, answer with them) of an image to second order. Harm
ranks candidates; only network runs accept them.
"""

from __future__ import annotations

from collections.abc import Sequence

from circa_train.cost import network_cost
from circa_train.search.allocation import Tables
from circa_train.search.choices import Choices


def tables_of(choices: Choices, sites: Sequence[tuple[str, int]]) -> Tables:
    """Cost and harm of every k at every site, for sites (name, ReLUs per image)."""
    return Tables(
        gates=tuple(
            tuple(network_cost([site], spec, accounting="tables").and_gates for spec in specs)
            for site, specs in zip(sites, choices.specs, strict=True)
        ),
        harm=tuple(
            tuple(error * relus / 2 for error in errors)
            for (_, relus), errors in zip(sites, choices.errors, strict=True)
        ),
    )
