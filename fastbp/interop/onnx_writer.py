"""A network as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastbp
from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual
from fastbp.activations import Activation
from fastbp.interop.onnx_activations import ATTRIBUTES, X, formula
from fastbp.interop.parts import Part, parts_of, required

__all__ = ["model_of"]

# The first with LayerNormalization (2022), which all current runtimes read; nothing here gains by a
# later one.
OPSET = 17
IR_VERSION = 8  # of the same release of ONNX
LARGEST_MODEL = 2**31 - 2**20  # protobuf's limit, less what is not weights


def model_of(net: Network) -> Any:
    """Return the onnx.ModelProto of a network.

    Raises
    ------
    ValueError
        If its parameters do not fit into one file.
    RuntimeError
        If it begins with a Normalize that has no statistics yet.
    ImportError
        If onnx is not installed.
    """
    onnx = required("onnx", '"fastbp[onnx]"')
    if net.parameters.nbytes > LARGEST_MODEL:
        raise ValueError(
            f"an ONNX file holds less than 2 GiB, and the parameters take {net.parameters.nbytes}"
        )
    parts = parts_of(net)
    graph = _Graph(onnx, net.dtype)
    last = graph.add_all(parts, "input")
    graph.nodes[-1].output[0] = "output" if last != "input" else last
    helper = onnx.helper
    code = helper.np_dtype_to_tensor_dtype(net.dtype)
    made = helper.make_graph(
        graph.nodes, "fastbp",
        [helper.make_tensor_value_info("input", code, ["batch", net.n_inputs])],
        [helper.make_tensor_value_info("output", code, ["batch", net.n_outputs])],
        graph.constants,
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="fastbp", producer_version=fastbp.__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants, as they are added. Tensors are known by their names."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx = onnx
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.numbers: dict[str, str] = {}

    def constant(self, name: str, array: NDArray[Any]) -> str:
        contiguous = np.ascontiguousarray(array, self.dtype).reshape(np.shape(array))
        self.constants.append(self.onnx.numpy_helper.from_array(contiguous, name))
        return name

    def number(self, value: float, shape: tuple[int, ...] = ()) -> str:
        name = f"number{shape or ''} {value!r}"
        if name not in self.numbers:
            self.numbers[name] = self.constant(name, np.full(shape, value))
        return self.numbers[name]

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        made = self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes)
        self.nodes.append(made)
        return name

    def add_all(self, parts: Sequence[Part], above: str) -> str:
        for part in parts:
            above = self.add(part, above)
        return above

    def add(self, part: Part, above: str) -> str:
        """Add a layer behind the tensor `above`; return the name of what it puts out."""
        layer, name = part.layer, f"layer {part.name}"
        if isinstance(layer, Dropout):
            return above
        if isinstance(layer, Residual):
            return self.node("Add", [above, self.add_all(part.inside, above)], name)
        if isinstance(layer, Normalize):
            assert part.statistics is not None
            mean = self.constant(f"{name} mean", part.statistics[0])
            deviation = self.constant(f"{name} deviation", part.statistics[1])
            centered = self.node("Sub", [above, mean], f"{name} centered")
            return self.node("Div", [centered, deviation], name)
        assert part.weight is not None
        assert part.bias is not None
        inputs = [
            above,
            self.constant(f"{name} weight", part.weight),
            self.constant(f"{name} bias", part.bias),
        ]
        if isinstance(layer, Dense):
            linear = self.node("Gemm", inputs, f"{name} linear")
        elif isinstance(layer, LayerNorm):
            linear = self.node(
                "LayerNormalization", inputs, f"{name} linear", axis=-1, epsilon=layer.epsilon
            )
        else:
            assert isinstance(layer, BatchNorm)
            assert part.statistics is not None
            inputs += [
                self.constant(f"{name} running {kind}", array)
                for kind, array in zip(("mean", "variance"), part.statistics, strict=True)
            ]
            linear = self.node(
                "BatchNormalization", inputs, f"{name} linear",
                epsilon=layer.epsilon, momentum=1 - layer.momentum,
            )
        return self.activation(layer.activation, linear, name)

    def activation(self, activation: str | Activation, above: str, name: str) -> str:
        """Add the nodes of an activation's formula."""
        done: dict[Any, str] = {X: above}

        def visit(tree: Any) -> str:
            if isinstance(tree, float):
                return self.number(tree)
            if tree not in done:
                operator, *operands = tree
                attributes: dict[str, Any] = {}
                for attribute in ATTRIBUTES.get(operator, ()):
                    attributes[attribute] = operands.pop(0)
                if operator in ("Softmax", "LogSoftmax"):
                    attributes["axis"] = -1
                if operator == "PRelu":  # whose slope is no scalar in ONNX
                    inputs = [visit(operands[0]), self.number(operands[1], (1,))]
                else:
                    inputs = [visit(operand) for operand in operands]
                done[tree] = self.node(operator, inputs, f"{name} {operator} {len(done)}",
                                       **attributes)
            return done[tree]

        return visit(formula(activation, double=self.dtype == np.float64))
