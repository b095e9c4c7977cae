"""Selective network linearisation: which ReLUs stay is learned together with the weights
(Cho, Joshi, Reagen, Garg, Hegde, "Selective Network Linearization for Efficient Private Inference", ICML
2022).

A unit u (one ReLU, or a channel of n_u = H W of them) has a number a_u in [0, 1], 1 at first, and computes
x + a_u max(0, -x): the ReLU at 1, the identity at 0. It costs c_u = n_u * (price of a ReLU at its site): its
number of ReLUs, or bytes. Let C be the sum of all c_u, and B the budget.

*What is minimised* while units are chosen: the training loss, distillation included, plus

    lambda * sum over u of (c_u / C) |a_u|

over weights and a together. lambda is thus the loss that all ReLUs together are worth; a unit goes when the
loss cares less for it than for lambda times its share of the cost.

*How a and the weights are updated.* The weights by the training's own optimiser at its peak rate, no penalty
in their gradient. a by Adam at a rate of its own, and after each step it is put back into [0, 1]. (Both
gradients of a are multiplied by the number of units first: Adam does not see common factors, but for its
epsilon.)

*How lambda rises.* Every ``interval`` steps the relaxed cost, sum of c_u a_u, is compared with a plan that
falls on a straight line from C to B over the first E epochs. Where it is above the plan, or the plan is over,
lambda is multiplied by ``growth``; it never falls.

*When and how it is made binary.* At the first such look at which the relaxed cost is B or less: units are
kept in falling order of a_u, none of a_u = 0, until the next would cost more than B in all. a_u becomes 1 for
these and 0 for all others, and stays. (The authors' code keeps a_u > 0.01, and waits until that is few
enough. After many epochs nearly all a_u are 0 or 1, and the two agree; after few, waiting drives a far below
the budget, and what it then puts back to 1 is not the network that was trained.) From the next step on the
training is a fine-tuning of the reduced network: its learning rate follows its schedule over the steps that
are left, and its best weights are chosen by validation accuracy. Images of the test set are looked at
nowhere.

Nothing is drawn at random here, so a replayed training chooses the same units; lambda, a and Adam's state are
in ``last.pt``, so a resumed one does, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from circa_train.nn.models.kept_relus import encode_mask, keep_highest
from circa_train.nn.models.relaxed_relus import RelaxedReLU, harden_relus, relax_relus
from circa_train.training.distributed import Ranks
from circa_train.training.reduction_settings import ReductionSettings


class BudgetNotMet(ValueError):
    """The training had no epoch left for fine-tuning before the ReLUs were few enough."""


class Linearisation:
    """The units of a network, and which of them stay.

    Args:
        model: its ReLUs become relaxed ones, in place.
        settings: see :class:`ReductionSettings`.
        prices: of one ReLU by site, in the units of the budget; None counts ReLUs.
        input_shape: (C, H, W) of one image.
        steps_per_epoch: optimiser steps.
        ranks: their gradients of a are added up.

    Attributes:
        sites: the relaxed ReLUs by name.
        start: the step from which the masks are fixed; None while units are being chosen.
        penalty: lambda.

    Raises:
        ValueError: for a network without ReLUs that could go, a site without a price, or a budget that
            nothing meets or that needs nothing removed.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: ReductionSettings,
        prices: Mapping[str, int] | None,
        *,
        input_shape: Sequence[int],
        steps_per_epoch: int,
        ranks: Ranks,
    ) -> None:
        self.settings, self.ranks = settings, ranks
        self.sites = relax_relus(model, input_shape, settings.granularity)
        self._unit_costs = {site: _price(prices, site) * relu.relus for site, relu in self.sites.items()}
        self.full_cost = sum(self._unit_costs[site] * relu.alpha.numel() for site, relu in self.sites.items())
        _check_budget(settings, self._unit_costs, self.full_cost)
        self._units = sum(relu.alpha.numel() for relu in self.sites.values())
        self._plan_steps = max(round(settings.epochs * steps_per_epoch), 1)
        self.start: int | None = None
        self.penalty = settings.penalty
        self._optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([relu.alpha for relu in self.sites.values()], lr=self.settings.learning_rate)

    @property
    def chosen(self) -> bool:
        """Are the masks fixed?"""
        return self.start is not None

    def share_with(self, copied: nn.Module) -> None:
        """Let a copy of the network have the same alphas: the very tensors, whatever becomes of them."""
        for site, relu in self.sites.items():
            other = copied.get_submodule(site)
            assert isinstance(other, RelaxedReLU)
            other.alpha = relu.alpha

    @torch.no_grad()
    def step(self, done: int) -> None:
        """Move a by the gradients of the backward passes since the last call, ``done`` steps being done with
        this one; look at the cost if it is time to.
        """
        if self.chosen:
            return
        for site, relu in self.sites.items():
            gradient = relu.alpha.grad
            assert gradient is not None
            # A process's loss is scaled for an average over processes, as DistributedDataParallel takes it.
            self.ranks.sum(gradient).mul_(self._units / self.ranks.world_size)
            gradient.add_(self.penalty * self._units * self._unit_costs[site] / self.full_cost)
        self._optimizer.step()
        self._optimizer.zero_grad()
        for relu in self.sites.values():
            relu.alpha.clamp_(0, 1)
        if done % self.settings.interval == 0:
            self._look(done)

    def _look(self, done: int) -> None:
        if self.relaxed_cost() <= self.settings.budget:
            self.start = done
            alphas = {site: relu.alpha.detach() for site, relu in self.sites.items()}
            kept = keep_highest(alphas, self._unit_costs, self.settings.budget)
            self._fix({site: mask & (alphas[site] > 0) for site, mask in kept.items()})
        elif done >= self._plan_steps or self.relaxed_cost() > self.planned_cost(done):
            self.penalty *= self.settings.growth

    def _fix(self, masks: Mapping[str, Tensor]) -> None:
        for site, relu in self.sites.items():
            relu.alpha.requires_grad_(False).copy_(masks[site])
            relu.alpha.grad = None

    def planned_cost(self, done: int) -> float:
        """C at the start, B after E epochs, in between on the line."""
        share = min(done / self._plan_steps, 1.0)
        return self.full_cost - share * (self.full_cost - self.settings.budget)

    def relaxed_cost(self) -> float:
        """The sum of c_u a_u."""
        sums = torch.stack([relu.alpha.detach().sum(dtype=torch.float64) for relu in self.sites.values()])
        return sum(
            cost * each for cost, each in zip(self._unit_costs.values(), sums.tolist(), strict=True)
        )

    def masks(self) -> dict[str, Tensor]:
        """Where a > 0, as a network with fewer ReLUs takes it: (C, 1, 1) for whole channels."""
        return {site: relu.alpha.detach() > 0 for site, relu in self.sites.items()}

    def full_masks(self) -> dict[str, Tensor]:
        """:meth:`masks`, each of the shape of one image's activation."""
        return {site: mask.expand(self.sites[site].shape) for site, mask in self.masks().items()}

    def kept_cost(self) -> int:
        """What the units with a > 0 cost."""
        return sum(
            cost * kept for cost, kept in zip(self._unit_costs.values(), self._kept_units(), strict=True)
        )

    def kept_relus(self) -> int:
        """ReLUs with a > 0, per image: while units are being chosen, those that are no identity yet."""
        return sum(
            relu.relus * kept for relu, kept in zip(self.sites.values(), self._kept_units(), strict=True)
        )

    def _kept_units(self) -> list[int]:
        """By site; one wait for a GPU in all."""
        kept = [mask.sum() for mask in self.masks().values()]
        return [int(each) for each in torch.stack(kept).tolist()]

    def require_met(self, epoch: int, epochs: int) -> None:
        """BudgetNotMet if the last epoch is to begin and units are still being chosen."""
        if not self.chosen and epoch >= epochs - 1:
            raise BudgetNotMet(
                f"reduction: after {epoch} of {epochs} epochs the relaxed ReLUs cost "
                f"{self.relaxed_cost():,.0f} of {self.full_cost:,}; the budget is {self.settings.budget:,}, "
                "and at least the last epoch is for fine-tuning. Give more epochs, or a larger "
                "reduction.penalty, reduction.growth or reduction.learning_rate (the penalty's weight is "
                f"{self.penalty:.3g} by now)"
            )

    def finish(self, model: nn.Module) -> None:
        """Make ``model`` the reduced network, with the modules that its masks would have given it."""
        harden_relus(model, self.full_masks())

    def metrics(self) -> dict[str, float]:
        """For the record of an epoch."""
        return {
            "relus": self.kept_relus(),
            "relu_cost": self.kept_cost(),
            "relaxed_relu_cost": self.relaxed_cost(),
            "relu_penalty": self.penalty,
        }

    def about(self) -> dict[str, Any]:
        """What a file of the masks says of their origin."""
        return {
            "method": "selective network linearisation",
            "settings": asdict(self.settings),
            "cost": self.kept_cost(),
            "full_cost": self.full_cost,
            "chosen_after_steps": self.start,
        }

    def described(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of ``build_model`` for the network as it is now. While units are being chosen there
        is none, and the arguments say so instead.
        """
        if not self.chosen:
            return {"unfinished": f"the ReLUs of {model.get('name')} are being chosen; train it to its end"}
        masks = {site: encode_mask(mask) for site, mask in self.masks().items()}
        return {**model, "reduction": {**(model.get("reduction") or {}), "masks": masks}}

    def state(self) -> dict[str, Any]:
        """For ``last.pt``. Inverse of :meth:`load_state`."""
        return {
            "start": self.start,
            "penalty": self.penalty,
            "alphas": {site: relu.alpha.detach().clone() for site, relu in self.sites.items()},
            "optimizer": None if self.chosen else self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.start, self.penalty = state["start"], state["penalty"]
        for site, relu in self.sites.items():
            relu.alpha.copy_(state["alphas"][site])
        if self.chosen:
            self._fix(self.masks())
        else:
            self._optimizer.load_state_dict(state["optimizer"])


def _price(prices: Mapping[str, int] | None, site: str) -> int:
    if prices is None:
        return 1
    if site not in prices:
        raise ValueError(f"reduction: there is no price for ReLU site {site}; there are {', '.join(prices)}")
    return prices[site]


def _check_budget(settings: ReductionSettings, unit_costs: Mapping[str, int], full: int) -> None:
    least = min(unit_costs, key=lambda site: unit_costs[site])
    if settings.budget < unit_costs[least]:
        raise ValueError(
            f"reduction: budget = {settings.budget:,} cannot be met with a ReLU left: the cheapest unit "
            f"({settings.granularity} of {least}) costs {unit_costs[least]:,}"
        )
    if settings.budget >= full:
        raise ValueError(
            f"reduction: budget = {settings.budget:,} removes nothing: all ReLUs of this network cost "
            f"{full:,}; give less"
        )
