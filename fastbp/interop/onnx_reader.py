"""A network of an ONNX model.

The nodes are gone through once, in their order. A tensor is either a constant, or the outputs of a
layer, a `Step`, put through a formula that has not come to its end yet. Whatever wants a layer's
outputs as they are, another layer or the end of the graph, asks which activation that formula is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import BatchNorm, Dense, LayerNorm, Network, Normalize
from fastbp.interop.onnx_activations import ATTRIBUTES, X, activation_of, formula, normal
from fastbp.interop.parts import Part, activated, assembled, naming, required, residual

__all__ = ["read"]

Array = NDArray[Any]
DOMAINS = ("", "ai.onnx")  # of ONNX's own operators
OLDEST = 7  # the opset from which on operands are broadcast as in NumPy


@dataclass(frozen=True, eq=False)
class Step:
    """A layer and the one before it; or the graph's input, which has no layer."""

    part: Part | None = None
    before: Step | None = None
    place: int = 0  # how many layers come before it

    def then(self, part: Part) -> Step:
        return Step(part, self, self.place + 1)


@dataclass(frozen=True)
class Value:
    """What a layer puts out, through a formula in normal form."""

    step: Step
    tree: Any = X
    node: str = ""  # the one that makes it


def read(model: Any, *, loss: Any, optimizer: Any, seed: int | None) -> Network:
    """Return a network of an ONNX model, or of the file at a path."""
    onnx = required("onnx", '"fastbp[onnx]"')
    if isinstance(model, (str, os.PathLike)):
        content = Path(model).read_bytes()
        model = onnx.ModelProto()
        try:
            model.ParseFromString(content)
        except Exception as error:  # protobuf has several of its own
            raise ValueError(f"this file is no ONNX model: {error}") from None
    elif not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model must be a path or an onnx.ModelProto, got {type(model).__name__}")
    reader = _Reader(onnx, model)
    net = assembled(reader.parts(), loss=loss, optimizer=optimizer, seed=seed)
    reader.check(net)
    return net


