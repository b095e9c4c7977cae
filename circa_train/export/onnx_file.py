"""The real network, BatchNorm folded, as an ONNX model whose nodes have the names of the manifest's layers.

Written from the layer list itself, so it needs the ``onnx`` package and no exporter, and can be compared with
the integer network layer by layer. Opset 17 and IR version 8 are old enough for the runtimes in use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from circa_train.export.graph import LayerGraph
from circa_train.export.layers import (
    Add,
    Concat,
    Conv2d,
    Gather,
    Input,
    Layer,
    Linear,
    MaxPool,
    Pad,
    ReLU,
    Rescale,
    Reshape,
    Scatter,
    Shift,
    Slice,
    SumPool,
)
from circa_train.export.quantize import IntegerPlan

OPSET, IR_VERSION = 17, 8


def onnx_bytes(graph: LayerGraph) -> bytes:
    """The serialised model: float32 input (N, *input shape), output named as the graph's output layer.

    Raises:
        ImportError: if the ``onnx`` package is not there.
    """
    onnx = _onnx()
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {
        name: tensor.cpu().numpy() for name, tensor in graph.tensors.items() if not name.endswith(".index")
    }

    def constant(name: str, value: Any) -> str:
        constants[name] = np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        return name

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    for layer in graph.layers:
        _translate(layer, graph, node, constant)
    last = next(layer for layer in graph.layers if layer.name == graph.output)
    first = graph.layers[0]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info(first.name, TensorProto.FLOAT, ["N", *first.shape])],
            [helper.make_tensor_value_info(last.name, TensorProto.FLOAT, ["N", *last.shape])],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="circa_train",
    )
    model.ir_version = IR_VERSION
    checker.check_model(model)
    return onnx.ModelProto.SerializeToString(model)


def _translate(layer: Layer, graph: LayerGraph, node: Any, constant: Any) -> None:
    sources, name = list(layer.inputs), layer.name
    match layer:
        case Input():
            pass
        case Conv2d(stride=stride, padding=padding, dilation=dilation, groups=groups):
            node("Conv", [*sources, *layer.tensor_names()], name, strides=stride, pads=[*padding, *padding],
                 dilations=dilation, group=groups)  # fmt: skip
        case Linear():
            node("Gemm", [*sources, *layer.tensor_names()], name, transB=1)
        case ReLU():
            node("Relu", sources, name)
        case Add():
            node("Add", sources, name)
        case Concat(axis=axis):
            node("Concat", sources, name, axis=axis + 1)
        case SumPool(kernel=kernel, stride=stride, padding=padding):  # the real network divides
            node("AveragePool", sources, name, kernel_shape=kernel, strides=stride, pads=[*padding, *padding],
                 count_include_pad=1)  # fmt: skip
        case MaxPool(kernel=kernel, stride=stride, padding=padding):
            node("MaxPool", sources, name, kernel_shape=kernel, strides=stride, pads=[*padding, *padding])
        case Slice(slices=slices):
            columns = zip(("starts", "ends", "steps"), zip(*slices, strict=True), strict=True)
            starts, ends, steps = (constant(f"{name}.{key}", values) for key, values in columns)
            axes = constant(f"{name}.axes", range(1, len(slices) + 1))
            node("Slice", [*sources, starts, ends, axes, steps], name)
        case Pad(widths=widths):
            before, after = zip((0, 0), *widths, strict=True)
            node("Pad", [*sources, constant(f"{name}.pads", [*before, *after])], name)
        case Reshape(shape=shape):
            node("Reshape", [*sources, constant(f"{name}.shape", [-1, *shape])], name)
        case Gather():
            node(
                "Gather", [*sources, constant(f"{name}.index", graph.tensors[f"{name}.index"])], name, axis=1
            )
        case Scatter():
            # The entries that stay, then the new ones, then into their places.
            index = graph.tensors[f"{name}.index"].numpy()
            stay = np.delete(np.arange(layer.shape[0]), index)
            kept = node("Gather", [sources[0], constant(f"{name}.stay", stay)], f"{name}.kept", axis=1)
            joined = node("Concat", [kept, sources[1]], f"{name}.joined", axis=1)
            order = constant(f"{name}.order", np.argsort(np.concatenate([stay, index])))
            node("Gather", [joined, order], name, axis=1)
        case _:
            raise TypeError(f"layer {name} of kind {layer.kind!r} belongs to the integer network")


def real_graph(content: bytes, plan: IntegerPlan) -> LayerGraph:
    """The real network of an export folder: the layers of ``plan`` without its scales, the weights of
    ``network.onnx``.

    Inverse of :func:`onnx_bytes` for a network that was quantised.

    Raises:
        ImportError: if the ``onnx`` package is not there.
        KeyError: if the model is not that of the plan.
    """
    _onnx()
    from onnx import numpy_helper

    model = parse_onnx(content)
    stored = {
        entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in model.graph.initializer
    }
    origin: dict[str, str] = {}  # of values that only change scale
    layers = []
    for layer in plan.layers:
        if isinstance(layer, (Rescale, Shift)):
            origin[layer.name] = origin.get(layer.inputs[0], layer.inputs[0])
        else:
            layers.append(replace(layer, inputs=tuple(origin.get(name, name) for name in layer.inputs)))
    tensors = {
        name: plan.tensors[name].long() if name.endswith(".index") else stored[name]
        for layer in layers
        for name in layer.tensor_names()
    }
    return LayerGraph(tuple(layers), tensors, origin.get(plan.output, plan.output))


def parse_onnx(content: bytes) -> Any:
    """The model that ``content`` serialises; what it raises for other bytes is the library's own."""
    return _onnx().load_model_from_string(content)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"network.onnx needs the onnx package ({error}): pip install onnx") from error
    return onnx
