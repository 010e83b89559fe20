"""How weights start: random matrices whose scale keeps signals alive through the layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    Initializer = Callable[[np.random.Generator, int, int], ArrayLike]

__all__ = ["INITIALIZERS", "initial_weight"]

INITIALIZERS = (
    "auto", "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal",
    "lecun_uniform",
)
# Activations that let through about half of their inputs.
HALVING = ("relu", "relu6", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish")


def initial_weight(
    rng: np.random.Generator, init: str | Initializer, activation: str, n_in: int, n_out: int
) -> NDArray[Any]:
    """Draw the first W of a layer.

    The variance is 2 / n_in for He's initialisation, 2 / (n_in + n_out) for Glorot's, and 1 / n_in
    for LeCun's.

    Parameters
    ----------
    rng : numpy.random.Generator
    init : str or callable
        As for `Dense`.
    activation : str
        Its name.
    n_in, n_out : int

    Returns
    -------
    ndarray of float64, shape (n_in, n_out)

    Raises
    ------
    TypeError, ValueError
        If a callable `init` returns no real array of this shape, or values that are not finite.

    References
    ----------
    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015, section 2.2.
    Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks,
    AISTATS 2010, section 4.2.1.
    LeCun, Bottou, Orr, Müller: Efficient backprop, 1998, section 4.6.
    """
    shape = n_in, n_out
    if callable(init):
        weight = np.asarray(init(rng, *shape))
        if weight.dtype.kind not in "buif":
            raise TypeError(f"init must return real numbers, got an array of {weight.dtype}")
        if weight.shape != shape:
            raise ValueError(f"init must return an array of shape {shape}, got {weight.shape}")
        if not np.isfinite(weight).all():
            raise ValueError("init must return finite values, got NaN or infinity")
        return weight
    if init == "auto":
        init = "he_normal" if activation in HALVING else "glorot_uniform"
        if activation == "selu":
            init = "lecun_normal"
    variance = {"he": 2 / n_in, "glorot": 2 / (n_in + n_out), "lecun": 1 / n_in}[
        init.partition("_")[0]
    ]
    if init.endswith("normal"):
        return rng.normal(0.0, math.sqrt(variance), shape)
    limit = math.sqrt(3 * variance)
    return rng.uniform(-limit, limit, shape)