class _Reader:
    """The tensors of a graph by their names, as its nodes are gone through."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self.onnx = onnx
        self.graph = model.graph
        for tensor in _tensors(model.graph):
            if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
                raise ValueError(
                    f"tensor {tensor.name!r} lies in another file, which is never opened: "
                    "save the model as one file"
                )
        for kind in ("functions", "training_info"):
            if getattr(model, kind):
                raise ValueError(f"a model with {kind} is not read")
        if model.graph.sparse_initializer:
            raise ValueError("a model with sparse weights is not read")
        try:
            onnx.checker.check_model(model)
        except Exception as error:  # its own, of no common kind
            raise ValueError(f"this is no valid ONNX model: {error}") from None
        for each in model.opset_import:
            newest = onnx.defs.onnx_opset_version()
            if each.domain in DOMAINS and not OLDEST <= each.version <= newest:
                raise ValueError(
                    f"opset {OLDEST} to {newest} are read with this onnx, got {each.version}"
                )
        self.start = Step()
        self.steps: dict[tuple[Step, Any], Step] = {}
        constants = {tensor.name: self.array(tensor) for tensor in model.graph.initializer}
        self.values: dict[str, Value | Array] = {**constants}
        # no layer has more inputs than weights, whatever the graph says
        self.most = max((array.size for array in constants.values()), default=0)
        self.width, self.element = self.take_input()

    def take_input(self) -> tuple[int, int]:
        """How many features the graph's one input has, 0 if it does not say, and their type."""
        inputs = [each for each in self.graph.input if each.name not in self.values]
        for kind, found in (("input", inputs), ("output", self.graph.output)):
            if len(found) != 1:
                raise ValueError(
                    f"the graph must have one {kind}, got {[each.name for each in found]}"
                )
        given = inputs[0].type.tensor_type
        if given.elem_type not in (self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.DOUBLE):
            raise ValueError(f"input {inputs[0].name!r} must be a tensor of float32 or float64")
        shape = given.shape.dim
        if given.HasField("shape") and len(shape) != 2:
            raise ValueError(
                f"input {inputs[0].name!r} must have two dimensions, rows and features, "
                f"got {len(shape)}"
            )
        self.values[inputs[0].name] = Value(self.start)
        return shape[1].dim_value if shape else 0, given.elem_type

    def check(self, net: Network) -> None:
        """Raise ValueError where the graph says otherwise of its input than its layers do."""
        element = self.onnx.helper.np_dtype_to_tensor_dtype(net.dtype)
        if element != self.element:
            raise ValueError(f"the weights are {net.dtype.name}, and the graph's input is not")
        if self.width not in (0, net.n_inputs):
            raise ValueError(
                f"the graph's input has {self.width} features, its layers want {net.n_inputs}"
            )

    def parts(self) -> list[Part]:
        """Go through the nodes; return the layers from the input to the output."""
        for node in self.graph.node:
            self.take(node)
        name = self.graph.output[0].name
        value = self.values.get(name)
        if not isinstance(value, Value):
            raise ValueError(f"output {name!r} does not depend on the input")
        return _between(self.start, self.resolved(value)) or []

    def take(self, node: Any) -> None:
        """Compute the first output of a node."""
        where = f"{node.op_type} {(node.name or node.output[0])!r}"
        if node.domain not in DOMAINS:
            raise ValueError(f"{where}: operators of {node.domain!r} are not read")
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            raise ValueError(f"{where}: fastbp has nothing that computes this")
        try:
            inputs = [self.values[name] if name else None for name in node.input]
        except KeyError as error:
            raise ValueError(f"{where}: tensor {error} is not known here") from None
        attributes = {
            each.name: self.onnx.helper.get_attribute_value(each) for each in node.attribute
        }
        with naming(where):
            value = handler(self, where, inputs, attributes)
            self.values[node.output[0]] = (
                replace(value, node=where) if isinstance(value, Value) else value
            )

    # --- constants --------------------------------------------------------------------------

    def array(self, tensor: Any) -> Array:
        """Return a tensor of the model, of which nothing is believed but what is there."""
        types = self.onnx.TensorProto
        fields = {
            types.FLOAT: (tensor.float_data, 4), types.DOUBLE: (tensor.double_data, 8),
            types.INT64: (tensor.int64_data, 8), types.INT32: (tensor.int32_data, 4),
            types.BOOL: (tensor.int32_data, 1),
        }
        with naming(f"tensor {tensor.name!r}"):
            if tensor.data_type not in fields:
                raise ValueError("only tensors of float32, float64 and integers are read")
            data, size = fields[tensor.data_type]
            if any(not 0 <= each < 2**31 for each in tensor.dims) or len(tensor.dims) > 2:
                raise ValueError(f"dimensions {list(tensor.dims)} are not those of a dense layer")
            count = math.prod(tensor.dims)
            held = len(tensor.raw_data) / size if tensor.HasField("raw_data") else len(data)
            if held != count:
                raise ValueError(f"dimensions {list(tensor.dims)} want {count} numbers, got {held}")
            array: Array = self.onnx.numpy_helper.to_array(tensor)
        return array

    def constant(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Array:
        """Constant."""
        (kind, value), = attributes.items()
        if kind == "value":
            return self.array(value)
        if kind in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if kind in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        raise ValueError(f"{kind} is not read")

    def transpose(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Array:
        """Transpose, of weights."""
        array = _array("what it transposes", inputs[0])
        return np.transpose(array, attributes.get("perm"))

    # --- what does nothing ------------------------------------------------------------------

    def same(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Value | Array:
        """Identity, Dropout outside of training, Flatten of rows, Cast to what it is."""
        if len(inputs) > 2 and inputs[2] is not None:
            training = inputs[2]
            if not isinstance(training, np.ndarray) or training.any():
                raise ValueError("training_mode is not read")
        if attributes.get("axis", 1) != 1:
            raise ValueError(f"only axis 1 changes nothing, got {attributes['axis']}")
        if attributes.get("to", self.element) != self.element:
            raise ValueError("a change of dtype within the network is not read")
        result: Value | Array = inputs[0]
        return result

    # --- layers -----------------------------------------------------------------------------

    def resolved(self, value: Value) -> Step:
        """The layer whose outputs a value is, its activation included."""
        if value.tree == X:
            return value.step
        key = (value.step, value.tree)
        # the same step each time, as a residual block begins and ends at steps
        if key not in self.steps:
            activation = activation_of(value.tree)
            if activation is None:
                behind = value.step.part.name if value.step.part else "the input"
                raise ValueError(
                    f"{value.node}: what the nodes from {behind} to this one compute is no "
                    "activation of fastbp"
                )
            part = activated(value.step.part, activation, value.node)
            assert value.step.before is not None
            self.steps[key] = value.step.before.then(part)
        return self.steps[key]

    def behind(self, inputs: list[Any]) -> Step:
        """The layer before the one that has these inputs."""
        if not isinstance(inputs[0], Value):
            raise ValueError("the first operand must depend on the graph's input")
        return self.resolved(inputs[0])

    def gemm(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        """Gemm: alpha A B + beta C."""
        if attributes.get("transA", 0):
            raise ValueError("transA is not read: rows are samples")
        step = self.behind(inputs)
        weight = _array("B", inputs[1])
        weight = weight.T if attributes.get("transB", 0) else weight
        given = inputs[2] if len(inputs) > 2 else None
        bias = None if given is None else _array("C", given)
        alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        if bias is not None and beta != 1:
            bias = bias * bias.dtype.type(beta)
        if alpha != 1:
            weight = weight * weight.dtype.type(alpha)
        return Value(step.then(_dense(where, weight, bias)))

    def matmul(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        """MatMul with a constant."""
        step = self.behind(inputs)
        return Value(step.then(_dense(where, _array("the second operand", inputs[1]), None)))

    def batch_norm(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        """BatchNormalization, as in prediction."""
        if attributes.get("training_mode", 0) or attributes.get("spatial", 1) != 1:
            raise ValueError("training_mode and spatial=0 are not read")
        step = self.behind(inputs)
        gain, shift, mean, variance = (_array("statistics", each) for each in inputs[1:])
        kept = _short(attributes.get("momentum", 0.9))
        layer = BatchNorm(
            # twelve digits undo the rounding of the subtraction
            momentum=round(1 - kept, 12), epsilon=_short(attributes.get("epsilon", 1e-5))
        )
        return Value(step.then(Part(layer, where, gain, shift, (mean, variance))))

    def layer_norm(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        """LayerNormalization over the features."""
        if attributes.get("axis", -1) not in (1, -1):
            raise ValueError(f"axis must be 1 or -1, got {attributes['axis']}")
        step = self.behind(inputs)
        gain = _array("the scale", inputs[1])
        given = inputs[2] if len(inputs) > 2 else None
        shift = np.zeros_like(gain) if given is None else _array("the bias", given)
        layer = LayerNorm(epsilon=_short(attributes.get("epsilon", 1e-5)))
        return Value(step.then(Part(layer, where, gain, shift)))

    # --- formulas ---------------------------------------------------------------------------

    def unary(
        self, where: str, inputs: list[Any], attributes: dict[str, Any], operator: str
    ) -> Value:
        """An operator with one operand, and perhaps numbers for attributes."""
        if not isinstance(inputs[0], Value):
            raise ValueError("arithmetic of constants is not read")
        numbers = [
            _short(attributes.get(name, default))
            for name, default in ATTRIBUTES.get(operator, {}).items()
        ]
        return Value(inputs[0].step, normal((operator, *numbers, inputs[0].tree)))

    def composed(
        self, where: str, inputs: list[Any], attributes: dict[str, Any], operator: str
    ) -> Value:
        """Gelu, Mish and Swish, which later versions of ONNX have as operators."""
        if not isinstance(inputs[0], Value) or inputs[0].tree != X:
            raise ValueError("it must come right after a layer")
        name = {"Gelu": "gelu", "Mish": "mish", "Swish": "silu"}[operator]
        if attributes.get("approximate", b"none") == b"tanh":
            name = "gelu_tanh"
        if attributes.get("alpha", 1.0) != 1:
            raise ValueError(f"alpha must be 1, got {attributes['alpha']}")
        return Value(inputs[0].step, normal(formula(name, double=False)))

    def softmax(
        self, where: str, inputs: list[Any], attributes: dict[str, Any], operator: str
    ) -> Value:
        """Softmax and LogSoftmax over the features."""
        if attributes.get("axis", -1) not in (1, -1):
            raise ValueError(f"axis must be 1 or -1, got {attributes['axis']}")
        return self.unary(where, inputs, {}, operator)

    def clip(self, where: str, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        """Clip, by inputs or, before version 11, by attributes."""
        if not isinstance(inputs[0], Value):
            raise ValueError("arithmetic of constants is not read")
        bounds = []
        for place, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
            given = inputs[place] if len(inputs) > place else None
            bounds.append(
                _short(attributes.get(name, default)) if given is None
                else _number(_array(name, given))
            )
        return Value(inputs[0].step, normal(("Clip", inputs[0].tree, *bounds)))

    def where(
        self, where: str, inputs: list[Any], attributes: dict[str, Any]
    ) -> Value:
        """Where, within a formula."""
        steps = {each.step if isinstance(each, Value) else None for each in inputs}
        if len(steps) != 1 or None in steps:
            raise ValueError("it chooses between other things than one layer's outputs")
        return Value(inputs[0].step, normal(("Where", *(each.tree for each in inputs))))

    def binary(
        self, where: str, inputs: list[Any], attributes: dict[str, Any], operator: str
    ) -> Value:
        """Arithmetic: within a formula, with a bias, on the input, or of two layers' outputs."""
        if len(inputs) != 2:
            raise ValueError(f"two operands are read, got {len(inputs)}")
        a, b = inputs
        if isinstance(a, Value) and isinstance(b, Value):
            if a.step is b.step:
                return Value(a.step, normal((operator, a.tree, b.tree)))
            return self.sum_of_layers(where, a, b, operator)
        value, constant = (a, b) if isinstance(a, Value) else (b, a)
        if not isinstance(value, Value) or not isinstance(constant, np.ndarray):
            raise ValueError("arithmetic of constants is not read")
        if value.tree == X:
            joined = self.joined(where, value.step, constant, operator, swapped=value is b)
            if joined is not None:
                return Value(joined)
        if constant.size != 1:
            raise ValueError(f"a constant of shape {constant.shape} is no part of an activation")
        number = _number(constant)
        operands = (number, value.tree) if value is b else (value.tree, number)
        return Value(value.step, normal((operator, *operands)))

    def joined(
        self, where: str, step: Step, constant: Array, operator: str, *, swapped: bool
    ) -> Step | None:
        """A layer with the constant as its bias, or as mean or deviation of inputs; or None."""
        part, before = step.part, step.before
        if part is None:
            return self.normalized(where, step, constant, operator, swapped=swapped)
        assert before is not None
        if isinstance(part.layer, Normalize) and operator == "Div" and not swapped:
            assert part.statistics is not None
            mean, deviation = part.statistics
            if (deviation == 1).all():
                return before.then(
                    replace(part, statistics=(mean, _vector(constant, len(mean))))
                )
        # a number behind a layer that has its bias belongs to a formula
        if isinstance(part.layer, Dense) and operator == "Add" and (
            part.bias is None or constant.size > 1
        ):
            bias = _vector(constant, part.layer.units)
            return before.then(replace(part, bias=bias if part.bias is None else part.bias + bias))
        return None

    def normalized(
        self, where: str, step: Step, constant: Array, operator: str, *, swapped: bool
    ) -> Step:
        """The input, without its mean or divided by its deviation."""
        if operator not in ("Sub", "Div") or swapped:
            raise ValueError("of the input only a mean is subtracted, and a deviation divides it")
        if constant.size == 1 and not 0 < self.width <= self.most:
            raise ValueError(
                f"the input must have as many features as a layer has weights, got {self.width}"
            )
        vector = _vector(constant, self.width or constant.size)
        zeros, ones = np.zeros_like(vector), np.ones_like(vector)
        statistics = (vector, ones) if operator == "Sub" else (zeros, vector)
        return step.then(Part(Normalize(), where, statistics=statistics))

    def sum_of_layers(self, where: str, a: Value, b: Value, operator: str) -> Value:
        """The sum that ends a residual block."""
        if operator != "Add":
            raise ValueError("of two layers' outputs only the sum is read")
        lower, upper = sorted(
            (self.resolved(a), self.resolved(b)), key=lambda step: step.place
        )
        inside = _between(lower, upper)
        if inside is None:
            raise ValueError("a sum must be of a layer's outputs and of what is made of these")
        return Value(lower.then(residual(inside, where)))


def _tensors(graph: Any) -> Iterator[Any]:
    """All constants of a graph, and of graphs in its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _between(lower: Step, upper: Step) -> list[Part] | None:
    """The layers after `lower` up to `upper`; None where that does not come out of the other."""
    parts = []
    while upper.place > lower.place:
        assert upper.part is not None
        assert upper.before is not None
        parts.append(upper.part)
        upper = upper.before
    return parts[::-1] if upper is lower else None


def _dense(where: str, weight: Array, bias: Array | None) -> Part:
    if weight.ndim != 2:
        raise ValueError(f"weights must have two dimensions, got {weight.ndim}")
    units = weight.shape[1]
    bias = None if bias is None else _vector(bias, units)
    return Part(Dense(units), where, weight, bias)


def _array(name: str, value: object) -> Array:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be a constant")
    return value


def _vector(array: Array, size: int) -> Array:
    """A constant as it is broadcast along rows of so many elements."""
    if array.size not in (1, size) or array.ndim > 2 or array.shape[:-1] not in ((), (1,)):
        raise ValueError(f"a constant of shape {array.shape} does not fit rows of {size}")
    return np.broadcast_to(array.reshape(-1), (size,))


def _number(array: Array) -> float:
    if array.size != 1:
        raise ValueError(f"a number is wanted, got a constant of shape {array.shape}")
    value = array.reshape(-1)[0]
    return _short(value) if array.dtype == np.float32 else float(value)


def _short(value: Any) -> float:
    """The shortest decimal that is this number in float32: what it was before, mostly."""
    return float(str(np.float32(value)))


Handler = Callable[["_Reader", str, list[Any], dict[str, Any]], Value | Array]


def _handlers() -> dict[str, Handler]:
    handlers: dict[str, Handler] = {
        "BatchNormalization": _Reader.batch_norm,
        "Clip": _Reader.clip,
        "Constant": _Reader.constant,
        "Gemm": _Reader.gemm,
        "LayerNormalization": _Reader.layer_norm,
        "MatMul": _Reader.matmul,
        "Transpose": _Reader.transpose,
        "Where": _Reader.where,
    }
    groups: dict[Any, tuple[str, ...]] = {
        _Reader.unary: (
            "Abs", "Elu", "Erf", "Exp", "HardSigmoid", "LeakyRelu", "Log", "Neg", "Relu", "Selu",
            "Sigmoid", "Softplus", "Softsign", "Tanh",
        ),
        _Reader.binary: ("Add", "Div", "Greater", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"),
        _Reader.composed: ("Gelu", "Mish", "Swish"),
        _Reader.softmax: ("LogSoftmax", "Softmax"),
    }
    for handler, operators in groups.items():
        for operator in operators:
            handlers[operator] = partial(handler, operator=operator)
    return handlers | dict.fromkeys(("Cast", "Dropout", "Flatten", "Identity"), _Reader.same)


HANDLERS = _handlers()
