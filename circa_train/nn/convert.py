"""Networks meet faults: every ReLU call becomes a stochastic one, and back.

The network is traced, its graph rewritten, and the result returned as a module of its own that shares the
parameters and the submodules of the given one under the same ``state_dict`` keys. Models know nothing of
faults; this is the one place where the two meet.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from circa_train.fault import NoFault, SignTest
from circa_train.nn.activation import StochasticReLU
from circa_train.nn.blocks import HOOKS, copy_hooks
from circa_train.nn.control import check_sites, frac_bits_by_site, specs_by_site, stochastic_relus
from circa_train.nn.mirror import adopt_state, ancestors, attach_constant, like, mirror
from circa_train.nn.module_tree import put_module
from circa_train.nn.rescaled import RescaledReLU
from circa_train.nn.tracing.boundaries import Boundaries
from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.in_place import makes_new_memory, redirect_in_place
from circa_train.nn.tracing.leaves import refuse_programs
from circa_train.nn.tracing.recognition import input_of
from circa_train.nn.tracing.relu_calls import relu_calls
from circa_train.nn.tracing.trace import trace
from circa_train.nn.trial import try_out

__all__ = ["ConversionError", "StochasticNetwork", "with_exact_relus", "with_stochastic_relus"]


class StochasticNetwork(fx.GraphModule):
    """A network whose ReLUs are :class:`StochasticReLU` modules, each at the qualified name of its site.

    Made by :func:`with_stochastic_relus`. It can be trained, moved, compiled, deep-copied, and its
    ``state_dict`` is that of the network it was made from. Hooks of the network and of its modules run in it,
    too; hooks may be registered on it and on its modules as on any other.
    """

    def __init__(self, tree: nn.Module, graph: fx.Graph, original: nn.Module) -> None:
        super().__init__(tree, graph, type(original).__name__)
        # fx copies only what the graph mentions, in the graph's order; the tree has everything, in the
        # network's own.
        self._parameters, self._buffers, self._modules = tree._parameters, tree._buffers, tree._modules
        self._non_persistent_buffers_set = tree._non_persistent_buffers_set
        self.training = tree.training
        copy_hooks(tree, self)
        self._original = (original,)  # in a tuple, so that it is not registered as a submodule

    def __deepcopy__(self, memo: dict[int, Any]) -> StochasticNetwork:
        tree = nn.Module()
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", *HOOKS):
            setattr(tree, name, copy.deepcopy(getattr(self, name), memo))
        tree.training = self.training
        network = StochasticNetwork(tree, copy.deepcopy(self.graph), copy.deepcopy(self._original[0], memo))
        memo[id(self)] = network
        return network

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the plain network and what stands at each site; unpickling converts again."""
        sites = {name: copy.copy(relu) for name, relu in stochastic_relus(self).items()}
        for relu in sites.values():
            relu.overwrite_as(None)  # which modules to watch is found out again
        return _reconvert, (with_exact_relus(self), sites, self.training)


def with_stochastic_relus(
    model: nn.Module,
    spec: SignTest | Mapping[str, SignTest],
    *,
    frac_bits: int | Sequence[int] | Mapping[str, int | Sequence[int]] = 16,
    seed: int = 0,
    overflow: str = "raise",
    backend: str = "auto",
    other_activations: str = "refuse",
    rescale_bits: int = 0,
    example: Any = None,
) -> StochasticNetwork:
    """A network that computes as ``model`` does, with a stochastic sign test in every ReLU call.

    The returned network shares its parameters and submodules with ``model`` (train one and the other learns;
    ``deepcopy`` first to keep them apart) and has the same ``state_dict`` keys. A network that is stochastic
    already is converted anew. ``model`` itself is left as it was.

    Inference on a CPU (no gradients) writes a site's result over its input where the graph says that nobody
    else reads it, and no hook of the site or of the module before it does; ``overwrite_input`` of the site
    tells more.

    Args:
        model: any network that torch.fx can trace.
        spec: the sign test of all sites, or ``{site name: spec}`` that names every site (:func:`relu_sites`
            lists them).
        frac_bits: fraction bits of the values that the sign tests see: one number, or ``{site name: a number,
            or one per channel}`` that names every site. :func:`fit_frac_bits` finds the largest safe number,
            :func:`fit_scales` those of every channel.
        seed: of the masks. Sites are numbered in the order of execution, so each draws masks of its own.
        overflow: ``raise``, ``wrap`` or ``saturate``.
        backend: ``auto``, ``reference``, ``cpu`` or ``triton``; all give the same bits.
        other_activations: ``refuse`` (default) or ``keep`` activations that are not ReLUs.
        rescale_bits: low bits of its fixed-point values that every site drops, as two parties do before the
            next linear layer (:mod:`circa_train.nn.rescaled`); 0 passes activations on as they are.
        example: a small batch as the network takes it (a tensor, or a tuple of arguments). With it the
            conversion is tried out: without faults it must give the outputs and gradients of ``model``, and
            no step outside of the sites may turn out to be a ReLU (:mod:`circa_train.nn.trial`).

    Raises:
        ConversionError: if the network cannot be traced, holds another activation, or has no ReLU; or if the
            example shows that the conversion is not faithful.
        ValueError: if ``spec`` misses a site or names one that does not exist.

    Example:
        >>> network = with_stochastic_relus(model, TruncatedSign(k=12), frac_bits=16, seed=0)
        >>> network.train()   # continue training as normal
    """
    if isinstance(model, StochasticNetwork):
        model = with_exact_relus(model)
    graph = trace(model)
    calls = relu_calls(model, graph, other_activations)
    names = [name for name, _ in calls]
    specs, bits = specs_by_site(spec, names), frac_bits_by_site(frac_bits, names)
    network = _converted(
        model,
        graph,
        [
            (node, _site(
                specs[name], rescale_bits, frac_bits=bits[name], seed=seed, site=index, overflow=overflow,
                backend=backend, name=name
            ))
            for index, (name, node) in enumerate(calls)
        ],
    )  # fmt: skip
    if example is not None:
        try_out(model, network, example, refuse_relus=other_activations == "refuse")
    return network


