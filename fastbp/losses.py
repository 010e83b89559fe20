"""Losses, as data. Each sums over the outputs and averages over the samples.

Their formulas, and where other libraries differ, are in docs/losses.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from fastbp import _checks
from fastbp._data import Frozen
from fastbp._dispatch import engine

__all__ = [
    "LOSSES", "AbsoluteError", "BinaryCrossEntropy", "Cosine", "CrossEntropy", "Custom", "Gamma",
    "Hinge", "Huber", "KullbackLeibler", "LogCosh", "Loss", "Poisson", "Quantile", "SquaredError",
    "SquaredHinge", "Tweedie",
]


class Loss(Frozen):
    """What all losses have in common: a name."""

    name: ClassVar[str]


class SquaredError(Loss):
    """``1/(2n) sum (prediction - y)^2``, over n samples and all outputs.

    PyTorch's ``MSELoss`` has no 1/2 and averages over the outputs as well.
    """

    name: ClassVar[str] = "squared_error"


class AbsoluteError(Loss):
    """``1/n sum |prediction - y|``, over n samples and all outputs."""

    name: ClassVar[str] = "absolute_error"


class Huber(Loss):
    """Half the squared error up to a distance of delta, and a straight line from there on.

    Parameters
    ----------
    delta : float
        Positive.
    """

    delta: float = 1.0
    name: ClassVar[str] = "huber"

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", _checks.positive("delta", self.delta))


class LogCosh(Loss):
    """``1/n sum log cosh(prediction - y)``: half a square near zero, straight far from it."""

    name: ClassVar[str] = "log_cosh"


class Quantile(Loss):
    """The pinball loss: ``q (y - a)`` where the prediction a is below y, else ``(1 - q) (a - y)``.

    Parameters
    ----------
    levels : float or sequence of float
        Quantiles q in (0, 1): one for all outputs, or one for each. With several, y may be (n,):
        then all outputs are quantiles of the same target.
    """

    levels: float | Sequence[float] = 0.5
    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        given = self.levels if isinstance(self.levels, (Sequence, tuple)) else (self.levels,)
        if isinstance(given, str) or not given:
            raise TypeError(f"levels must be a number or a sequence of numbers, got {given!r}")
        levels = tuple(_checks.number("levels", level) for level in given)
        for level in levels:
            if not 0 < level < 1:
                raise ValueError(f"levels must lie in (0, 1), got {level}")
        object.__setattr__(self, "levels", levels if len(levels) > 1 else levels[0])


class Poisson(Loss):
    """``1/n sum a - y log a``, for counts y >= 0 and predictions a > 0 of their mean.

    Behind an exponential it is computed from the raw outputs.
    """

    name: ClassVar[str] = "poisson"


class Gamma(Loss):
    """``1/n sum log a + y / a``, for y > 0 and predictions a > 0 of its mean.

    Behind an exponential it is computed from the raw outputs.
    """

    name: ClassVar[str] = "gamma"


class Tweedie(Loss):
    """``1/n sum a^(2-p)/(2-p) - y a^(1-p)/(1-p)``, for y >= 0 and predictions a > 0 of its mean.

    Behind an exponential it is computed from the raw outputs.

    Parameters
    ----------
    power : float
        p in (1, 2): how the variance grows with the mean; near 1 as for Poisson, near 2 as gamma.
    """

    power: float = 1.5
    name: ClassVar[str] = "tweedie"

    def __post_init__(self) -> None:
        power = _checks.number("power", self.power)
        if not 1 < power < 2:
            raise ValueError(
                f"power must lie in (1, 2), got {self.power!r}; Poisson has 1, and Gamma 2"
            )
        object.__setattr__(self, "power", power)


class BinaryCrossEntropy(Loss):
    """``-1/n sum y log p + (1 - y) log(1 - p)``, for targets in [0, 1].

    Behind a sigmoid it is computed from the raw outputs, exact for any size of them. Behind any
    other activation p is the prediction clipped to [eps, 1 - eps], eps being the machine epsilon
    of the network's dtype. PyTorch's ``BCELoss`` averages over the outputs as well.
    """

    name: ClassVar[str] = "binary_cross_entropy"


class CrossEntropy(Loss):
    """``-1/n sum y log p``, for integer labels or rows of probabilities y.

    Behind a softmax it is computed from the raw outputs, exact for any size of them; behind a
    log_softmax log p is the prediction itself. Behind any other activation p is the prediction, or
    the machine epsilon of the network's dtype where the prediction is below it.

    Parameters
    ----------
    label_smoothing : float
        s in [0, 1): ``(1 - s) y + s / n_outputs`` takes the place of y (Szegedy and others 2016).
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        smoothing = _checks.fraction("label_smoothing", self.label_smoothing)
        object.__setattr__(self, "label_smoothing", smoothing)


