"""Layers a network is made of, as data."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from fastbp import _checks
from fastbp._dispatch import engine
from fastbp.initializers import INITIALIZERS

if TYPE_CHECKING:
    from fastbp.initializers import Initializer

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: ``A = f(X W + b)``.

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : {"identity", "sigmoid", "tanh", "relu", "softmax"}
        The function f; "softmax" only in a network's last layer.
    init : str or callable
        How W starts: "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", or "auto",
        which is "he_normal" before a relu and "glorot_uniform" otherwise. A callable
        ``init(rng, n_in, n_out)`` returns the (n_in, n_out) array itself. The bias starts at 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or not among those listed.

    Examples
    --------
    >>> Dense(128, "relu")
    Dense(units=128, activation='relu', init='auto')
    """

    units: int
    activation: str = "identity"
    _: KW_ONLY
    init: str | Initializer = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", _checks.count("units", self.units))
        _checks.choice("activation", self.activation, engine.ACTIVATIONS)
        if not callable(self.init):
            _checks.choice("init", self.init, INITIALIZERS)
