"""Verification of a network in one call, for callers from Python."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from circa_train.evaluation import FIRST_DRAW, kept_draws
from circa_train.gc.aes import Seed
from circa_train.nn import evaluating, relu_sites, set_draw, stochastic_relus
from circa_train.verify.checking import SiteReport, verify_site
from circa_train.verify.sampling import choose_sites, sampled


def verify_network(
    network: nn.Module,
    images: Tensor,
    *,
    sites: str | int | Sequence[str] = "all",
    samples: int = 4096,
    draw: int = FIRST_DRAW,
    transport: str = "memory",
    seed: Seed = None,
) -> list[SiteReport]:
    """Compare the sign tests that a converted network makes on ``images`` with garbled circuits, value by
    value.

    The network is left as it was: its modes, and the draws that its sites would make next.

    Args:
        network: converted, see :func:`circa_train.with_stochastic_relus`.
        images: float (N, C, H, W), normalised as the network takes them.
        sites: ``all``, a name, several names, or how many sites, spread evenly over the network.
        samples: sign tests per site, at most; fewer where the images make fewer.
        draw: number of the draw whose masks are used.
        transport: ``memory``, or ``socket`` for two processes.
        seed: of the parties' secrets; None for real ones.

    Returns:
        A report for every site that can be verified; ``report.agrees`` says that nothing differs.

    Raises:
        ValueError: if the network has no stochastic site, or none that a circuit computes.

    Example:
        >>> all(report.agrees for report in verify_network(network, images))
        True
    """
    relus = stochastic_relus(network)
    if not relus:
        raise ValueError("the network has no stochastic ReLU; convert it with with_stochastic_relus first")
    names, _ = choose_sites({name: relu.spec for name, relu in relus.items()}, sites)
    per_image = dict(relu_sites(network, tuple(images.shape[1:])))
    totals = {name: len(images) * per_image[name] for name in names}
    with kept_draws(network), sampled(network, totals, samples) as taps, evaluating(network):
        set_draw(network, draw)
        network(images)
    return [verify_site(tap.sample, transport=transport, seed=seed) for tap in taps]