def _site(spec: SignTest, rescale_bits: int, **options: Any) -> StochasticReLU:
    if rescale_bits:
        return RescaledReLU(spec, bits=rescale_bits, **options)
    return StochasticReLU(spec, **options)


def as_stochastic(model: nn.Module) -> nn.Module:
    """``model`` itself if it has stochastic sites, else a converted view of it without faults: to look at its
    sites. Activations that are not ReLUs are kept in it; ReLUs that are written by hand are refused, as they
    would be missing.
    """
    refuse_programs(model)
    if stochastic_relus(model):
        return model
    graph = trace(model)
    calls = relu_calls(model, graph, "keep", handwritten="refuse")
    return _converted(
        model,
        graph,
        [
            (node, StochasticReLU(NoFault(), site=index, name=name))
            for index, (name, node) in enumerate(calls)
        ],
    )


def with_exact_relus(model: nn.Module) -> nn.Module:
    """The inverse of :func:`with_stochastic_relus`: the plain network again, with the parameters as they are
    now.

    A converted network gives back the very object it was made from, which takes over the tensors and modes of
    the converted one. Of any other module that holds stochastic parts a copy is returned with plain ones in
    their places; it shares parameters and all other modules, and the given one is left as it was. A network
    without any is returned as it is.
    """
    if isinstance(model, StochasticNetwork):
        original = model._original[0]
        adopt_state(original, model)
        return original
    if isinstance(model, StochasticReLU):
        relu = nn.ReLU().train(model.training)
        copy_hooks(model, relu)
        return relu
    if not any(isinstance(part, (StochasticNetwork, StochasticReLU)) for part in model.modules()):
        return model
    plain = copy.copy(model)  # a new object with the same attributes ...
    for name, value in vars(model).items():
        if isinstance(value, (dict, set, list)):  # ... whose containers are its own
            vars(plain)[name] = copy.copy(value)
    for name, child in model._modules.items():
        plain._modules[name] = None if child is None else with_exact_relus(child)
    return plain


def _converted(
    model: nn.Module, graph: fx.Graph, sites: list[tuple[fx.Node, StochasticReLU]]
) -> StochasticNetwork:
    """The network of a traced graph, each of the given nodes replaced by the site beside it."""
    modules = dict(model.named_modules(remove_duplicate=False))
    boundaries = Boundaries(graph)
    new = {str(node.target): node.meta["new_module"] for node in graph.nodes if "new_module" in node.meta}
    new |= {relu.name: like(relu, model) for _, relu in sites}
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    tree = mirror(model, called - boundaries.paths(), boundaries.paths() | ancestors({*called, *new}))
    for path, module in new.items():
        put_module(tree, path, module)
    for node in graph.nodes:
        if "constant" in node.meta:
            attach_constant(tree, str(node.target), node.meta["constant"])
    crossed = {relu.name: boundaries.crossed(input_of(node), node) for node, relu in sites}
    for node, relu in sites:
        if node.op == "call_module":
            _take_over(modules[str(node.target)], relu)
        redirected = redirect_in_place(node, modules)
        source = input_of(node)
        if len(source.users) == 1 and makes_new_memory(source, modules):
            producer = [modules[str(source.target)]] if source.op == "call_module" else []
            relu.overwrite_input(*producer, *(tree.get_submodule(path) for path in crossed[relu.name]))
        with graph.inserting_after(node):
            replacement = graph.call_module(relu.name, (source,))
        node.replace_all_uses_with(replacement)
        boundaries.replaced(node, replacement, source if redirected else None)
        graph.erase_node(node)
    boundaries.insert(modules)
    network = StochasticNetwork(tree, graph, model)
    for name, module in network.named_modules():
        owner = name if name in modules else name.rpartition(".")[0]
        module.training = modules[owner].training
    return network


def _reconvert(model: nn.Module, sites: dict[str, StochasticReLU], training: bool) -> StochasticNetwork:
    network = with_stochastic_relus(
        model, {name: relu.spec for name, relu in sites.items()}, other_activations="keep"
    )
    fresh = stochastic_relus(network)
    check_sites(network, sites)
    for name, relu in sites.items():
        relu.overwrite_as(fresh[name])
        put_module(network, name, relu)
    return network.train(training) if training != network.training else network


def _take_over(given: nn.Module, relu: StochasticReLU) -> None:
    """A site that replaces a module runs that module's hooks, and is in its mode."""
    copy_hooks(given, relu)
    relu.training = given.training
