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

INITIALIZERS = ("auto", "he_normal", "he_uniform", "glorot_normal", "glorot_uniform")


def initial_weight(
    rng: np.random.Generator, init: str | Initializer, activation: str, n_in: int, n_out: int
) -> NDArray[Any]:
    """Draw the first W of a layer.

    The variance is 2 / n_in for He's initialisation and 2 / (n_in + n_out) for Glorot's.

    Parameters
    ----------
    rng : numpy.random.Generator
    init, activation : str or callable, str
        As for `Dense`.
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
        init = "he_normal" if activation == "relu" else "glorot_uniform"
    variance = 2 / n_in if init.startswith("he") else 2 / (n_in + n_out)
    if init.endswith("normal"):
        return rng.normal(0.0, math.sqrt(variance), shape)
    limit = math.sqrt(3 * variance)
    return rng.uniform(-limit, limit, shape)
