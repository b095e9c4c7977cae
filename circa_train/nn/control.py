"""The switches of a converted network: what reaches all of its stochastic sites at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from circa_train.fault import NoFault, SignTest
from circa_train.fixed_point import FracBits, check_site_frac_bits
from circa_train.nn.activation import StochasticReLU
from circa_train.nn.module_tree import kept_modes


def stochastic_relus(model: nn.Module) -> dict[str, StochasticReLU]:
    """The stochastic sites of a converted network by qualified name, in the order of execution; empty for a
    plain one.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, StochasticReLU)}
    return dict(sorted(found.items(), key=lambda item: item[1].site))


def faulty_relus(model: nn.Module) -> dict[str, StochasticReLU]:
    """The sites that draw faults as they stand: neither ``NoFault`` nor switched off."""
    return {
        name: relu
        for name, relu in stochastic_relus(model).items()
        if relu.faults_enabled and not relu.spec.is_exact
    }


def specs_by_site(spec: SignTest | Mapping[str, SignTest], sites: Iterable[str]) -> dict[str, SignTest]:
    """One spec per site: the same for all, or a mapping that names every site and nothing else (ValueError
    otherwise).
    """
    sites = list(sites)
    if not isinstance(spec, Mapping):
        return dict.fromkeys(sites, spec)
    unknown, missing = sorted(set(spec) - set(sites)), [name for name in sites if name not in spec]
    if unknown:
        raise ValueError(f"no ReLU site is called {', '.join(unknown)}; the sites are {', '.join(sites)}")
    if missing:
        raise ValueError(
            f"no spec for the sites {', '.join(missing)}; a site that is to stay exact is named with "
            "NoFault()"
        )
    return {name: spec[name] for name in sites}


def check_sites(model: nn.Module, names: Iterable[str]) -> None:
    """ValueError if ``names`` are not exactly the stochastic sites of ``model``."""
    specs_by_site(dict.fromkeys(names, NoFault()), stochastic_relus(model))


def set_specs(model: nn.Module, spec: SignTest | Mapping[str, SignTest]) -> None:
    """Put another sign test at every site of a converted network, without tracing it again."""
    relus = stochastic_relus(model)
    for name, site_spec in specs_by_site(spec, relus).items():
        relus[name].set_spec(site_spec)


def frac_bits_by_site(
    frac_bits: int | Sequence[int] | Mapping[str, int | Sequence[int]], sites: Iterable[str]
) -> dict[str, FracBits]:
    """Fraction bits of each site: the same for all, or a mapping that names every site and nothing else.

    Raises:
        ValueError, TypeError: if one is not an int, or a sequence of one per channel, in range; or if the
            mapping names other sites. The site is named.
    """
    sites = list(sites)
    if not isinstance(frac_bits, Mapping):
        return dict.fromkeys(sites, check_site_frac_bits(frac_bits))
    unknown, missing = sorted(set(frac_bits) - set(sites)), [name for name in sites if name not in frac_bits]
    if unknown or missing:
        wrong = f"no ReLU site is called {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
        raise ValueError(f"frac_bits by site: {wrong}; the sites are {', '.join(sites)}")
    found = {}
    for name in sites:
        try:
            found[name] = check_site_frac_bits(frac_bits[name])
        except (ValueError, TypeError) as error:
            raise type(error)(f"site {name}: {error}") from error
    return found


def set_frac_bits(
    model: nn.Module, frac_bits: int | Sequence[int] | Mapping[str, int | Sequence[int]]
) -> None:
    """Let the sign tests of a converted network see other fraction bits, without tracing it again."""
    relus = stochastic_relus(model)
    for name, site_bits in frac_bits_by_site(frac_bits, relus).items():
        relus[name].set_frac_bits(site_bits)


def described_frac_bits(model: nn.Module) -> int | dict[str, FracBits]:
    """The fraction bits of a converted network: one int if all sites have it, else by site."""
    found = {name: relu.frac_bits for name, relu in stochastic_relus(model).items()}
    first = next(iter(found.values()))
    return first if isinstance(first, int) and all(each == first for each in found.values()) else found


def set_draw(model: nn.Module, draw: int, first_image: int = 0) -> None:
    """Choose the next draw of every site, and the number that the next input's first image has in its whole
    batch.

    The same draw gives the same masks again. Parts of a batch that say where they start get the masks that
    they would have in the whole, whatever the batch size or the number of ranks.
    """
    for relu in stochastic_relus(model).values():
        relu.set_draw(draw, first_image)


def set_faults(model: nn.Module, enabled: bool) -> None:
    """Turn the faults of every site on or off; off, each is a plain ReLU that draws nothing."""
    for relu in stochastic_relus(model).values():
        relu.faults_enabled = enabled


def draw_state(model: nn.Module) -> dict[str, list[int]]:
    """Each site's (next draw, first image), to be stored with a checkpoint. Inverse of
    :func:`load_draw_state`.
    """
    return {name: relu.address.tolist() for name, relu in stochastic_relus(model).items()}


def load_draw_state(model: nn.Module, state: Mapping[str, Sequence[int]]) -> None:
    """Restore what :func:`draw_state` returned; ValueError if it belongs to other sites."""
    check_sites(model, state)
    for name, relu in stochastic_relus(model).items():
        relu.set_draw(*state[name])


def fault_buffer_names(model: nn.Module) -> list[str]:
    """Qualified names of the buffers that number draws and count overflows: each rank's own, never to be
    broadcast.
    """
    relus = stochastic_relus(model)
    return [f"{name}.{buffer}" for name, relu in relus.items() for buffer, _ in relu.named_buffers()]


@contextmanager
def site_inputs(model: nn.Module, record: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While open, ``record(site name, pre-activation)`` is called at every stochastic site that runs."""
    handles = [
        relu.register_forward_pre_hook(lambda _, args, name=name: record(name, args[0].detach()))
        for name, relu in stochastic_relus(model).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule gets its own mode back."""
    with kept_modes(model), torch.no_grad():
        model.eval()
        yield


@contextmanager
def without_faults(model: nn.Module) -> Iterator[None]:
    """Exact ReLUs for a while: no faults, and no draw is used up."""
    before = [(relu, relu.faults_enabled) for relu in stochastic_relus(model).values()]
    set_faults(model, False)
    try:
        yield
    finally:
        for relu, enabled in before:
            relu.faults_enabled = enabled

