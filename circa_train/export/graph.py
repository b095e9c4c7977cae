"""From the folded, traced network to its list of typed layers; whatever has no layer type is refused by
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from circa_train.export.calls import Call, convert
from circa_train.export.layers import ExportError, Input, Layer, ReLU

INPUT = "input"


@dataclass(frozen=True)
class LayerGraph:
    """The real network as layers.

    Attributes:
        layers: in the order of execution, the input first.
        tensors: float32 weights and biases and int64 indices, by ``<layer>.<tensor>``.
        output: name of the layer whose value is the result.
    """

    layers: tuple[Layer, ...]
    tensors: dict[str, Tensor]
    output: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.layers[0].shape

    @property
    def sites(self) -> tuple[ReLU, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, ReLU))


def layer_graph(folded: fx.GraphModule, input_shape: Sequence[int]) -> LayerGraph:
    """The layers of a network that :func:`~circa_train.export.fold.fold_batch_norms` returned.

    Each node that became a layer gets its name as ``node.meta["layer"]``.

    Args:
        folded: the network.
        input_shape: (C, H, W) or (F,) of one image.

    Raises:
        ExportError: naming the first layer that the format does not have.
    """
    probe = _Probe(folded)
    with torch.no_grad():
        probe.run(torch.zeros(_PROBE_IMAGES, *input_shape))
    layers: list[Layer] = []
    tensors: dict[str, Tensor] = {}
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()
    output = ""
    for node in folded.graph.nodes:
        value = probe.values[node]
        if node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or result not in names:
                raise ExportError(
                    f"the network returns {type(value).__name__}, not one tensor; export a network of one "
                    "output"
                )
            output = names[result]
        elif node.op == "placeholder":
            if layers:
                raise ExportError(
                    f"the network takes a second input {node.target!r}; export a network of one input"
                )
            names[node] = INPUT
            taken.add(INPUT)
            layers.append(Input(INPUT, (), tuple(input_shape)))
        elif isinstance(value, _Shape) and node.op != "get_attr":
            call = _resolve(node, value, names, probe, folded, taken)
            made = convert(call)
            if not made:  # the value itself, unchanged
                names[node] = call.inputs[0]
                continue
            layer = made[-1]
            names[node] = layer.name
            layers += made
            taken.update(other.name for other in made)
            tensors.update({f"{layer.name}.{key}": tensor.detach() for key, tensor in call.tensors.items()})
        if node in names:
            node.meta["layer"] = names[node]
    return LayerGraph(tuple(layers), tensors, output)


_PROBE_IMAGES = 2


class _Shape(tuple):
    """The shape of a tensor that the network computes, the batch included."""


class _Probe(fx.Interpreter):
    """Runs the network once and keeps, of every node, the shape if it is a computed tensor, and else the
    value.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        computed = isinstance(result, Tensor) and n.op != "get_attr"
        self.values[n] = _Shape(result.shape) if computed else result
        return result


def _resolve(
    node: fx.Node,
    shape: _Shape,
    names: dict[fx.Node, str],
    probe: _Probe,
    folded: fx.GraphModule,
    taken: set[str],
) -> Call:
    module = folded.get_submodule(str(node.target)) if node.op == "call_module" else None
    function = getattr(node.target, "__name__", str(node.target)).strip("_")
    what = function if module is None else type(module).__name__
    owner = node.meta.get("owner")
    if "site" in node.meta:
        wanted = node.meta["site"][0]
    else:
        wanted = str(node.target) if module is not None else f"{owner}.{function}" if owner else function
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    taken.add(name)
    sources = [source for source in node.all_input_nodes if source in names]
    # Of x + x, all_input_nodes names x once; the arguments themselves say twice.
    if (
        what in ("add", "iadd")
        and len(sources) == 1
        and sum(argument is sources[0] for argument in node.args) == 2
    ):
        sources *= 2

    def value(argument: fx.Node) -> Any:
        return argument if argument in names else probe.values[argument]

    call = Call(
        name=name,
        what=what,
        inputs=tuple(names[source] for source in sources),
        in_shapes=tuple(tuple(probe.values[source][1:]) for source in sources),
        shape=tuple(shape[1:]),
        args=fx.node.map_arg(node.args, value),
        kwargs=dict(fx.node.map_arg(node.kwargs, value)),
        module=module,
        images=_PROBE_IMAGES,
        tensors={},
    )
    if not shape or shape[0] != _PROBE_IMAGES or not sources:
        raise call.refuse("its value does not have the batch as its first axis")
    if "site" in node.meta:
        call.kwargs["site"] = node.meta["site"][1]
    if _changes_operand_read_later(node):
        raise call.refuse("it changes, in place, a tensor that is read again later; write it out of place")
    return call


def _changes_operand_read_later(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    in_place = node.op != "call_module" and (
        name in ("iadd", "add_") or (name.endswith("_") and not name.endswith("__"))
    )
    operand = node.args[0] if node.args else None
    return (
        in_place
        and isinstance(operand, fx.Node)
        and any(node < user for user in operand.users if user is not node)
    )
