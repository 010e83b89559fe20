"""Layers a network is made of, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Any

from fastbp import _checks, activations
from fastbp._data import Frozen, short_repr
from fastbp.initializers import INITIALIZERS

if TYPE_CHECKING:
    from fastbp.activations import Activation
    from fastbp.initializers import Initializer

__all__ = [
    "BatchNorm", "Dense", "Dropout", "Layer", "LayerNorm", "Normalize", "Residual",
    "checked_layers",
]


class Dense(Frozen):
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


class Dropout(Frozen):
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


class Normalize(Frozen):
    """Subtracts from each feature its mean, and divides it by its standard deviation.

    Only a network's first layer. The statistics are those of the samples that the first `fit`
    trains on, or of `Network.adapt`, and stay inside the network: it goes on taking raw inputs. The
    deviation is that of the samples themselves, as NumPy's ``std`` has it; a feature that does not
    vary is divided by 1.

    Examples
    --------
    >>> [Normalize(), Dense(128, "relu"), Dense(10, "softmax")][0]
    Normalize()
    """


def _check_norm(layer: Any) -> None:
    activations.check(layer.activation)
    if layer.activation in ("softmax", "log_softmax"):
        raise ValueError(f"activation {layer.activation!r} belongs in a last Dense layer")
    object.__setattr__(layer, "epsilon", _checks.positive("epsilon", layer.epsilon))
    _checks.flag("trainable", layer.trainable)


class BatchNorm(Frozen):
    """Normalises each column by mean and variance of the batch: ``f(gain x' + shift)``.

    It puts ``x' = (x - mean) / sqrt(variance + epsilon)`` through a gain for each column, 1 at
    first, and a shift, 0 at first, both trained. Prediction, `Network.evaluate` and
    `Network.loss_and_gradient` go by running statistics that training gathers, and so does a step
    of one row, which leaves them as they are (Ioffe and Szegedy 2015).

    Parameters
    ----------
    activation : str or activation
        The function f, as for `Dense`, but for softmax and its logarithm.
    momentum : float
        In (0, 1]: the weight of each batch in the running statistics, as PyTorch counts; Keras
        calls 1 minus this momentum.
    epsilon : float
        Positive; keeps a column that hardly varies from being blown up.
    trainable : bool
        Whether training changes the layer, its running statistics included; otherwise it goes by
        them in training, too.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or not among those listed.

    Notes
    -----
    What is normalised is divided by the deviation of the batch's n rows; the running variance
    gathers ``n / (n - 1)`` of its square, an unbiased estimate of the population's, as in PyTorch.
    A batch of more than 1024 rows is normalised in equal parts (Hoffer and others 2017).

    Examples
    --------
    >>> [Dense(128), BatchNorm("relu"), Dense(10, "softmax")][1]
    BatchNorm(activation='relu')
    """

    activation: str | Activation = "identity"
    _: KW_ONLY
    momentum: float = 0.1
    epsilon: float = 1e-5
    trainable: bool = True

    def __post_init__(self) -> None:
        _check_norm(self)
        momentum = _checks.number("momentum", self.momentum)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must lie in (0, 1], got {self.momentum!r}")
        object.__setattr__(self, "momentum", momentum)

    def __repr__(self) -> str:
        """Return the call that makes it, without what is left at its default."""
        return short_repr(self, "activation")


class LayerNorm(Frozen):
    """Normalises each row by its own mean and variance: ``f(gain x' + shift)``.

    It puts ``x' = (x - mean) / sqrt(variance + epsilon)`` through a gain for each column, 1 at
    first, and a shift, 0 at first, both trained (Ba and others 2016).

    Parameters
    ----------
    activation : str or activation
        The function f, as for `Dense`, but for softmax and its logarithm.
    epsilon : float
        Positive; keeps a row that hardly varies from being blown up.
    trainable : bool
        Whether training changes the layer.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or not among those listed.

    Examples
    --------
    >>> [Dense(128), LayerNorm("gelu"), Dense(10, "softmax")][1]
    LayerNorm(activation='gelu')
    """

    activation: str | Activation = "identity"
    _: KW_ONLY
    epsilon: float = 1e-5
    trainable: bool = True

    def __post_init__(self) -> None:
        _check_norm(self)

    def __repr__(self) -> str:
        """Return the call that makes it, without what is left at its default."""
        return short_repr(self, "activation")


class Residual(Frozen):
    """The sum of its input and of what its layers make of it (He and others 2016).

    Parameters
    ----------
    layers : sequence of layers
        They must end as wide as they begin, and not begin with a Dropout, which would drop of the
        input itself.

    Raises
    ------
    TypeError, ValueError
        If the layers are not as above.

    Examples
    --------
    >>> Residual([LayerNorm(), Dense(64, "gelu"), Dense(32)]).layers[2]
    Dense(units=32, activation='identity')
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        layers = checked_layers(self.layers)
        if isinstance(layers[0], (Dropout, Normalize)):
            raise ValueError(f"layers of a Residual must not begin with {layers[0]}")
        object.__setattr__(self, "layers", layers)


def checked_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return layers in a row as a tuple, or raise TypeError or ValueError."""
    accepted = "layers must be a sequence of Dense and other layers"
    try:
        checked = tuple(layers)
    except TypeError:
        raise TypeError(f"{accepted}, got {layers!r}") from None
    if not checked:
        raise ValueError("layers must hold at least one layer, got none")
    for layer, after in zip((None, *checked), checked, strict=False):
        if not isinstance(after, Layer):
            raise TypeError(f"{accepted}, got {after!r} in it")
        if isinstance(layer, Dropout) and isinstance(after, Dropout):
            raise ValueError(f"after {layer} there must be another kind of layer, got {after}")
        if isinstance(after, Normalize) and layer is not None:
            raise ValueError(f"Normalize must be a network's first layer, got it after {layer}")
    return checked


Layer = Dense | Dropout | Normalize | BatchNorm | LayerNorm | Residual