class Hinge(Loss):
    """``1/n sum max(0, 1 - y a)``, for y of -1 and 1; 0 stands for -1."""

    name: ClassVar[str] = "hinge"


class SquaredHinge(Loss):
    """``1/n sum max(0, 1 - y a)^2``, for y of -1 and 1; 0 stands for -1."""

    name: ClassVar[str] = "squared_hinge"


class KullbackLeibler(Loss):
    """``1/n sum y log(y / p)``, for rows of probabilities y.

    Cross-entropy less the entropy of y: the gradients are the same.
    """

    name: ClassVar[str] = "kullback_leibler"


class Cosine(Loss):
    """``1/n sum (1 - cos of the angle between prediction and y)``, over n samples."""

    name: ClassVar[str] = "cosine"


class Custom(Loss):
    """A loss of your own, of the raw outputs: those of the last layer before its activation.

    Parameters
    ----------
    function : callable or scipy.LowLevelCallable
        ``function(outputs, targets)`` returns the loss of each sample, of shape (n,), and their
        gradients by the outputs, (n, n_outputs); both arguments are (n, n_outputs) arrays of the
        network's dtype, copies that may be kept. What it raises, the training call raises.

        A compiled function takes one sample, and runs without the GIL: ``double f(int n_outputs,
        const double *output, const double *target, double *gradient, void *user_data)`` writes the
        gradient and returns the loss. Its numbers are doubles for a network of any dtype.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or a LowLevelCallable of another signature.

    Examples
    --------
    >>> def biweight(outputs, targets):
    ...     gap = outputs - targets
    ...     return (gap**4).sum(axis=1) / 4, gap**3
    >>> Custom(biweight).name
    'custom'
    """

    function: Callable[..., Any] | tuple[Any, ...]
    name: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        signature = getattr(self.function, "signature", None)
        if is_low_level(self.function):
            if str(signature).replace("const ", "") != SIGNATURE:
                raise ValueError(
                    f"a compiled loss must have the signature {SIGNATURE!r}, got {signature!r}"
                )
        elif not callable(self.function):
            raise TypeError(f"a loss's function must be callable, got {self.function!r}")

    def __repr__(self) -> str:
        """Return the name of the function, which a state of the network has to agree in."""
        function = self.function
        if isinstance(function, tuple):
            return "Custom(LowLevelCallable)"
        return f"Custom({getattr(function, '__qualname__', type(function).__qualname__)})"


SIGNATURE = "double (int, double *, double *, double *, void *)"


def is_low_level(function: object) -> bool:
    """Tell whether it is SciPy's LowLevelCallable, which no other tuple is."""
    if not isinstance(function, tuple):
        return False
    from scipy import LowLevelCallable  # which is there already if it is one

    return isinstance(function, LowLevelCallable)


LOSSES: dict[str, type[Loss]] = {
    each.name: each
    for each in (
        SquaredError, AbsoluteError, Huber, LogCosh, Quantile, Poisson, Gamma, Tweedie,
        BinaryCrossEntropy, CrossEntropy, Hinge, SquaredHinge, KullbackLeibler, Cosine,
    )
}


def named(loss: object) -> Loss:
    """Return the loss of a name with its defaults, a loss as it is, or one of a user's function."""
    if isinstance(loss, Loss):
        return loss
    if callable(loss) or is_low_level(loss):
        return Custom(loss)  # type: ignore[arg-type]
    return LOSSES[_checks.choice("loss", loss, LOSSES)]()


def engine_code(
    loss: Loss, n_outputs: int
) -> tuple[int, float, tuple[float, ...], object]:
    """Return code, parameter, quantiles and function, as the engine takes them.

    Raises
    ------
    ValueError
        If it does not go with so many outputs.
    """
    function: object = None
    levels: tuple[float, ...] = ()
    parameter = 0.0
    if isinstance(loss, Quantile):
        given = loss.levels
        levels = (given,) * n_outputs if isinstance(given, float) else tuple(given)
        if len(levels) != n_outputs:
            raise ValueError(
                f"{loss} wants one output for each level, got {n_outputs} for {len(levels)}"
            )
    elif isinstance(loss, Huber):
        parameter = loss.delta
    elif isinstance(loss, Tweedie):
        parameter = loss.power
    elif isinstance(loss, CrossEntropy):
        parameter = loss.label_smoothing
    elif isinstance(loss, Custom):
        function = loss.function
        if isinstance(function, tuple):
            function = tuple.__getitem__(function, 0)  # the capsule of a LowLevelCallable
    return engine.LOSSES[loss.name], parameter, levels, function
