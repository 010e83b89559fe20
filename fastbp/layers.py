"""Layers a network is made of, as data."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from fastbp import _checks, activations
from fastbp._data import short_repr
from fastbp.initializers import INITIALIZERS

if TYPE_CHECKING:
    from fastbp.activations import Activation
    from fastbp.initializers import Initializer

__all__ = ["Dense", "Dropout", "Layer"]


@dataclass(frozen=True, repr=False)
class Dense:
    """A fully connected layer: ``A = f(X W + b)``.

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : str or activation
        The function f: "identity", "sigmoid", "hard_sigmoid", "tanh", "relu", "relu6",
        "leaky_relu", "elu", "selu", "softplus", "softsign", "exponential", "gelu", "gelu_tanh",
        "silu", "mish", or one of `fastbp.activations` with its parameter. "softmax" and
        "log_softmax" only in a network's last layer.
    init : str or callable
        How W starts: "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal",
        "lecun_uniform", or "auto", which is "he_normal" before a relu and its kin, "lecun_normal"
        before a selu, and "glorot_uniform" otherwise. A callable ``init(rng, n_in, n_out)`` returns
        the (n_in, n_out) array itself. The bias starts at 0.
    trainable : bool
        Whether training changes the layer; its gradient counts as zero otherwise.
    l1, l2 : float
        Not negative: ``l1 sum |w| + l2 / 2 sum w^2`` over the weights, not the biases, is added to
        the mean loss that training minimises.
    max_norm : float, optional
        After every step, the weights of each unit are shortened to this Euclidean norm where
        theirs is greater (Srebro and Shraibman 2005).

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or not among those listed.

    Examples
    --------
    >>> Dense(128, "relu")
    Dense(units=128, activation='relu')
    """

    units: int
    activation: str | Activation = "identity"
    _: KW_ONLY
    init: str | Initializer = "auto"
    trainable: bool = True
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", _checks.count("units", self.units))
        activations.check(self.activation)
        _checks.flag("trainable", self.trainable)
        for name in ("l1", "l2"):
            object.__setattr__(self, name, _checks.non_negative(name, getattr(self, name)))
        most = _checks.optional(_checks.positive, "max_norm", self.max_norm)
        object.__setattr__(self, "max_norm", most)
        if not callable(self.init):
            _checks.choice("init", self.init, INITIALIZERS)

    def __repr__(self) -> str:
        """Return the call that makes it, without what is left at its default."""
        return short_repr(self, "units", "activation")


@dataclass(frozen=True)
class Dropout:
    """Sets a part of its inputs to zero in training, and nothing in prediction.

    What is kept is divided by the part that is kept, so that sums stay what they were in the mean
    (Srivastava and others 2014). Which ones, each step decides anew, from the network's seed.

    Parameters
    ----------
    rate : float
        In [0, 1): the part that is dropped.

    Examples
    --------
    >>> [Dense(128, "relu"), Dropout(0.2), Dense(10, "softmax")][1]
    Dropout(rate=0.2)
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", _checks.fraction("rate", self.rate))


Layer = Dense | Dropout
