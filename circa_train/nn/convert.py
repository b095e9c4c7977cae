"""Networks meet faults: every ReLU call becomes a stochastic one, and back.

The network is traced, its graph rewritten, and the result returned as a module of its own that shares the
parameters and the submodules of the given one under the same ``state_dict`` keys. Models know nothing of
faults; this is the one place where the two meet.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from circa_train.fault import SignTest
from circa_train.nn.activation import StochasticReLU
from circa_train.nn.control import check_sites, specs_by_site
from circa_train.nn.module_tree import put_module
from circa_train.nn.tracing import (
    ConversionError,
    TrainingFlag,
    makes_new_memory,
    redirect_in_place,
    relu_calls,
    trace,
)

__all__ = ["ConversionError", "StochasticNetwork", "with_exact_relus", "with_stochastic_relus"]


class StochasticNetwork(fx.GraphModule):
    """A network whose ReLUs are :class:`StochasticReLU` modules, each at the qualified name of its site.

    Made by :func:`with_stochastic_relus`. It can be trained, moved, compiled, deep-copied, and its
    ``state_dict`` is that of the network it was made from.
    """

    def __init__(self, tree: nn.Module, graph: fx.Graph, original: nn.Module) -> None:
        super().__init__(tree, graph, type(original).__name__)
        # fx copies only what the graph mentions, in the graph's order; the tree has everything, in the
        # network's own.
        self._parameters, self._buffers, self._modules = tree._parameters, tree._buffers, tree._modules
        self._non_persistent_buffers_set = tree._non_persistent_buffers_set
        self.training = tree.training
        self._original = (original,)  # in a tuple, so that it is not registered as a submodule

    def __deepcopy__(self, memo: dict[int, Any]) -> StochasticNetwork:
        tree = nn.Module()
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            setattr(tree, name, copy.deepcopy(getattr(self, name), memo))
        tree.training = self.training
        network = StochasticNetwork(tree, copy.deepcopy(self.graph), copy.deepcopy(self._original[0], memo))
        memo[id(self)] = network
        return network

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the plain network and what stands at each site; unpickling converts again."""
        sites = {name: module for name, module in self.named_modules() if isinstance(module, StochasticReLU)}
        return _reconvert, (with_exact_relus(self), sites, self.training)


def with_stochastic_relus(
    model: nn.Module,
    spec: SignTest | Mapping[str, SignTest],
    *,
    frac_bits: int = 16,
    seed: int = 0,
    overflow: str = "raise",
    backend: str = "auto",
    other_activations: str = "refuse",
) -> StochasticNetwork:
    """A network that computes as ``model`` does, with a stochastic sign test in every ReLU call.

    The returned network shares its parameters and submodules with ``model`` (train one and the other learns;
    ``deepcopy`` first to keep them apart) and has the same ``state_dict`` keys. A network that is stochastic
    already is converted anew.

    Inference on a CPU (no gradients) writes a site's result over its input where the graph says that nobody
    else reads it, and no hook of the site or of the module before it does; ``overwrite_input`` of the site
    tells more.

    Args:
        model: any network that torch.fx can trace.
        spec: the sign test of all sites, or ``{site name: spec}`` that names every site (:func:`relu_sites`
            lists them).
        frac_bits: fraction bits of the values that the sign tests see; :func:`fit_frac_bits` finds the
            largest safe one.
        seed: of the masks. Sites are numbered in the order of execution, so each draws masks of its own.
        overflow: ``raise``, ``wrap`` or ``saturate``.
        backend: ``auto``, ``reference``, ``cpu`` or ``triton``; all give the same bits.
        other_activations: ``refuse`` (default) or ``keep`` activations that are not ReLUs.

    Raises:
        ConversionError: if the network cannot be traced, holds another activation, or has no ReLU.
        ValueError: if ``spec`` misses a site or names one that does not exist.

    Example:
        >>> network = with_stochastic_relus(model, TruncatedSign(k=12), frac_bits=16, seed=0)
        >>> network.train()   # continue training as normal
    """
    if isinstance(model, StochasticNetwork):
        model = with_exact_relus(model)
    graph = trace(model)
    calls = relu_calls(model, graph, other_activations)
    specs = specs_by_site(spec, [name for name, _ in calls])
    modules = dict(model.named_modules(remove_duplicate=False))
    owned = {node.target for node in graph.nodes if node.op == "call_module"}
    tree = _mirror(model, owned)
    for node in graph.nodes:
        if node.op == "call_module" and node.target.endswith("training_flag") and node.target not in modules:
            put_module(tree, node.target, TrainingFlag())
        elif "constant" in node.meta:
            tree.register_buffer(node.target, node.meta["constant"], persistent=False)
    for index, (name, node) in enumerate(calls):
        relu = StochasticReLU(
            specs[name],
            frac_bits=frac_bits,
            seed=seed,
            site=index,
            overflow=overflow,
            backend=backend,
            name=name,
        )
        put_module(tree, name, _like(relu, model))
        redirect_in_place(node, modules)
        source: Any = node.args[0] if node.args else node.kwargs["input"]
        if len(source.users) == 1 and makes_new_memory(source, modules):
            relu.overwrite_input(modules.get(str(source.target)) if source.op == "call_module" else None)
        with graph.inserting_after(node):
            replacement = graph.call_module(name, (source,))
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    graph.lint()
    network = StochasticNetwork(tree, graph, model)
    for name, module in network.named_modules():
        module.training = modules[name].training if name in modules else model.training
    return network


