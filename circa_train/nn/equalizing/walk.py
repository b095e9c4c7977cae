"""Through the traced graph with an example: at every step, whose scale each element of its result has.

The values are computed as the network computes them, for their shapes; beside each stands the tensor of
numbers that :mod:`circa_train.nn.equalizing.ties` is about. What a step does to the numbers is a rule
(:mod:`circa_train.nn.equalizing.rules`). A step without a rule keeps the scales of all that it reads and
makes, and is named: nothing is rescaled on trust.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from circa_train.nn.blocks import block_begins, block_ends
from circa_train.nn.equalizing.ties import ZERO, Ties, compact
from circa_train.nn.tracing.recognition import place_of, short_name

#: Functions that make tensors of zeros, which agree with any scale.
MAKES_ZEROS = ("zeros", "zeros_like", "new_zeros")

#: Functions that make other tensors in the shape, or of the type, of one whose values they do not read.
_MAKES = {
    *MAKES_ZEROS, "ones_like", "new_ones", "full_like", "new_full", "rand_like", "randn_like", "empty_like",
    "new_empty", "new_tensor",
}  # fmt: skip

#: What is asked of a tensor without looking at its values.
_ABOUT = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "len", "get_device",
    "storage_offset", "is_contiguous",
}  # fmt: skip
_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "is_cuda", "layout", "requires_grad", "itemsize"}


@dataclass(eq=False)
class Value:
    """A tensor of the network on the example, and the number of the channel that each element belongs to.

    ``parameter`` is its qualified name, if it is a parameter.
    """

    real: Tensor
    numbers: Tensor
    parameter: str | None = None


@dataclass(frozen=True)
class Step:
    """A node that is being executed, with its arguments and its result.

    Attributes:
        what: class of the module, or bare name of the function.
        where: how messages call it.
        args, kwargs: arguments; floating-point tensors of the network are of :class:`Value`.
        result: what it computed.
    """

    node: fx.Node
    what: str
    where: str
    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def argument(self, place: int, *names: str, default: Any = None) -> Any:
        """An argument by its place or one of its names; modules are asked for their attribute instead."""
        if self.module is not None:
            return next((getattr(self.module, name) for name in names if hasattr(self.module, name)), default)
        if len(self.args) > place:
            return self.args[place]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    @property
    def source(self) -> Any:
        """The first argument."""
        return self.args[0] if self.args else self.kwargs.get("input", self.kwargs.get("tensors"))

    @property
    def values(self) -> list[Value]:
        """All tensors of the network among the arguments."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Value)]


@dataclass
class Absorbing:
    """A parameter that takes scales: it is multiplied by those of ``times``, divided by those of ``over``.

    Both hold numbers of channels and broadcast to the parameter; None divides by nothing.
    """

    times: Tensor
    over: Tensor | None = None


#: A rule: the numbers of a step's result, in its structure; None if this step follows no rule after all.
Rule = Callable[["Walk", Step], Any]


@dataclass
class Found:
    """What the walk collects.

    Attributes:
        parameters: those that take scales, by qualified name.
        makers: numbers of the channels that each layer gives their scale, by the layer's name.
        readers: numbers of the channels that each layer divides by.
        sites: numbers of one image's elements at each ReLU, by the site's name.
    """

    parameters: dict[str, Absorbing] = field(default_factory=dict)
    makers: dict[str, Tensor] = field(default_factory=dict)
    readers: dict[str, Tensor] = field(default_factory=dict)
    sites: dict[str, Tensor] = field(default_factory=dict)


