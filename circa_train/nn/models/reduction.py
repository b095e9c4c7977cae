"""Networks with fewer ReLUs, because Circa's cheaper ReLUs stack on the methods that remove them.

A *reduction* says which ReLUs are gone; where one is gone its input passes unchanged. Two published styles:

- whole layers, as DeepReDuce does (Jha et al., ICML 2021): ``stages`` culls every ReLU of a stage,
  ``alternate`` every second one of a stage, ``sites`` those named. A removed ReLU becomes ``nn.Identity``.
- single elements, as SNL does (Cho et al., ICML 2022): ``masks`` keeps, per site, the elements or channels
  that are True. The site becomes a ``MaskedReLU``: gather the kept elements, ReLU, put them back. Its inner
  ``nn.ReLU`` sees exactly the kept elements, so that ReLU counts, faults, circuits and costs are right
  without knowing about masks.

A reduction is a plain dict (or the dataclass), so that a checkpoint can record it:

    {"stages": ["layer1"]}   {"sites": ["layer1.0.relu1"]}   {"alternate": true}   {"alternate": ["layer2"]}
    {"masks": "masks.safetensors"}, or the masks themselves, as ``portable`` writes them

Stages, alternate and sites may be combined, also with masks for the sites that stay. In ``alternate`` the
2nd, 4th, ... site of each stage goes, counted in the order they run and before other removals. Parameters
keep their names, and masks are not part of the ``state_dict``: a full network's checkpoint loads into its
reduced form and back.

A mask of a site whose input is (N, C, H, W) has shape (C,), (C, 1, 1), (1, H, W) or (C, H, W); of (N, F),
shape (F,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from circa_train.nn.models.kept_relus import decode_mask, encode_mask, relu_shapes
from circa_train.nn.models.mask_files import load_masks
from circa_train.nn.module_tree import put_module


@dataclass(frozen=True)
class Reduction:
    """Which ReLUs are gone (see the module's text); equal to nothing removed when all fields are at their
    defaults.
    """

    stages: tuple[str, ...] = ()
    alternate: bool | tuple[str, ...] = False
    sites: tuple[str, ...] = ()
    masks: str | PathLike[str] | Mapping[str, Any] | None = None

    @staticmethod
    def from_value(value: Reduction | Mapping[str, Any]) -> Reduction:
        """Check a plain dict; ``to_value`` is the inverse. ValueError names an unknown key or a wrong
        value.
        """
        if isinstance(value, Reduction):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"a reduction is a dict such as {{'stages': ['layer1']}}, not {value!r}")
        known = ("stages", "alternate", "sites", "masks")
        for key in value:
            if key not in known:
                raise ValueError(f"a reduction has no key {key!r}; it has {', '.join(known)}")
        alternate = value.get("alternate") or False
        return Reduction(
            stages=_names("stages", value.get("stages") or ()),
            alternate=alternate if isinstance(alternate, bool) else _names("alternate", alternate),
            sites=_names("sites", value.get("sites") or ()),
            masks=value.get("masks"),
        )

    def to_value(self) -> dict[str, Any]:
        """The plain dict, without the fields that say nothing; masks given as tensors are encoded."""
        value: dict[str, Any] = {}
        if self.stages:
            value["stages"] = list(self.stages)
        if self.alternate:
            value["alternate"] = True if isinstance(self.alternate, bool) else list(self.alternate)
        if self.sites:
            value["sites"] = list(self.sites)
        if isinstance(self.masks, Mapping):
            value["masks"] = {site: encode_mask(decode_mask(site, mask)) for site, mask in self.masks.items()}
        elif self.masks is not None:
            value["masks"] = str(self.masks)
        return value


def _names(key: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"reduction {key!r} is a list of names, not {value!r}")
    return tuple(value)


def portable(reduction: Reduction | Mapping[str, Any]) -> dict[str, Any]:
    """The reduction as a JSON-readable dict that needs no other file: masks read from a path are written into
    it.

    About 1 bit per masked element before compression; a checkpoint that records this can be loaded anywhere.
    """
    checked = Reduction.from_value(reduction)
    if isinstance(checked.masks, (str, PathLike)):
        checked = Reduction(checked.stages, checked.alternate, checked.sites, load_masks(Path(checked.masks)))
    return checked.to_value()


class MaskedReLU(nn.Module):
    """ReLU on the elements where ``mask`` is True, the identity elsewhere.

    The kept elements are gathered, pass through the inner ``relu`` (the site that conversion sees: its input
    is (N, kept channels, H, W) for a mask of whole channels and (N, kept elements) otherwise) and are put
    back.

    Args:
        mask: bool tensor of the shape of one image's activation, with at least one True.
    """

    kept: Tensor
    channel_of_kept: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if mask.dtype != torch.bool or mask.ndim == 0 or not bool(mask.any()):
            raise ValueError(
                f"a mask is a bool tensor with at least one True, not {mask.dtype} of shape "
                f"{tuple(mask.shape)}"
            )
        flat = mask.reshape(mask.shape[0], -1)
        self.whole_channels = bool((flat.all(1) | ~flat.any(1)).all())
        self.shape = tuple(mask.shape)
        index = flat[:, 0] if self.whole_channels else mask.flatten()
        # Not persistent: the mask belongs to the reduction, which checkpoints record, so the keys stay the
        # full network's.
        self.register_buffer("kept", index.nonzero().flatten(), persistent=False)
        if not self.whole_channels:  # of each kept element, for those who look at channels
            channel_of_kept = self.kept // math.prod(self.shape[1:])
            self.register_buffer("channel_of_kept", channel_of_kept, persistent=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, *mask shape) -> the same shape."""
        if self.whole_channels:
            return x.index_copy(1, self.kept, self.relu(x.index_select(1, self.kept)))
        flat = x.flatten(1)
        flat = flat.index_copy(1, self.kept, self.relu(flat.index_select(1, self.kept)))
        return flat.unflatten(1, self.shape)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        unit = "channels" if self.whole_channels else "elements"
        return f"{len(self.kept)} {unit} of {self.shape}"


def masked_relu(mask: Tensor) -> nn.Module:
    """What stands at a site with this mask, which does not keep all."""
    return MaskedReLU(mask) if bool(mask.any()) else nn.Identity()


def relu_stages(model: nn.Module, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The sites by stage: the model's own ``relu_stages()``, or else grouped by the first part of their
    names.
    """
    own = getattr(model, "relu_stages", None)
    if own is not None:
        return own()
    stages: dict[str, tuple[str, ...]] = {}
    for site in sites:
        stage = site.split(".", 1)[0]
        stages[stage] = (*stages.get(stage, ()), site)
    return stages


def reduce_relus(
    model: nn.Module, reduction: Reduction | Mapping[str, Any], input_shape: Sequence[int]
) -> nn.Module:
    """Replace the ReLUs that ``reduction`` removes, in place; returns the model.

    Args:
        model: a network whose ReLUs are ``nn.ReLU`` modules, each called once.
        reduction: see the module's text.
        input_shape: (C, H, W) of one image.

    Raises:
        ValueError: a stage, site or mask that does not exist or does not fit; the message lists what exists.
    """
    reduction = Reduction.from_value(reduction)
    shapes = relu_shapes(model, input_shape)
    stages = relu_stages(model, tuple(shapes))
    removed: set[str] = set()
    for stage in reduction.stages:
        removed.update(stages[_known("stage", stage, stages)])
    thinned = reduction.alternate
    for stage in stages if thinned is True else thinned or ():
        removed.update(stages[_known("stage", stage, stages)][1::2])
    for site in reduction.sites:
        removed.add(_known("ReLU site", site, shapes))

    replacements: dict[str, nn.Module] = {site: nn.Identity() for site in removed}
    masks = reduction.masks
    if isinstance(masks, (str, PathLike)):
        masks = load_masks(Path(masks))
    for site, value in (masks or {}).items():
        if _known("ReLU site", site, shapes) in removed:
            raise ValueError(f"ReLU site {site!r} has a mask and is removed as well; drop one of the two")
        mask = _fit_mask(site, decode_mask(site, value), shapes[site])
        if not bool(mask.all()):  # else the ReLU that is there stays, whatever it is
            replacements[site] = masked_relu(mask)
    weight = next(model.parameters(), torch.zeros(()))
    for site, module in replacements.items():
        put_module(model, site, module.to(weight.device))
    return model


def _known(kind: str, name: str, names: Mapping[str, Any]) -> str:
    if name not in names:
        raise ValueError(
            f"the reduction names {kind} {name!r}, which does not exist; there are {', '.join(names)}"
        )
    return name


def _fit_mask(site: str, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask in the full shape of one image's activation."""
    if mask.ndim == len(shape) + 1 and mask.shape[0] == 1:
        mask = mask[0]  # published SNL masks carry a batch axis
    if mask.ndim == 1 and len(shape) > 1:
        mask = mask.reshape(-1, *[1] * (len(shape) - 1))
    fits = mask.ndim == len(shape) and all(m in (1, s) for m, s in zip(mask.shape, shape, strict=True))
    if not fits:
        raise ValueError(
            f"the mask of ReLU site {site!r} has shape {tuple(mask.shape)}; the site's shape is {shape}, "
            f"so a mask has {shape} or, for whole channels, ({shape[0]},)"
        )
    return mask.expand(shape)