def with_exact_relus(model: nn.Module) -> nn.Module:
    """The inverse of :func:`with_stochastic_relus`: the plain network again, with the parameters as they are
    now.

    A converted network gives back the very object it was made from. In any other module, stochastic parts are
    replaced by their plain counterparts in place. A network without any is returned as it is.
    """
    if isinstance(model, StochasticNetwork):
        original = model._original[0]
        _adopt_state(original, model)
        return original
    if isinstance(model, StochasticReLU):
        return nn.ReLU()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (StochasticNetwork, StochasticReLU)):
                setattr(parent, name, with_exact_relus(child))
    return model


def _reconvert(model: nn.Module, sites: dict[str, StochasticReLU], training: bool) -> StochasticNetwork:
    network = with_stochastic_relus(
        model, {name: relu.spec for name, relu in sites.items()}, other_activations="keep"
    )
    for name, relu in sites.items():
        put_module(network, name, relu)
    check_sites(network, sites)
    return network.train(training) if training != network.training else network


def _mirror(module: nn.Module, leaves: set[str], path: str = "") -> nn.Module:
    """A tree of bare modules with the same names, order, parameters and buffers; what the graph calls is
    shared as it is.
    """
    mirror = nn.Module()
    mirror._parameters = dict(module._parameters)
    mirror._buffers = dict(module._buffers)
    mirror._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for name, child in module._modules.items():
        full = f"{path}.{name}" if path else name
        inside = (
            child is not None and full not in leaves and any(leaf.startswith(f"{full}.") for leaf in leaves)
        )
        mirror._modules[name] = _mirror(child, leaves, full) if inside and child is not None else child
    return mirror


def _like(relu: StochasticReLU, model: nn.Module) -> StochasticReLU:
    """The module on the device of the network's parameters (its buffers stay integers)."""
    parameter = next(model.parameters(), None)
    return relu if parameter is None else relu.to(parameter.device)


def _adopt_state(original: nn.Module, network: nn.Module) -> None:
    """Give ``original`` the tensors and modes of ``network``, which may have been moved or cast since they
    were shared.
    """
    for name, module in network.named_modules():
        try:
            counterpart = original.get_submodule(name)
        except AttributeError:
            continue  # a site of a functional ReLU, or a training flag: the plain network has nothing there
        counterpart.training = module.training
        if counterpart is not module and not isinstance(module, StochasticReLU):
            counterpart._parameters.update(module._parameters)
            counterpart._buffers.update(module._buffers)
