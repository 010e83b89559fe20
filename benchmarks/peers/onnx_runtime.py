"""ONNX Runtime: the network as Gemm, activations and Softmax, run by a session on the CPU.

As many intra-op threads as asked for, and no spinning: a thread that spins after a call takes a
core from whatever runs next. Weights are constants of the graph, so that they are packed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers import base
from benchmarks.workloads import Array, Model

NODES = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def activation(model: Model, source: str, target: str) -> list[Any]:
    """Write the activation of a hidden layer.

    GELU is written out, as exporters do; the session fuses the nodes into its own kernel.
    """
    if model.activation in NODES:
        return [helper.make_node(NODES[model.activation], [source], [target])]
    numbers = {"root": np.sqrt(2), "one": 1, "half": 0.5}
    made = [
        helper.make_node(
            "Constant",
            [],
            [f"{target}_{name}"],
            value=numpy_helper.from_array(np.array(value, model.dtype)),
        )
        for name, value in numbers.items()
    ]
    steps = (
        ("Div", [source, f"{target}_root"], f"{target}_scaled"),
        ("Erf", [f"{target}_scaled"], f"{target}_erf"),
        ("Add", [f"{target}_erf", f"{target}_one"], f"{target}_sum"),
        ("Mul", [source, f"{target}_sum"], f"{target}_double"),
        ("Mul", [f"{target}_double", f"{target}_half"], target),
    )
    return made + [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]


def graph(model: Model, rows: int) -> bytes:
    """Write the network in ONNX's format, for a fixed number of rows."""
    nodes, constants, current = [], [], "x"
    for layer, (W, b) in enumerate(zip(model.weights, model.biases, strict=True)):
        constants += [numpy_helper.from_array(W, f"W{layer}")]
        constants += [numpy_helper.from_array(b, f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [current, f"W{layer}", f"b{layer}"], [f"z{layer}"]))
        current = f"z{layer}"
        if layer < len(model.weights) - 1:
            nodes += activation(model, current, f"a{layer}")
            current = f"a{layer}"
    nodes.append(helper.make_node("Softmax" if model.softmax else "Identity", [current], ["out"]))
    kind = TensorProto.FLOAT if model.dtype == "float32" else TensorProto.DOUBLE
    made = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, [rows, model.widths[0]])],
        [helper.make_tensor_value_info("out", kind, [rows, model.widths[-1]])],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    written: bytes = helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()
    return written


class Adapter(base.Adapter):
    """ONNX Runtime on its CPU provider."""

    def session(self, model: Model, rows: int) -> Any:
        """Load the network for a number of rows."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.n_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            graph(model, rows), options, providers=["CPUExecutionProvider"]
        )

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        run, names = self.session(model, len(X)).run, ["out"]

        def predict() -> Array:
            array: Array = run(names, {"x": X})[0]
            return array

        return predict

    def bound(self, model: Model, x: Array) -> Callable[[], Array]:
        session = self.session(model, 1)
        binding, run = session.io_binding(), session.run_with_iobinding
        # The binding has their addresses alone.
        arrays = (x[np.newaxis], np.empty((1, model.widths[-1]), x.dtype))
        binds = (binding.bind_input, binding.bind_output)
        for bind, name, array in zip(binds, ("x", "out"), arrays, strict=True):
            bind(name, "cpu", 0, x.dtype, array.shape, array.ctypes.data)

        def predict() -> Array:
            run(binding)
            return arrays[1]

        return predict
