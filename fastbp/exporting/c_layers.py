"""The layers of a network as steps in a row, and the C of a forward pass through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual, activations

__all__ = [
    "WITH_SLOPES", "Step", "activation_of", "arrays", "forward", "is_weighted", "loop", "output_of",
    "steps_of",
]

Layer = Dense | BatchNorm | LayerNorm | Normalize | Residual
Values = NDArray[Any]
# Of these f'(Z) is no function of f(Z).
WITH_SLOPES = ("gelu", "gelu_tanh", "silu", "mish")


@dataclass(frozen=True)
class Step:
    """A layer, its place in the row, and its values.

    Parameters
    ----------
    layer : layer
        No Dropout, which predicts nothing.
    number : int
        Counted from 1.
    n_in, n_out : int
    output : str
        The array that it writes: "out" for the last one.
    source : int
        Of a Residual: the number of the step whose output it adds, or 0 for the inputs.
    weight, bias : ndarray
        W and b, or gain and shift.
    statistics : tuple of ndarray
        Mean and variance of a BatchNorm, mean and standard deviation of a Normalize.
    """

    layer: Layer
    number: int
    n_in: int
    n_out: int
    output: str
    source: int = -1
    weight: Values | None = None
    bias: Values | None = None
    statistics: tuple[Values, ...] = ()

    @property
    def input(self) -> str:
        """The array that it reads."""
        return output_of(self.number - 1)

    @property
    def fields(self) -> tuple[tuple[str, Values], ...]:
        """Names and values of its parameters."""
        if self.weight is None or self.bias is None:
            return ()
        names = ("w", "b") if isinstance(self.layer, Dense) else ("gain", "shift")
        arrays = zip(names, (self.weight, self.bias), strict=True)
        return tuple((f"{name}{self.number}", values) for name, values in arrays)

    def constants(self, *, folded: bool) -> tuple[tuple[str, Values], ...]:
        """Names and values of what a normalisation subtracts and multiplies by.

        With `folded`, the gain of a BatchNorm is in its factor.
        """
        if not self.statistics:
            return ()
        mean, spread = self.statistics
        factor = 1 / spread
        if isinstance(self.layer, BatchNorm):
            factor = 1 / np.sqrt(spread + spread.dtype.type(self.layer.epsilon))
            if folded:
                factor = factor * self.weight
        return (f"mean{self.number}", mean), (f"factor{self.number}", factor)


def output_of(number: int) -> str:
    """Return the array that a step puts out; number 0 stands for the inputs."""
    return f"a{number}" if number else "x"


def is_weighted(step: Step) -> bool:
    """Tell whether a step has parameters."""
    return step.weight is not None


def steps_of(network: Network) -> list[Step]:
    """Return the layers of a network in the order of their work, those of a Residual before it."""
    parameters = iter(zip(network.weights, network.biases, strict=True))
    statistics = iter(network.statistics)
    steps: list[Step] = []

    def add(layer: Layer, n_in: int, n_out: int, *more: Any) -> None:
        number = len(steps) + 1
        steps.append(Step(layer, number, n_in, n_out, output_of(number), *more))

    def visit(layers: Sequence[Any]) -> None:
        for layer in layers:
            width = steps[-1].n_out if steps else network.n_inputs
            if isinstance(layer, Dropout):
                continue
            if isinstance(layer, Residual):
                source = len(steps)
                visit(layer.layers)
                add(layer, width, width, source)
                continue
            n_out = layer.units if isinstance(layer, Dense) else width
            weight, bias = (None, None) if isinstance(layer, Normalize) else next(parameters)
            gathered = next(statistics) if isinstance(layer, (BatchNorm, Normalize)) else ()
            add(layer, width, n_out, -1, weight, bias, gathered)

    visit(network.layers)
    return [*steps[:-1], replace(steps[-1], output="out")]


def activation_of(step: Step) -> tuple[str, float | None]:
    """Return name and parameter of a step's activation."""
    activation = getattr(step.layer, "activation", "identity")
    if isinstance(activation, str):
        defaults = {each.name: each for each in (
            activations.LeakyReLU, activations.ELU, activations.Softplus,
        )}
        if activation not in defaults:
            return activation, None
        activation = defaults[activation]()
    return activation.name, (
        activation.beta if isinstance(activation, activations.Softplus) else activation.alpha
    )


