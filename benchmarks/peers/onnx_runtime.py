"""ONNX Runtime: the network as Gemm, Relu and Softmax, run by a session on the CPU.

As many intra-op threads as asked for, and no spinning: a thread that spins after a call takes a
core from whatever runs next. Weights are constants of the graph, so that they are packed once.
"""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers import base
from benchmarks.workloads import Array, Model


def graph(model: Model, rows: int) -> bytes:
    """Write the network in ONNX's format, for a fixed number of rows."""
    nodes, constants, current = [], [], "x"
    for layer, (W, b) in enumerate(zip(model.weights, model.biases, strict=True)):
        constants += [numpy_helper.from_array(W, f"W{layer}")]
        constants += [numpy_helper.from_array(b, f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [current, f"W{layer}", f"b{layer}"], [f"z{layer}"]))
        current = f"z{layer}"
        if layer < len(model.weights) - 1:
            nodes.append(helper.make_node("Relu", [current], [f"a{layer}"]))
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

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.n_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            graph(model, len(X)), options, providers=["CPUExecutionProvider"]
        )
        run, names = session.run, ["out"]

        def predict() -> Array:
            array: Array = run(names, {"x": X})[0]
            return array

        return predict
