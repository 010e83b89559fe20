"""What all ways in and out share: layers with their arrays, apart from any network."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual
from fastbp.activations import WITH_PARAMETERS, Activation

__all__ = [
    "AnyLayer", "Part", "activated", "assembled", "by_name", "naming", "parts_of", "required",
    "residual", "spelled_out",
]

Array = NDArray[Any]
AnyLayer = Dense | BatchNorm | LayerNorm | Normalize | Dropout | Residual
Weighted = Dense | BatchNorm | LayerNorm

# The losses that belong to a last activation; to all others, the squared error.
LOSS_BEHIND = {
    "softmax": "cross_entropy",
    "log_softmax": "cross_entropy",
    "sigmoid": "binary_cross_entropy",
    "exponential": "poisson",
}
# Files nest blocks at will, and Python's stack is finite.
DEEPEST = 32


@dataclass(frozen=True, eq=False)
class Part:
    """A layer with its arrays."""

    layer: AnyLayer
    name: str                   # for errors: what it is called where it comes from
    weight: Array | None = None  # W (n_in, n_out), or the gain (n_out,)
    bias: Array | None = None   # b or the shift, (n_out,); zeros without it
    statistics: tuple[Array, Array] | None = None
    inside: tuple[Part, ...] = ()  # of a Residual

    @property
    def depth(self) -> int:
        """How many blocks lie inside each other here."""
        return 1 + max(part.depth for part in self.inside) if self.inside else 0

    @property
    def spread(self) -> Array:
        """Variance or standard deviation, of one that has statistics."""
        assert self.statistics is not None
        return self.statistics[1]

    def arrays(self) -> list[Array]:
        """All arrays that it has itself."""
        own = [self.weight, self.bias, *(self.statistics or ())]
        return [array for array in own if array is not None]


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a name before the message of an error, as a ValueError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        if not message.startswith(f"{name}: "):
            message = f"{name}: {message}"
        raise ValueError(message) from None


def required(package: str, install: str | None = None) -> Any:
    """Return a package that is loaded only here, or raise ImportError saying how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"this needs {package}, which cannot be imported ({error}): "
            f"pip install {install or package}"
        ) from error


def spelled_out(activation: str | Activation) -> str | Activation:
    """Return an activation that has a parameter as an object, and any other as its name."""
    if isinstance(activation, str) and activation in WITH_PARAMETERS:
        return WITH_PARAMETERS[activation]()
    return activation


def by_name(activation: str | Activation) -> str | Activation:
    """Return an activation by its name alone where its parameter is the default."""
    if isinstance(activation, str) or activation != type(activation)():
        return activation
    return activation.name


# --- the way out ----------------------------------------------------------------------------

def parts_of(net: Network) -> list[Part]:
    """Return a network's layers with live views of its arrays, named as `print(net)` numbers them.

    Raises
    ------
    RuntimeError
        If it begins with a Normalize that has no statistics yet.
    """
    parameters = zip(net.weights, net.biases, strict=True)
    statistics = iter(net.statistics)

    def visit(layers: Sequence[AnyLayer], above: str) -> Iterator[Part]:
        for number, layer in enumerate(layers, start=1):
            part = Part(layer, f"{above}{number}")
            if isinstance(layer, Residual):
                inside = tuple(visit(layer.layers, f"{part.name}."))
                part = dataclasses.replace(part, inside=inside)
            if isinstance(layer, Weighted):
                weight, bias = next(parameters)
                part = dataclasses.replace(part, weight=weight, bias=bias)
            if isinstance(layer, (BatchNorm, Normalize)):
                part = dataclasses.replace(part, statistics=next(statistics))
            if isinstance(layer, Normalize) and part.spread[0] == 0:
                raise RuntimeError(
                    "the Normalize layer has no statistics yet: call fit or adapt first"
                )
            yield part

    return list(visit(net.layers, ""))


# --- the way in -----------------------------------------------------------------------------

