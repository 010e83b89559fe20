"""Optimizers, as data. What each one computes is in docs/optimizers.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, field, fields
from typing import Any, ClassVar

from fastbp import _checks
from fastbp._data import Frozen, check_fields, short_repr
from fastbp._dispatch import engine
from fastbp.schedules import LearningRate, learning_rate

__all__ = [
    "LBFGS", "OPTIMIZERS", "SGD", "SIGNED_VECTORS", "AdaDelta", "AdaGrad", "Adam", "AdamW",
    "Adamax", "AnyOptimizer", "Lion", "Minimizer", "Nadam", "Optimizer", "RMSProp", "vector_names",
]


class Optimizer(Frozen):
    """What all optimizers have in common.

    Parameters
    ----------
    learning_rate : float or schedule or callable
        A positive number, one of `fastbp.schedules`, or a function of the step, counted from 0.
    weight_decay : float
        This much of each parameter is added to its gradient.
    clip_value : float, optional
        Each element of the gradient is clipped to [-clip_value, clip_value].
    clip_norm : float, optional
        A gradient whose Euclidean norm, over all parameters, is greater is shortened to it.
    noise, noise_decay : float
        Normal numbers of variance ``noise / (1 + step)^noise_decay`` are added to each element,
        after clipping (Neelakantan and others 2015). They come from the network's seed.

    Raises
    ------
    TypeError, ValueError
        If a parameter is no number or out of its range.
    """

    learning_rate: LearningRate = 0.01
    _: KW_ONLY
    weight_decay: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None
    noise: float = 0.0
    noise_decay: float = 0.55
    name: ClassVar[str]
    kind: ClassVar[str]  # of the engine's rule
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, CHECKS)

    def __repr__(self) -> str:
        """Return the call that makes it, without what is left at its default."""
        return short_repr(self, "learning_rate")


def _or_none(check: Any) -> Any:
    return lambda name, value: _checks.optional(check, name, value)


# How each setting is checked, for every optimizer that has it.
CHECKS: dict[str, Any] = {
    "learning_rate": learning_rate,
    "weight_decay": _checks.non_negative,
    "clip_value": _or_none(_checks.positive),
    "clip_norm": _or_none(_checks.positive),
    "noise": _checks.non_negative,
    "noise_decay": _checks.non_negative,
    "momentum": _checks.fraction,
    "dampening": _checks.fraction,
    "rho": _checks.fraction,
    "beta1": _checks.fraction,
    "beta2": _checks.fraction,
    "epsilon": _checks.positive,
    "nesterov": _checks.flag,
    "centered": _checks.flag,
    "amsgrad": _checks.flag,
    "rate_decay": _checks.non_negative,
    "momentum_decay": _checks.non_negative,
    "initial_accumulator": _checks.non_negative,
}


class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    momentum : float
        In [0, 1): how much of the last step's direction is kept.
    dampening : float
        In [0, 1): how much less of the gradient joins that direction; none on the first step.
    nesterov : bool
        Whether to look ahead (Nesterov 1983); wants momentum, and no dampening.

    Examples
    --------
    >>> SGD(0.1)
    SGD(learning_rate=0.1)
    >>> SGD(0.1, 0.9, nesterov=True)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    name: ClassVar[str] = "sgd"
    kind: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "nesterov=True wants a momentum above 0 and a dampening of 0, "
                f"got momentum={self.momentum} and dampening={self.dampening}"
            )


class AdaGrad(Optimizer):
    """Steps divided by the root of all squared gradients so far (Duchi, Hazan and Singer 2011).

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    epsilon : float
        Positive; added to the root.
    rate_decay : float
        The rate of step t is ``learning_rate / (1 + (t - 1) rate_decay)``.
    initial_accumulator : float
        What the sum of squares starts with.
    """

    epsilon: float = 1e-10
    rate_decay: float = 0.0
    initial_accumulator: float = 0.0
    name: ClassVar[str] = "adagrad"
    kind: ClassVar[str] = "adagrad"


class RMSProp(Optimizer):
    """Steps divided by the root of a running mean of squared gradients (Tieleman, Hinton 2012).

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    rho : float
        In [0, 1): how much of the running mean is kept in a step.
    epsilon : float
        Positive; added to the root.
    momentum : float
        In [0, 1): how much of the last step's direction is kept.
    centered : bool
        Whether to divide by the standard deviation instead (Graves 2013).
    """

    rho: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    name: ClassVar[str] = "rmsprop"
    kind: ClassVar[str] = "rmsprop"


class AdaDelta(Optimizer):
    """Steps as long as a running mean of past ones (Zeiler 2012).

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`; the rate is 1 in the paper.
    rho : float
        In [0, 1): how much of the running means is kept in a step.
    epsilon : float
        Positive; added to the means.
    """

    learning_rate: LearningRate = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6
    name: ClassVar[str] = "adadelta"
    kind: ClassVar[str] = "adadelta"


class Adam(Optimizer):
    """Running means of the gradient and of its square, without bias (Kingma and Ba 2015).

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    beta1, beta2 : float
        In [0, 1): how much of the means of the gradient and of its square is kept in a step.
    epsilon : float
        Positive; added to the root.
    amsgrad : bool
        Whether to divide by the greatest mean of squares so far (Reddi, Kale and Kumar 2018).

    Examples
    --------
    >>> Adam(1e-3, amsgrad=True)
    Adam(learning_rate=0.001, amsgrad=True)
    """

    learning_rate: LearningRate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False
    name: ClassVar[str] = "adam"
    kind: ClassVar[str] = "adam"


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Parameters
    ----------
    learning_rate, clip_value, clip_norm, noise, noise_decay, beta1, beta2, epsilon, amsgrad
        As for `Adam`.
    weight_decay : float
        Each parameter shrinks by ``learning_rate * weight_decay`` of itself in a step.
    """

    _: KW_ONLY
    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True


class Nadam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016).

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    beta1, beta2 : float
        In [0, 1), as for `Adam`.
    epsilon : float
        Positive; added to the root.
    momentum_decay : float
        beta1 of step t is ``beta1 (1 - 0.96 ** (t momentum_decay) / 2)``.
    """

    learning_rate: LearningRate = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum_decay: float = 4e-3
    name: ClassVar[str] = "nadam"
    kind: ClassVar[str] = "nadam"


class Adamax(Optimizer):
    """Adam with a decaying maximum in place of the mean of squares (Kingma and Ba 2015).

    Parameters
    ----------
    learning_rate, weight_decay, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    beta1, beta2 : float
        In [0, 1): how much of the mean of the gradient and of the maximum is kept in a step.
    epsilon : float
        Positive; added to the magnitude of the gradient.
    """

    learning_rate: LearningRate = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    name: ClassVar[str] = "adamax"
    kind: ClassVar[str] = "adamax"


class Lion(Optimizer):
    """Steps of one length, in the sign of a running mean (Chen and others 2023).

    Parameters
    ----------
    learning_rate, clip_value, clip_norm, noise, noise_decay
        As for every `Optimizer`.
    beta1, beta2 : float
        In [0, 1): how much of the running mean decides on a step, and is kept in it.
    weight_decay : float
        Each parameter shrinks by ``learning_rate * weight_decay`` of itself in a step.
    """

    learning_rate: LearningRate = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    name: ClassVar[str] = "lion"
    kind: ClassVar[str] = "lion"
    decoupled: ClassVar[bool] = True


# Those methods of scipy.optimize.minimize that take a gradient and no Hessian.
METHODS = ("L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP")


class Minimizer(Frozen):
    """A method of `scipy.optimize.minimize`: each `fit` is one run of it on all the data.

    `epochs` is the greatest number of iterations, `tol` SciPy's own; `batch_size`, `accumulate` and
    `shuffle` have no meaning. Best in float64.

    Parameters
    ----------
    method : {"L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP"}
        BFGS and SLSQP keep a square matrix of the parameters. For TNC, `epochs` limits how often
        the gradient is computed.
    options : mapping
        SciPy's options of the method.
    """

    method: str = "L-BFGS-B"
    options: Mapping[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "minimizer"

    def __post_init__(self) -> None:
        _checks.choice("method", self.method, METHODS)
        if not isinstance(self.options, Mapping):
            raise TypeError(f"options must be a mapping, got {self.options!r}")


class LBFGS(Frozen):
    """Limited-memory BFGS (Liu and Nocedal 1989), by SciPy: each `fit` is one run on all the data.

    `epochs` is the greatest number of iterations, `tol` SciPy's own; `batch_size`, `accumulate` and
    `shuffle` have no meaning. Best in float64.

    Parameters
    ----------
    memory : int
        How many steps and changes of the gradient stand in for the Hessian.
    """

    memory: int = 10
    name: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", _checks.count("memory", self.memory))


AnyOptimizer = Optimizer | LBFGS | Minimizer

OPTIMIZERS: dict[str, type[AnyOptimizer]] = {
    each.name: each
    for each in (
        SGD, AdaGrad, RMSProp, AdaDelta, Adam, AdamW, Nadam, Adamax, Lion, LBFGS, Minimizer,
    )
}


# What may hold negative numbers of the vectors that `vector_names` tells.
SIGNED_VECTORS = ("momentum", "mean")


def vector_names(optimizer: AnyOptimizer) -> tuple[str, ...]:
    """Tell which vectors, each as long as the parameters, an optimizer keeps between steps.

    Parameters
    ----------
    optimizer : optimizer

    Returns
    -------
    tuple of str
        "momentum", "mean" and "square" are running means of steps, of the gradient and of its
        square; "square_sum" is AdaGrad's sum of squares, "square_step" AdaDelta's mean of squared
        steps, "greatest" the maximum of Adamax, and "greatest_square" that of AMSGrad. All but
        momentum and mean are never negative.

    Examples
    --------
    >>> vector_names(Adam(amsgrad=True))
    ('mean', 'square', 'greatest_square')
    """
    kept: dict[str, object] = {}  # in the engine's order, with whether it is kept
    if isinstance(optimizer, SGD):
        kept = {"momentum": optimizer.momentum}
    elif isinstance(optimizer, AdaGrad):
        kept = {"square_sum": True}
    elif isinstance(optimizer, RMSProp):
        kept = {"square": True, "mean": optimizer.centered, "momentum": optimizer.momentum}
    elif isinstance(optimizer, AdaDelta):
        kept = {"square": True, "square_step": True}
    elif isinstance(optimizer, Adam):
        kept = {"mean": True, "square": True, "greatest_square": optimizer.amsgrad}
    elif isinstance(optimizer, Nadam):
        kept = {"mean": True, "square": True}
    elif isinstance(optimizer, Adamax):
        kept = {"mean": True, "greatest": True}
    elif isinstance(optimizer, Lion):
        kept = {"mean": True}
    return tuple(name for name, whether in kept.items() if whether)


def minimizer_of(optimizer: AnyOptimizer) -> Minimizer | None:
    """Return SciPy's method that an optimizer stands for, if it does."""
    if isinstance(optimizer, LBFGS):
        return Minimizer("L-BFGS-B", {"maxcor": optimizer.memory})
    return optimizer if isinstance(optimizer, Minimizer) else None


def engine_settings(optimizer: AnyOptimizer) -> tuple[int, dict[str, float]]:
    """Return the rule of an optimizer and its settings, but for a rate that changes."""
    if not isinstance(optimizer, Optimizer):
        return engine.OPTIMIZERS["sgd"], {}  # which keeps nothing, and is not used
    settings = {
        each.name: getattr(optimizer, each.name)
        for each in fields(optimizer)
        if getattr(optimizer, each.name) is not None
    }
    if not isinstance(optimizer.learning_rate, float):
        del settings["learning_rate"]
    return engine.OPTIMIZERS[optimizer.kind], {**settings, "decoupled": optimizer.decoupled}
