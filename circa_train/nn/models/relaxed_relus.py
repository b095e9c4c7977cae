"""ReLUs between ReLU and identity, so that which of them stay can be learned by gradient.

A relaxed ReLU computes, for one number alpha in [0, 1] per element or per channel,

    y = alpha * max(0, x) + (1 - alpha) * x = x + alpha * max(0, -x)

It is the ReLU at alpha = 1 and the identity at alpha = 0, to the last bit, and so what ``MaskedReLU`` makes
of the same mask (Cho et al., "Selective Network Linearization for Efficient Private Inference", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.nn.control import stochastic_relus
from circa_train.nn.models.kept_relus import relu_shapes
from circa_train.nn.models.reduction import MaskedReLU, masked_relu
from circa_train.nn.module_tree import put_module
from circa_train.nn.sites import relu_sites


class RelaxedReLU(nn.Module):
    """y = x + alpha max(0, -x).

    Args:
        shape: of one image's activation.
        granularity: ``pixel`` has an alpha for every element, ``channel`` one for each channel.

    Attributes:
        alpha: of the activation's shape or (C, 1, 1), all 1 at first. It is neither a parameter nor a buffer:
            whoever learns it owns it. So the network's ``state_dict``, optimiser and weight decay do not
            meet it.
        relus: ReLUs per alpha.
        replaced: the ReLU that was here before, in a tuple so that it is not registered as a submodule.
    """

    def __init__(
        self, shape: Sequence[int], granularity: str, device: torch.device, replaced: nn.Module | None = None
    ) -> None:
        super().__init__()
        own = tuple(shape) if granularity == "pixel" else (shape[0], *[1] * (len(shape) - 1))
        self.shape = tuple(shape)
        self.replaced = (replaced or nn.ReLU(),)
        self.alpha = torch.ones(own, device=device, requires_grad=True)
        self.relus = torch.Size(shape).numel() // self.alpha.numel()

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> the same shape."""
        return torch.addcmul(x, self.alpha.to(x.dtype), F.relu(-x))

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{tuple(self.alpha.shape)} for {self.shape}"


def relax_relus(model: nn.Module, input_shape: Sequence[int], granularity: str) -> dict[str, RelaxedReLU]:
    """Put a :class:`RelaxedReLU` in the place of every ReLU of ``model``; they are returned by site, in the
    order they run.

    Args:
        model: a plain network, changed in place. Its ReLUs are ``nn.ReLU`` modules, each called once.
        input_shape: (C, H, W) of one image.
        granularity: ``pixel`` or ``channel``.

    Raises:
        ValueError: for a network without ReLUs, with masks or sign tests already, or with ReLUs that are no
            modules; the network is as it was then.
    """
    if stochastic_relus(model):
        raise ValueError(
            "which ReLUs stay is learned with exact ReLUs, and this network has sign tests in their places; "
            "reduce it first (with_exact_relus, or fault=none) and fine-tune the result with the faults"
        )
    if any(isinstance(module, MaskedReLU) for module in model.modules()):
        raise ValueError(
            "this network has masks over its ReLUs already; start from the full network, or from one that "
            "lost whole sites only"
        )
    shapes = relu_shapes(model, input_shape)
    if not shapes:
        raise ValueError(
            "there is no ReLU to remove: this network has no nn.ReLU module (F.relu calls cannot be "
            "replaced; make them modules)"
        )
    others = [site for site, _ in relu_sites(model, input_shape) if site not in shapes]
    if others:
        raise ValueError(
            f"the ReLUs {', '.join(others)} are no nn.ReLU modules and cannot be replaced; make them modules"
        )
    device = next(model.parameters(), torch.zeros(())).device
    relaxed = {
        site: RelaxedReLU(shape, granularity, device, model.get_submodule(site))
        for site, shape in shapes.items()
    }
    for site, relu in relaxed.items():
        put_module(model, site, relu)
    return relaxed


def harden_relus(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> None:
    """End what :func:`relax_relus` began: put in the place of every relaxed ReLU what ``reduce_relus`` makes
    of its mask; without masks, the ReLU that was there.
    """
    relaxed = {name: each for name, each in model.named_modules() if isinstance(each, RelaxedReLU)}
    for site, relu in relaxed.items():
        (hard,) = relu.replaced
        if masks is not None and not bool(masks[site].all()):
            hard = masked_relu(masks[site]).to(relu.alpha.device)
        put_module(model, site, hard.train(relu.training))