def activated(part: Part | None, activation: str | Activation, name: str) -> Part:
    """Return a part with the activation that comes after it."""
    if activation == "identity" and part is not None:
        return part
    if part is None or not isinstance(part.layer, Weighted) or part.layer.activation != "identity":
        after = "nothing" if part is None else part.name
        raise ValueError(
            f"{name}: an activation has to come right after a dense layer or a normalisation, "
            f"and be the only one there; got it after {after}"
        )
    with naming(name):
        return dataclasses.replace(
            part, layer=dataclasses.replace(part.layer, activation=by_name(activation))
        )


def residual(inside: Sequence[Part], name: str) -> Part:
    """Return a block of parts and the sum at its end."""
    with naming(name):
        part = Part(Residual([part.layer for part in inside]), name, inside=tuple(inside))
        if part.depth > DEEPEST:
            raise ValueError(f"residual blocks may lie inside each other {DEEPEST} deep at most")
    return part


def assembled(
    parts: Sequence[Part], *, loss: Any, optimizer: Any, seed: int | None
) -> Network:
    """Return a network of parts, with copies of their arrays.

    `loss` may be None, for the one that belongs to the last activation.

    Raises
    ------
    TypeError, ValueError
        If they make no network: arrays that do not fit or are not finite, another layer than a
        Dense at the end. What a part has to do with, it is named.
    """
    if not parts:
        raise ValueError("the model has no layers")
    every = list(_walk(parts))
    width = n_inputs = _first_width(every)
    for part in every:
        width = _fitting(part, width)
    for part in every:
        _check_values(part)
    last = parts[-1].layer
    if not isinstance(last, Dense):
        raise ValueError(f"the last layer must be a dense one, got {parts[-1].name}")
    dtypes = {array.dtype.name for part in every for array in part.arrays()}
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
        raise ValueError(
            f"all weights must be float32 or all float64, got {', '.join(sorted(dtypes))}"
        )
    if loss is None:
        loss = LOSS_BEHIND.get(str(last.activation), "squared_error")
    net = Network(
        n_inputs, [part.layer for part in parts], loss=loss, optimizer=optimizer,
        dtype=dtypes.pop(), seed=seed,
    )
    targets = zip(net.weights, net.biases, strict=True)
    statistics = iter(net.statistics)
    for part in every:
        if part.weight is not None:
            weight, bias = next(targets)
            weight[...] = part.weight
            bias[...] = 0 if part.bias is None else part.bias
        if part.statistics is not None:
            mean, spread = next(statistics)
            mean[...], spread[...] = part.statistics
    return net


def _walk(parts: Sequence[Part]) -> Iterator[Part]:
    """All parts; those in a block before its sum."""
    for part in parts:
        yield from _walk(part.inside)
        yield part


def _first_width(every: Sequence[Part]) -> int:
    for part in every:
        for array in part.arrays():
            return int(np.atleast_1d(array).shape[0])
    raise ValueError("the model has no layer with weights")


def _fitting(part: Part, width: int) -> int:
    """Return how wide a part's outputs are, if its arrays fit inputs that are `width` wide."""
    shapes: dict[str, tuple[Array | None, tuple[int, ...]]] = {}
    if isinstance(part.layer, Dense):
        units = part.layer.units
        shapes = {"weights": (part.weight, (width, units)), "biases": (part.bias, (units,))}
        width = units
    elif isinstance(part.layer, Weighted):
        shapes = {"gain": (part.weight, (width,)), "shift": (part.bias, (width,))}
    if part.statistics is not None:
        mean, spread = part.statistics
        shapes |= {"means": (mean, (width,)), "variances": (spread, (width,))}
    for kind, (array, shape) in shapes.items():
        if array is None:
            continue
        if array.shape != shape:
            raise ValueError(f"{part.name}: {kind} must have shape {shape}, got {array.shape}")
    return width


def _check_values(part: Part) -> None:
    """Raise ValueError unless a part's arrays hold what its layer can compute with."""
    if not all(np.isfinite(array).all() for array in part.arrays()):
        raise ValueError(f"{part.name}: weights and statistics must be finite")
    if part.statistics is not None:
        least = float(part.spread.min())
        if least < 0 or (least == 0 and isinstance(part.layer, Normalize)):
            raise ValueError(f"{part.name}: variances and deviations must be positive, got {least}")