class Walk(fx.Interpreter):
    """One run of a traced graph.

    Args:
        model: the plain network.
        graph: its trace.
        sites: names of its ReLU calls, by node.
        rules: by class of a module, or bare name of a function.
        hooked: names of modules with hooks, which may look at what passes, or change it.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        sites: Mapping[fx.Node, str],
        rules: Mapping[str, Rule],
        hooked: Collection[str],
    ) -> None:
        super().__init__(model, garbage_collect_values=not hooked, graph=graph)
        self.ties = Ties()
        self.found = Found()
        self.sites = sites
        self.rules = rules
        self.hooked = hooked
        named = list(model.named_parameters(remove_duplicate=False))
        self.names = {id(parameter): name for name, parameter in reversed(named)}
        self._pins: dict[str, str] = {}
        self._absorbed: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            return self._fixed(super().run_node(n), "it is the network's input")
        if n.op == "get_attr":
            return self._held(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            self.freeze(args, "it is the network's output")
            return args[0]
        module = self._module(n) if n.op == "call_module" else None
        called = _real((args, kwargs))
        if module is not None:
            result = module(*called[0], **called[1])
        elif n.op == "call_method":
            result = getattr(called[0][0], str(n.target))(*called[0][1:], **called[1])
        elif n.target is operator.getitem and not isinstance(args[0], Value):
            return args[0][args[1]]  # out of a tuple, whose parts have their numbers already
        else:
            assert callable(n.target)
            result = n.target(*called[0], **called[1])
        what = short_name(n) if module is None else type(module).__name__
        step = Step(n, what, f"{what} at {place_of(n)}", module, args, kwargs, result)
        if n in self.sites and isinstance(step.source, Value):
            self.found.sites[self.sites[n]] = step.source.numbers[0]
        return self._numbered(step)

    def absorb(self, parameter: Tensor | None, times: Tensor, over: Tensor | None = None) -> None:
        """Note that a parameter takes these scales; used at several places, it takes the same at all."""
        if parameter is None:
            return
        self._absorbed.add(self.names[id(parameter)])
        known = self.found.parameters.setdefault(self.names[id(parameter)], Absorbing(times, over))
        if known.times is not times:
            known.times = self.ties.tie(known.times, times)
            if (known.over is None) != (over is None) or known.times.shape != times.shape:
                raise AssertionError("a parameter is used in two ways; rules refuse that before")
            if known.over is not None and over is not None:
                known.over = self.ties.tie(known.over, over)

    def fits(self, parameter: Tensor | None, times: tuple[int, ...], divided: bool) -> bool:
        """Whether a parameter can take scales of this shape: it is one, and was not used in another way."""
        if parameter is None:
            return True
        known = self.found.parameters.get(self.names.get(id(parameter), ""))
        ours = id(parameter) in self.names and parameter.is_floating_point()
        same = known is None or (known.times.shape == times and (known.over is not None) == divided)
        return ours and same

    def finish(self) -> Found:
        """Run to the end; then freeze what takes scales and is used otherwise, too."""
        for name, reason in self._pins.items():
            if name in self.found.parameters:
                absorbing = self.found.parameters[name]
                for numbers in (absorbing.times, absorbing.over):
                    if numbers is not None:
                        self.ties.freeze(numbers, reason)
        return self.found

    def _module(self, n: fx.Node) -> nn.Module:
        if "new_module" in n.meta:
            module: nn.Module = n.meta["new_module"]
            return module
        return self.module.get_submodule(str(n.target))

    def _held(self, n: fx.Node) -> Any:
        """A parameter, a buffer or a constant: it is what it is, whatever scales its readers have."""
        value = n.meta.get("constant")
        if value is None:
            value = self.fetch_attr(str(n.target))
        made = self._fixed(value, f"it meets {n.target}, which is not rescaled")
        if isinstance(made, Value):
            made.parameter = self.names.get(id(value))
        return made

    def _numbered(self, step: Step) -> Any:
        """The result of a step with its numbers, by its rule."""
        if step.node.target in (block_begins, block_ends):
            return self._passed_hooks(step.node)
        if step.what in _ABOUT or (step.node.target is getattr and step.args[1] in _ATTRIBUTES):
            return step.result
        rule = self.rules.get(step.what) or self.rules.get(step.what.rstrip("_"))
        if not step.values or step.what in _MAKES:
            numbers = rule(self, step) if rule is not None and step.what in MAKES_ZEROS else None
            if numbers is None:
                return self._fixed(step.result, f"it meets what {step.where} makes, which is not rescaled")
            return _paired(step.result, numbers)
        self._absorbed.clear()
        numbers = None if rule is None else rule(self, step)
        made = None if numbers is None else _paired(step.result, numbers)
        if made is None:
            return self._unknown(step)
        self._pin(step)
        if step.node.op == "call_module" and str(step.node.target) in self.hooked:
            self.freeze([step.values, made], f"a hook of {step.node.target} sees it")
        if _in_place(step):
            self._check_in_place(step, made)
        return made

    def _passed_hooks(self, mark: fx.Node) -> None:
        """At the begin or the end of a block: if it has hooks, they see what is passed."""
        begin = mark.meta.get("begin", mark)
        if begin.meta["path"] in self.hooked:
            passed: list[fx.Node] = []
            meta = mark.meta
            fx.node.map_arg((meta.get("args"), meta.get("kwargs"), meta.get("result")), passed.append)
            self.freeze([self.env[node] for node in passed], f"a hook of {begin.meta['path']} sees it")

    def _pin(self, step: Step) -> None:
        """Parameters that the step uses as they are, while another may rescale them."""
        module = step.module
        used = [] if module is None else [self.names.get(id(p), "") for p in module.parameters()]
        for name in (*used, *(value.parameter for value in step.values)):
            if name and name not in self._absorbed:
                self._pins.setdefault(name, f"{step.where} uses the same parameter, {name}, as it is")

    def _unknown(self, step: Step) -> Any:
        """A step without a rule: everything that it reads and makes keeps its scale."""
        reason = f"{step.where} reads it, which is not known to be homogeneous"
        self.freeze(step.values, reason)
        self._absorbed.clear()
        self._pin(step)
        if _in_place(step):
            self._forget_zeros(step)
        return self._fixed(step.result, f"{step.where} makes it")

    def _check_in_place(self, step: Step, made: Any) -> None:
        """Whoever reads the changed memory under its old name must find there what the old numbers say."""
        target = step.source
        if not isinstance(target, Value) or not isinstance(made, Value):
            return
        old, new = target.numbers, made.numbers
        if old.shape != new.shape or not torch.equal(self.ties.roots(old), self.ties.roots(new)):
            self.freeze([*step.values, made], f"{step.where} changes it in place")
            self._forget_zeros(step)

    def _forget_zeros(self, step: Step) -> None:
        """What was zero before a change in place may no longer be."""
        touched = {value.real.untyped_storage().data_ptr() for value in step.values}
        for leaf in pytree.tree_leaves(list(self.env.values())):
            if isinstance(leaf, Value) and leaf.real.untyped_storage().data_ptr() in touched:
                self.freeze(leaf, f"{step.where} changes it in place")
                fixed = self.ties.fixed(f"{step.where} changes it in place")
                leaf.numbers = torch.where(leaf.numbers == ZERO, fixed, leaf.numbers)

    def freeze(self, values: Any, reason: str) -> None:
        """All channels of the values in a structure keep their scale, for this reason."""
        for leaf in pytree.tree_leaves(values):
            if isinstance(leaf, Value):
                self.ties.freeze(leaf.numbers, reason)

    def _fixed(self, result: Any, reason: str) -> Any:
        """The result with one number for each of its tensors, that of a scale which stays."""

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            return Value(leaf, self.ties.fixed(reason).expand(leaf.shape))

        return pytree.tree_map(value, result)


def _real(structure: Any) -> Any:
    """A structure with the tensors in place of the values."""
    return pytree.tree_map(lambda leaf: leaf.real if isinstance(leaf, Value) else leaf, structure)


def _paired(result: Any, numbers: Any) -> Any:
    """The result with its numbers beside it; None if they do not fit."""
    if isinstance(result, Tensor):
        fits = isinstance(numbers, Tensor) and numbers.shape == result.shape and result.is_floating_point()
        return Value(result, compact(numbers)) if fits else None
    if (
        isinstance(result, (tuple, list))
        and isinstance(numbers, (tuple, list))
        and len(result) == len(numbers)
    ):
        parts = [_paired(a, b) for a, b in zip(result, numbers, strict=True)]
        return None if any(part is None for part in parts) else type(result)(parts)
    return None


def _in_place(step: Step) -> bool:
    """Whether a step writes into one of its arguments."""
    name = getattr(step.node.target, "__name__", str(step.node.target))
    if step.node.op == "call_module":
        return bool(getattr(step.module, "inplace", False))
    inplace = (name.endswith("_") and not name.endswith("__")) or step.node.target in _AUGMENTED
    return inplace or bool(step.kwargs.get("inplace")) or "out" in step.kwargs


_AUGMENTED = {
    operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.imatmul,
    operator.ifloordiv, operator.imod, operator.ipow, operator.iconcat,
}  # fmt: skip
