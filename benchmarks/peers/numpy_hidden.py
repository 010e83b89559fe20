"""What follows the product of a hidden layer, in NumPy, in place and with buffers made once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erf  # NumPy has none

from benchmarks.workloads import NORM_EPSILON, Array, Model

# Each writes f(Z) to Z, and f'(Z) to `slope` if there is one. Written at once they share terms.


def relu(Z: Array, slope: Array | None) -> None:
    if slope is not None:
        np.greater(Z, 0, out=slope)
    np.maximum(Z, 0, out=Z)


def tanh(Z: Array, slope: Array | None) -> None:
    np.tanh(Z, out=Z)
    if slope is not None:
        np.square(Z, out=slope)
        np.subtract(1, slope, out=slope)


def sigmoid(Z: Array, slope: Array | None) -> None:
    np.negative(Z, out=Z)
    np.exp(Z, out=Z)
    Z += 1
    np.reciprocal(Z, out=Z)
    if slope is not None:
        np.subtract(1, Z, out=slope)
        slope *= Z


def gelu(Z: Array, slope: Array | None) -> None:
    """Z times the normal distribution's cumulative function (Hendrycks and Gimpel 2016)."""
    below = Z * Z.dtype.type(np.sqrt(0.5))
    erf(below, out=below)
    below += 1
    below *= 0.5
    if slope is not None:
        np.square(Z, out=slope)
        slope *= -0.5
        np.exp(slope, out=slope)
        slope *= 1 / np.sqrt(2 * np.pi)
        slope *= Z
        slope += below
    Z *= below


ACTIVATIONS: dict[str, Callable[[Array, Array | None], None]] = {
    "relu": relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "gelu": gelu,
}


def standardize(Z: Array, out: Array) -> Array:
    """Write each row of Z less its mean, by its deviation, to `out`; return 1 / deviation."""
    np.subtract(Z, Z.mean(axis=-1, keepdims=True), out=out)
    variance = np.vecdot(out, out)[..., None] / Z.shape[-1]
    inverse: Array = 1 / np.sqrt(variance + Z.dtype.type(NORM_EPSILON))
    out *= inverse
    return inverse


class Hidden:
    """Normalisation, activation and dropping of one hidden layer in training."""

    def __init__(self, model: Model, batch: int, width: int, norm: tuple[Array, ...]) -> None:
        """Make the buffers.

        Parameters
        ----------
        model : Model
        batch, width : int
        norm : tuple of arrays
            Gain, shift, and where their gradients go; empty if the layer does not normalise.
        """
        self.activate, self.norm = ACTIVATIONS[model.activation], norm
        self.rate = model.dropout
        self.rng = np.random.default_rng(0)
        masks = model.activation == "relu" and not self.rate
        self.slope = np.empty((batch, width), bool if masks else model.dtype)
        self.uniform, self.standard = np.empty((2, batch, width), model.dtype)

    def forward(self, Z: Array) -> None:
        """Turn what the product gave into the layer's outputs."""
        if self.norm:
            gain, shift, *_ = self.norm
            self.inverse = standardize(Z, self.standard)
            np.multiply(self.standard, gain, out=Z)
            Z += shift
        self.activate(Z, self.slope)
        if self.rate:
            self.rng.random(out=self.uniform, dtype=self.uniform.dtype)
            keep = np.greater_equal(self.uniform, self.rate, out=self.uniform)
            keep *= 1 / (1 - self.rate)
            Z *= keep
            self.slope *= keep

    def backward(self, D: Array) -> None:
        """Turn the gradient of the outputs into the one of what the product gave."""
        D *= self.slope
        if self.norm:
            gain, _, gain_gradient, shift_gradient = self.norm
            np.sum(D, axis=0, out=shift_gradient)
            np.einsum("ij,ij->j", D, self.standard, out=gain_gradient)
            D *= gain
            along = np.vecdot(D, self.standard)[:, None] / D.shape[1]
            D -= D.mean(axis=1, keepdims=True)
            D -= self.standard * along
            D *= self.inverse
