"""Activations, as data. Those without parameters are known by their names alone."""

from __future__ import annotations

from typing import ClassVar

from fastbp import _checks
from fastbp._data import Frozen
from fastbp._dispatch import engine

__all__ = ["ELU", "WITH_PARAMETERS", "Activation", "LeakyReLU", "Softplus"]


class LeakyReLU(Frozen):
    """``z`` where z > 0, ``alpha z`` elsewhere (Maas, Hannun and Ng 2013).

    Parameters
    ----------
    alpha : float
        Positive.
    """

    alpha: float = 0.01
    name: ClassVar[str] = "leaky_relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _checks.positive("alpha", self.alpha))


class ELU(Frozen):
    """``z`` where z > 0, ``alpha (exp(z) - 1)`` elsewhere (Clevert and others 2016).

    Parameters
    ----------
    alpha : float
        Positive.
    """

    alpha: float = 1.0
    name: ClassVar[str] = "elu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _checks.positive("alpha", self.alpha))


class Softplus(Frozen):
    """``log(1 + exp(beta z)) / beta`` (Dugas and others 2001).

    Parameters
    ----------
    beta : float
        Positive.
    """

    beta: float = 1.0
    name: ClassVar[str] = "softplus"

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _checks.positive("beta", self.beta))


Activation = LeakyReLU | ELU | Softplus
# By their names.
WITH_PARAMETERS: dict[str, type[Activation]] = {
    each.name: each for each in (LeakyReLU, ELU, Softplus)
}


def check(activation: object) -> None:
    """Raise an error for what is neither a valid name nor an activation with its parameters."""
    if not isinstance(activation, tuple(WITH_PARAMETERS.values())):
        _checks.choice("activation", activation, engine.ACTIVATIONS)


def name_of(activation: str | Activation) -> str:
    """Return the name of an activation."""
    return activation if isinstance(activation, str) else activation.name


def engine_code(activation: str | Activation) -> tuple[int, float]:
    """Return code and parameter, as the engine takes them."""
    name = name_of(activation)
    if isinstance(activation, str) and name in WITH_PARAMETERS:
        activation = WITH_PARAMETERS[name]()
    parameter = 0.0
    if not isinstance(activation, str):
        parameter = activation.beta if isinstance(activation, Softplus) else activation.alpha
    return engine.ACTIVATIONS[name], parameter
