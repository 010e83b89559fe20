"""Layers a network is made of, as data."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from fastbp import _checks, activations
from fastbp.initializers import INITIALIZERS

if TYPE_CHECKING:
    from fastbp.activations import Activation
    from fastbp.initializers import Initializer

__all__ = ["Dense"]


@dataclass(frozen=True)
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

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or not among those listed.

    Examples
    --------
    >>> Dense(128, "relu")
    Dense(units=128, activation='relu', init='auto', trainable=True)
    """

    units: int
    activation: str | Activation = "identity"
    _: KW_ONLY
    init: str | Initializer = "auto"
    trainable: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", _checks.count("units", self.units))
        activations.check(self.activation)
        _checks.flag("trainable", self.trainable)
        if not callable(self.init):
            _checks.choice("init", self.init, INITIALIZERS)
