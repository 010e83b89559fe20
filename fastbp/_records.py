"""What the layers of a network become: a flat list of records over flat vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp._dispatch import engine
from fastbp.activations import engine_code
from fastbp.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Normalize,
    Residual,
    checked_layers,
)

__all__ = [
    "Record", "Weighted", "checked_stack", "flatten", "means_and_deviations", "rebuilt", "walk",
]

# The layers that have parameters.
Weighted = Dense | BatchNorm | LayerNorm
# What the engine calls each.
KINDS: dict[type[Layer], str] = {
    Dense: "dense", BatchNorm: "batch_norm", LayerNorm: "layer_norm", Normalize: "normalize",
    Residual: "residual",
}


@dataclass(eq=False, repr=False)
class Record:
    """A layer with its place in the vectors of parameters and of statistics."""

    layer: Layer
    n_in: int
    n_out: int
    weight: int             # where W or the gain starts, and
    bias: int               # where b or the shift does
    statistics: int
    source: int = -1        # of a Residual: the record before it, or -1 for the inputs
    dropout: float = 0.0    # which part of its outputs is dropped

    @property
    def end(self) -> int:
        """Where its parameters end."""
        return self.bias + self.n_out if isinstance(self.layer, Weighted) else self.bias

    @property
    def trainable(self) -> bool:
        """Whether training changes it."""
        return isinstance(self.layer, Weighted) and self.layer.trainable

    @property
    def gathers(self) -> bool:
        """Whether it has statistics."""
        return isinstance(self.layer, (BatchNorm, Normalize))

    def weight_of(self, parameters: NDArray[Any]) -> NDArray[Any]:
        """W, of shape (n_in, n_out), or the gain, of (n_out,): a view."""
        weight = parameters[self.weight : self.bias]
        return weight.reshape(self.n_in, self.n_out) if isinstance(self.layer, Dense) else weight

    def bias_of(self, parameters: NDArray[Any]) -> NDArray[Any]:
        """View b or the shift, of shape (n_out,)."""
        return parameters[self.bias : self.end]

    def statistics_of(self, statistics: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """View its two vectors, of shape (n_out,)."""
        middle = self.statistics + self.n_out
        return statistics[self.statistics : middle], statistics[middle : middle + self.n_out]

    def for_engine(self) -> dict[str, float]:
        """Return the fields of the engine's record."""
        layer = self.layer
        fields: dict[str, float] = {
            "kind": engine.LAYERS[KINDS[type(layer)]],
            "n_in": self.n_in, "n_out": self.n_out, "weight": self.weight, "bias": self.bias,
            "statistics": self.statistics, "source": self.source, "dropout": self.dropout,
            "frozen": not self.trainable,
        }
        if isinstance(layer, Weighted):
            fields["activation"], fields["alpha"] = engine_code(layer.activation)
        if isinstance(layer, Dense):
            fields |= {"l1": layer.l1, "l2": layer.l2, "max_norm": layer.max_norm or 0.0}
        if isinstance(layer, (BatchNorm, LayerNorm)):
            fields["epsilon"] = layer.epsilon
        if isinstance(layer, BatchNorm):
            fields["momentum"] = layer.momentum
        return fields


def checked_stack(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers of a network as a tuple, or raise TypeError or ValueError."""
    checked = checked_layers(layers)
    if not isinstance(checked[-1], Dense):
        raise ValueError(f"the last layer must be a Dense layer, got {checked[-1]}")
    for _, layer in walk(checked[:-1]):
        if isinstance(layer, Dense) and layer.activation in ("softmax", "log_softmax"):
            raise ValueError(
                f"activation {layer.activation!r} belongs in the last layer, got a hidden one"
            )
    return checked


def walk(layers: Sequence[Layer], above: str = "") -> Iterator[tuple[str, Layer]]:
    """Iterate over layers and, after each Residual, what is in it; numbered as 1, 2, 2.1, ..."""
    for number, layer in enumerate(layers, start=1):
        yield f"{above}{number}", layer
        if isinstance(layer, Residual):
            yield from walk(layer.layers, f"{above}{number}.")


def rebuilt(layers: Sequence[Layer], change: Callable[[Any], Any]) -> tuple[Layer, ...]:
    """Return the layers with `change` applied to each that has parameters, in their order."""
    result: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Residual):
            layer = replace(layer, layers=rebuilt(layer.layers, change))
        elif isinstance(layer, Weighted):
            layer = change(layer)
        result.append(layer)
    return tuple(result)


def flatten(n_inputs: int, layers: Sequence[Layer]) -> tuple[list[Record], float]:
    """Return the records of checked layers, and which part of the inputs is dropped.

    Raises
    ------
    ValueError
        If a Residual changes the width.
    """
    records: list[Record] = []
    dropped_inputs = 0.0

    def width() -> int:
        return records[-1].n_out if records else n_inputs

    def add(layer: Layer, n_out: int, source: int = -1) -> None:
        weight = statistics = 0
        if records:
            last = records[-1]
            weight, statistics = last.end, last.statistics + 2 * last.n_out * last.gathers
        bias = weight
        if isinstance(layer, Weighted):
            bias += width() * n_out if isinstance(layer, Dense) else n_out
        records.append(Record(layer, width(), n_out, weight, bias, statistics, source))

    def visit(inside: Sequence[Layer]) -> None:
        nonlocal dropped_inputs
        for layer in inside:
            if isinstance(layer, Residual):
                source, n_out = len(records) - 1, width()
                visit(layer.layers)
                if width() != n_out:
                    raise ValueError(
                        f"layers of a Residual must end as wide as they begin, {n_out}, "
                        f"got {width()} from {layer}"
                    )
                add(layer, n_out, source)
            elif not isinstance(layer, Dropout):
                add(layer, layer.units if isinstance(layer, Dense) else width())
            elif records:
                records[-1].dropout = layer.rate
            else:
                dropped_inputs = layer.rate

    visit(layers)
    return records, dropped_inputs


def means_and_deviations(X: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column, taken as 1 where a column is constant.

    Raises
    ------
    ValueError
        If one of them overflows float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean = X.mean(axis=0, dtype=np.float64)
        square = np.zeros(X.shape[1])
        for start in range(0, len(X), 1024):  # so that no copy of X is made
            square += ((X[start : start + 1024] - mean) ** 2).sum(axis=0)
        deviation = np.sqrt(square / len(X))
    overflows = np.flatnonzero(~np.isfinite(deviation))
    if overflows.size:
        raise ValueError(
            f"X must have a standard deviation that float64 can hold, got column {overflows[0]} "
            f"from {X[:, overflows[0]].min()} to {X[:, overflows[0]].max()}"
        )
    constant = X.min(axis=0) == X.max(axis=0)
    mean[constant] = X[0, constant]  # not a sum's rounding
    deviation[constant | (deviation < np.finfo(X.dtype).tiny)] = 1
    return mean, deviation