def arrays(steps: Sequence[Step]) -> str:
    """Return the declarations of what the steps put out, but for the last one."""
    return "".join(f"    @real {step.output}[{step.n_out}] @@ALIGNED;\n" for step in steps[:-1])


def loop(n: int, statement: str) -> str:
    """Return a loop of j over n elements."""
    return f"    for (int j = 0; j < {n}; ++j) {{\n        {statement}\n    }}\n"


def forward(
    steps: Sequence[Step],
    field: Callable[[str], str],
    *,
    folded: bool,
    back_to: int | None = None,
    from_logits: bool = False,
) -> str:
    """Return the C of a forward pass, as a template.

    Parameters
    ----------
    steps : sequence of Step
    field : callable
        From the name of a parameter's array to the expression for it.
    folded : bool
        Whether the gain of a BatchNorm is in its factor.
    back_to : int, optional
        The way back follows, down to this step: what it wants is written down.
    from_logits : bool
        Leaves out the last activation.
    """
    return "".join(
        _layer(step, field, folded, back_to)
        + ("" if from_logits and step is steps[-1] else _activation(step, back_to))
        for step in steps
    )


def _is_kept(step: Step, back_to: int | None, below: int = 0) -> bool:
    """Tell whether the way back passes this step, and so many more below it."""
    return back_to is not None and step.number - below >= back_to


def _layer(step: Step, field: Callable[[str], str], folded: bool, back_to: int | None) -> str:
    k, n, a, x = step.number, step.n_out, step.output, step.input
    if isinstance(step.layer, Dense):
        return f"    @dense({field(f'w{k}')}, {field(f'b{k}')}, {x}, {step.n_in}, {n}, {a});\n"
    if isinstance(step.layer, Residual):
        return loop(n, f"{a}[j] = {x}[j] + {output_of(step.source)}[j];")
    if isinstance(step.layer, LayerNorm):
        normal = f"normal{k}" if _is_kept(step, back_to) else a
        # which the gradient by the inputs wants alone
        inverse = f"const @real inverse{k} = " if _is_kept(step, back_to, below=1) else ""
        return (
            f"    {inverse}@layer_norm({x}, {n}, R({step.layer.epsilon!r}), {normal});\n"
            + loop(n, f"{a}[j] = {normal}[j] * {field(f'gain{k}')}[j] + {field(f'shift{k}')}[j];")
        )
    result = f"({x}[j] - @mean{k}[j]) * @factor{k}[j]"
    if isinstance(step.layer, BatchNorm):
        gain = "" if folded else f" * {field(f'gain{k}')}[j]"
        result = f"({x}[j] - @mean{k}[j]) * (@factor{k}[j]{gain}) + {field(f'shift{k}')}[j]"
    return loop(n, f"{a}[j] = {result};")


def _activation(step: Step, back_to: int | None) -> str:
    name, parameter = activation_of(step)
    a, n = step.output, step.n_out
    if name == "identity":
        return ""
    if name in ("softmax", "log_softmax"):
        return f"    @{name}({a}, {n});\n"
    function = "exp" if name == "exponential" else name
    more = "" if parameter is None else f", R({parameter!r})"
    slope = ""
    if _is_kept(step, back_to) and name in WITH_SLOPES:
        slope = loop(n, f"slope{step.number}[j] = @{name}_slope({a}[j]);")
    return slope + loop(n, f"{a}[j] = @{function}({a}[j]{more});") + f"    @@SETTLE({a})\n"
