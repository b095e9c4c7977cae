"""What a step of a traced graph computes: a ReLU, a ReLU written by hand, another activation, or neither.

- ``nn.ReLU``, ``F.relu``, ``torch.relu``, ``Tensor.relu`` and their in-place forms are ReLUs.
- A ReLU written by hand compares with zero and puts zeros where the answer is no: ``x * (x > 0)``,
  ``torch.where``, ``masked_fill``, ``clamp(min=0)``, ``max(x, 0)``, ``(x + |x|) / 2``, ``x * sign(x)``. The
  comparison is followed through casts, negations and changes of shape to where it is used. It cannot be
  replaced by itself, as it is several steps.
- Element-wise functions of other kinds (ReLU6, GELU, a clamp at another bound, ...) are other activations.
- Max pooling, softmax and arithmetic are none of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from circa_train.nn.activation import StochasticReLU

RELU_FUNCTIONS = {
    F.relu,
    F.relu_,
    torch.relu,
    torch.relu_,
    torch.ops.aten.relu,
    torch.ops.aten.relu.default,
    torch.ops.aten.relu_,
    torch.ops.aten.relu_.default,
}

ACTIVATION_MODULES = (
    nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Threshold,
    nn.Hardshrink,
    nn.Softshrink, nn.Tanhshrink, nn.GLU,
)  # fmt: skip
ACTIVATION_NAMES = {
    "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "elu", "elu_", "selu", "selu_", "celu",
    "celu_",
    "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "softplus", "softsign",
    "tanh", "tanh_",
    "sigmoid", "sigmoid_", "logsigmoid", "threshold", "threshold_", "hardshrink", "softshrink", "tanhshrink",
    "glu",
    "clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_", "maximum", "heaviside",
    "clamp_max", "minimum", "fmax", "fmin", "gelu_", "silu_", "mish_", "hardswish_", "hardsigmoid_",
    "log_sigmoid", "prelu_kernel",
}  # fmt: skip

_COMPARISONS = ("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal", "signbit")
_SIGNS = ("sign", "sgn", "heaviside", "copysign")
#: Random numbers: what is compared with them is dropped by chance, not by its sign.
_RANDOM = ("rand", "bernoulli", "uniform", "normal", "empty", "new_empty", "multinomial")
#: Where a comparison passes through unharmed: casts, negations, shapes.
_CASTS = {
    "to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "bool", "short", "char",
    "byte", "logical_not", "bitwise_not", "invert", "inv", "not", "neg", "sub", "rsub", "add", "iadd", "isub",
    "clone", "detach", "contiguous", "view", "reshape", "flatten", "unsqueeze", "squeeze", "expand",
    "expand_as", "view_as", "permute", "transpose", "requires_grad", "getattr", "div", "truediv",
    "logical_and", "logical_or", "bitwise_and", "bitwise_or", "and", "or",
}  # fmt: skip
_MASKED = {
    "mul", "imul", "multiply", "where", "masked_fill", "masked_scatter", "masked_select", "addcmul", "einsum",
    "index_put", "putmask", "setitem",
}  # fmt: skip


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is one call of a ReLU."""
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), (nn.ReLU, StochasticReLU))
    if node.op == "call_function":
        return node.target in RELU_FUNCTIONS
    return node.op == "call_method" and node.target in ("relu", "relu_")


