"""A network of a Sequential of Keras."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Network
from fastbp.activations import ELU, Activation, LeakyReLU
from fastbp.interop.parts import Part, activated, assembled, naming, required

__all__ = ["read"]

# Functions of keras.activations that are called otherwise here, and those that are not.
OTHERWISE: dict[str, str | Activation] = {"linear": "identity", "leaky_relu": LeakyReLU(0.2)}
ALIKE = (
    "sigmoid", "hard_sigmoid", "tanh", "relu", "relu6", "elu", "selu", "softplus", "softsign",
    "exponential", "gelu", "silu", "mish", "softmax", "log_softmax",
)


def read(model: Any, *, loss: Any, optimizer: Any, seed: int | None) -> Network:
    """Return a network of a keras.Sequential."""
    keras = required("keras")
    if not isinstance(model, keras.Sequential):
        raise TypeError(f"model must be a keras.Sequential, got {type(model).__name__}")
    if not model.built:
        raise ValueError("the model has no weights yet: give it an Input, or call its build")
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(f"the inputs must have shape (rows, features), got {shape}")
    parts = _Reader(keras).parts(model.layers)
    return assembled(parts, loss=loss, optimizer=optimizer, seed=seed)


class _Reader:
    def __init__(self, keras: Any) -> None:
        self.keras = keras
        self.functions: dict[Any, str | Activation] = {
            getattr(keras.activations, name): OTHERWISE.get(name, name)
            for name in (*ALIKE, *OTHERWISE)
        }
        self.seen: set[int] = set()

    def leaves(self, layers: Iterable[Any]) -> Iterator[Any]:
        """All layers, none in a Sequential."""
        for layer in layers:
            if type(layer) is self.keras.Sequential:
                yield from self.leaves(layer.layers)
            else:
                yield layer

    def parts(self, layers: Iterable[Any]) -> list[Part]:
        parts: list[Part] = []
        every = self.keras.layers
        for layer in self.leaves(layers):
            name = f"layer {layer.name!r}, {type(layer).__name__}"
            if type(layer) in (every.InputLayer, every.Identity, every.Flatten):
                continue
            with naming(name):
                if id(layer) in self.seen:
                    raise ValueError("it is there twice, and layers here share no weights")
                self.seen.add(id(layer))
                activation = self.activation(layer)
                if activation is None:
                    parts.append(self.layer(layer, name))
                else:
                    parts[-1:] = [activated(parts[-1] if parts else None, activation, name)]
        return parts

    def layer(self, layer: Any, name: str) -> Part:
        kind, layers = type(layer), self.keras.layers
        if kind is layers.Dropout:
            return Part(Dropout(layer.rate), name)
        if kind is layers.Dense:
            return self.dense(layer, name)
        if kind not in (layers.BatchNormalization, layers.LayerNormalization):
            raise ValueError("fastbp has nothing that computes this")
        for part in ("beta", "gamma"):
            self.nothing(layer, f"{part}_regularizer", f"{part}_constraint")
        if layer.axis not in (-1, 1, [-1], [1], (1,), (-1,)):
            raise ValueError(f"axis must be -1 or 1, got {layer.axis}")
        gain, shift = self.array(layer.gamma), self.array(layer.beta)
        statistics = None
        if kind is layers.LayerNormalization:
            self.nothing(layer, "rms_scaling")
            trained = layer.trainable and not (gain is None and shift is None)
            made: BatchNorm | LayerNorm = LayerNorm(epsilon=layer.epsilon, trainable=trained)
        else:
            # Keras counts what is kept; twelve digits undo the rounding of the subtraction
            momentum = round(1 - layer.momentum, 12)
            made = BatchNorm(momentum=momentum, epsilon=layer.epsilon, trainable=layer.trainable)
            statistics = (self.array(layer.moving_mean), self.array(layer.moving_variance))
        if gain is None:
            gain = np.ones(layer.input.shape[-1], layer.variable_dtype)
        return Part(made, name, gain, shift, statistics)

    def dense(self, layer: Any, name: str) -> Part:
        self.nothing(
            layer, "quantization_mode", "bias_regularizer", "activity_regularizer",
            "bias_constraint",
        )
        l1, l2 = self.penalties(layer.kernel_regularizer)
        made = Dense(
            layer.units, trainable=layer.trainable, l1=l1, l2=l2,
            max_norm=self.max_norm(layer.kernel_constraint),
        )
        bias = self.array(layer.bias) if layer.use_bias else None
        part = Part(made, name, self.array(layer.kernel), bias)
        return activated(part, self.function(layer.activation), name)

    def penalties(self, regularizer: Any) -> tuple[float, float]:
        """l1 and l2 here, of which the second is halved."""
        known = self.keras.regularizers
        if regularizer is None:
            return 0.0, 0.0
        if type(regularizer) not in (known.L1, known.L2, known.L1L2):
            raise ValueError(f"{regularizer} cannot be carried over")
        l1, l2 = (float(getattr(regularizer, each, 0.0)) for each in ("l1", "l2"))
        return l1, 2 * l2

    def max_norm(self, constraint: Any) -> float | None:
        if constraint is None:
            return None
        if type(constraint) is not self.keras.constraints.MaxNorm or constraint.axis != 0:
            raise ValueError(f"{constraint} cannot be carried over")
        return float(constraint.max_value)

    def activation(self, layer: Any) -> str | Activation | None:
        """The activation that a layer is, or None."""
        kind, layers = type(layer), self.keras.layers
        if kind is layers.Activation:
            return self.function(layer.activation)
        if kind is layers.LeakyReLU:
            return LeakyReLU(layer.negative_slope)
        if kind is layers.ELU:
            return ELU(layer.alpha)
        if kind is layers.Softmax:
            if layer.axis not in (1, -1):
                raise ValueError(f"axis must be 1 or -1, got {layer.axis}")
            return "softmax"
        if kind is layers.ReLU:
            settings = (layer.max_value, layer.negative_slope, layer.threshold)
            if settings[0] is None and settings[2] == 0:
                return LeakyReLU(settings[1]) if settings[1] else "relu"
            if settings == (6, 0, 0):
                return "relu6"
            raise ValueError(f"max_value, negative_slope and threshold {settings} are not known")
        return None

    def function(self, function: Any) -> str | Activation:
        """The activation of a Dense or an Activation: a function, or a layer in its place."""
        if isinstance(function, self.keras.layers.Layer):
            activation = self.activation(function)
        else:
            activation = self.functions.get(function)
        if activation is None:
            shown = getattr(function, "__name__", None) or repr(function)
            raise ValueError(f"fastbp has no activation {shown}")
        return activation

    def nothing(self, layer: Any, *names: str) -> None:
        """Raise ValueError unless a layer has nothing of these."""
        for name in names:
            if getattr(layer, name, None):
                raise ValueError(f"{name}={getattr(layer, name)} cannot be carried over")

    def array(self, variable: Any) -> NDArray[Any] | Any:
        """A variable on any backend as an array; None stays None."""
        return None if variable is None else self.keras.ops.convert_to_numpy(variable.value)