def other_activation(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """The name of the activation that a node computes, if it is one and not a ReLU that can be replaced."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return type(module).__name__ if isinstance(module, ACTIVATION_MODULES) else None
    name = short_name(node)
    if node.op not in ("call_function", "call_method"):
        return None
    if name in ACTIVATION_NAMES or name.rstrip("_") in ACTIVATION_NAMES or "relu" in name:
        return name
    if name in ("max", "min") and _of_two(node):
        return name
    return _mask(node) or _absolute(node)


def handwritten_relu(
    node: fx.Node, modules: Mapping[str, nn.Module], constant: Callable[[fx.Node], Tensor | None]
) -> str | None:
    """What :func:`other_activation` says, where that is exactly a ReLU: its bound or comparison is zero, and
    the other side is open.

    ``constant`` gives the tensor of a node that holds one.
    """
    what = other_activation(node, modules)
    if what is None:
        return None
    if node.op == "call_module":
        return what if _module_is_relu(modules[str(node.target)]) else None

    def is_zero(value: Any) -> bool:
        if isinstance(value, fx.Node):
            if short_name(value) in ("zeros_like", "zeros", "new_zeros"):
                return True
            tensor = constant(value)
            return tensor is not None and not bool(tensor.any())
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0

    name = short_name(node)
    operands = [*node.args, *node.kwargs.values()]
    if name in ("clamp", "clip", "hardtanh"):
        low, high = _option(node, 1, "min", "min_val"), _option(node, 2, "max", "max_val")
        open_above = high is None or (isinstance(high, (int, float)) and high == math.inf)
        open_below = low is None or (isinstance(low, (int, float)) and low == -math.inf)
        return what if (is_zero(low) and open_above) or (is_zero(high) and open_below) else None
    if name == "leaky_relu":
        return what if is_zero(_option(node, 1, "negative_slope")) else None
    if name == "threshold":
        return what if is_zero(_option(node, 1, "threshold")) and is_zero(_option(node, 2, "value")) else None
    if name in ("clamp_min", "clamp_max", "max", "min", "maximum", "minimum", "fmax", "fmin"):
        return what if any(is_zero(value) for value in operands) else None
    if name in _COMPARISONS:
        return what if name == "signbit" or any(is_zero(value) for value in operands) else None
    return what if name in _SIGNS or name in ("abs", "absolute") else None


def short_name(node: fx.Node) -> str:
    """The bare name of the function or method that a node calls."""
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target)).split(".")[0].strip("_")
    return str(node.target)


def place_of(node: fx.Node) -> str:
    """Where in the network a node stands, for messages."""
    return (
        str(node.target)
        if node.op == "call_module" and "new_module" not in node.meta
        else f"{node.meta.get('owner') or 'the network'} (node {node.name})"
    )


def input_of(node: fx.Node) -> fx.Node:
    """The tensor that a unary node takes."""
    return node.args[0] if node.args else node.kwargs["input"]  # type: ignore[return-value]


def _option(node: fx.Node, place: int, *names: str) -> Any:
    for name in names:
        if name in node.kwargs:
            return node.kwargs[name]
    return node.args[place] if len(node.args) > place else None


def _of_two(node: fx.Node) -> bool:
    """``max(x, other)``, not ``max(x, dim)``."""
    return isinstance(_option(node, 1, "other"), (fx.Node, Tensor))


def _mask(node: fx.Node) -> str | None:
    """A comparison or a sign that decides, possibly some casts later, what becomes of a value."""
    name = short_name(node).rstrip("_")
    if name not in _COMPARISONS and name not in _SIGNS:
        return None
    random = any(_is_random(source) for source in node.all_input_nodes)
    for user in node.users if random else _users_through_casts(node):
        if short_name(user).rstrip("_") in _MASKED or short_name(user) == "getitem":
            return f"a product with the {'comparison' if name in _COMPARISONS else 'sign'} {name}"
    return None


def _users_through_casts(node: fx.Node) -> Iterator[fx.Node]:
    seen, frontier = {node}, [node]
    while frontier:
        current = frontier.pop()
        for user in current.users:
            if user in seen:
                continue
            seen.add(user)
            yield user
            if short_name(user).rstrip("_") in _CASTS:
                frontier.append(user)


def _is_random(node: fx.Node) -> bool:
    """Whether a node's values were drawn, possibly with some arithmetic afterwards."""
    for _ in range(4):
        if short_name(node).startswith(_RANDOM):
            return True
        if not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return False


def _absolute(node: fx.Node) -> str | None:
    """``x + |x|`` and ``x - |x|``: twice the ReLU of x, or of -x."""
    name = short_name(node).rstrip("_")
    if name not in ("abs", "absolute") or (not node.args and "input" not in node.kwargs):
        return None
    source = input_of(node)
    for user in node.users:
        if short_name(user).rstrip("_") in ("add", "iadd", "sub", "isub", "rsub") and (
            source in user.all_input_nodes
        ):
            return f"a sum with the absolute value {node.name}"
    return None


def _module_is_relu(module: nn.Module) -> bool:
    if isinstance(module, nn.Threshold):
        return module.threshold == 0 and module.value == 0
    if isinstance(module, nn.Hardtanh):
        return module.min_val == 0 and module.max_val == math.inf
    return isinstance(module, nn.LeakyReLU) and module.negative_slope == 0
