"""NumPy: backpropagation written out, every product into a buffer made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.peers import base
from benchmarks.peers.numpy_hidden import ACTIVATIONS, Hidden, standardize
from benchmarks.workloads import (
    BETA_1,
    BETA_2,
    EPSILON,
    MOMENTUM,
    RHO,
    Array,
    Inputs,
    Model,
    flatten,
)


def forward(model: Model, X: Inputs, buffers: Sequence[Array] = ()) -> Array:
    """Compute the linear outputs, with products in buffers if there are some."""
    A: Array = X
    for layer, (W, b) in enumerate(zip(model.weights, model.biases, strict=True)):
        if W.ndim == 1:
            standardize(A, A)
            A *= W
        else:
            if layer:
                ACTIVATIONS[model.activation](A, None)
            A = np.dot(A, W, out=buffers[layer]) if buffers else A @ W
        A += b
    return A


def predict(model: Model, X: Inputs, buffers: Sequence[Array] = ()) -> Array:
    """Compute what the network predicts."""
    A = forward(model, X, buffers)
    if model.softmax:
        A -= A.max(axis=-1, keepdims=True)
        np.exp(A, out=A)
        A /= A.sum(axis=-1, keepdims=True)
    return A


def jacobian(model: Model, x: Array) -> Array:
    """Compute the derivatives of the linear outputs by one row, from the last layer to the first.

    With ReLU alone.
    """
    A, inputs = x, []
    for W, b in zip(model.weights, model.biases, strict=True):
        inputs.append(A)
        A = np.maximum(A @ W + b, 0)
    D = model.weights[-1].T
    for W, A in zip(model.weights[-2::-1], inputs[:0:-1], strict=True):
        D = (D * (A > 0)) @ W.T
    return D


class Trainer(base.Trainer):
    """One network with its buffers."""

    def __init__(self, model: Model, X: Inputs, y: Array, batch: int) -> None:
        self.model, self.X, self.y, self.batch = model, X, y, batch
        self.rng = np.random.default_rng(0)
        # One flat vector each, and views of it: an optimizer is a few operations on the vector.
        self.theta, self.gradient = model.flat, np.empty_like(model.flat)
        self.weights, self.biases = self.views(self.theta)
        self.dW, self.db = self.views(self.gradient)
        self.first_moment, self.second_moment = np.zeros((2, *self.theta.shape), model.dtype)
        self.scratch = np.empty_like(self.theta)
        self.n_steps = 0
        # A[l] is the output of layer l, A[-1] those of the network, and D[l] is dL/dZ of layer l.
        self.A = [np.empty((batch, width), model.dtype) for width in model.widths[1:]]
        self.D = [np.empty_like(A) for A in self.A]
        self.rows = np.arange(batch)
        # Where in `weights` the layers are; gains stand between them.
        self.layers = [at for at, W in enumerate(self.weights) if W.ndim == 2]
        self.hidden = [
            Hidden(model, batch, model.widths[layer + 1], self.norm_behind(at))
            for layer, at in enumerate(self.layers[:-1])
        ]
        self.hold()

    def hold(self) -> None:
        """Make room for the inputs of a batch."""
        self.inputs = np.empty((self.batch, self.model.widths[0]), self.model.dtype)

    def views(self, flat: Array) -> tuple[list[Array], list[Array]]:
        """Cut a flat vector into weights and biases."""
        weights, biases, start = [], [], 0
        for W, b in zip(self.model.weights, self.model.biases, strict=True):
            weights.append(flat[start : start + W.size].reshape(W.shape))
            start += W.size
            biases.append(flat[start : start + b.size])
            start += b.size
        return weights, biases

    def norm_behind(self, at: int) -> tuple[Array, ...]:
        """Return gain, shift and their gradients, if the layer at this place normalises."""
        parts = (self.weights, self.biases, self.dW, self.db)
        return tuple(part[at + 1] for part in parts) if self.model.layer_norm else ()

    def epoch(self, *, shuffle: bool) -> float | None:
        n = self.X.shape[0]
        order = self.rng.permutation(n) if shuffle else np.arange(n)
        total = 0.0
        for start in range(0, n, self.batch):
            rows = order[start : start + self.batch]
            self.take(rows)
            total += self.step(self.y[rows])
        return total * self.batch / len(order)

    def take(self, rows: Array) -> None:
        """Gather the inputs of a batch."""
        np.take(self.X, rows, axis=0, out=self.inputs, mode="clip")

    def first_product(self, out: Array) -> None:
        """Write the product of the batch's inputs and the first weight."""
        np.matmul(self.inputs, self.weights[0], out=out)

    def first_gradient(self, D: Array) -> None:
        """Write the first weight's gradient."""
        np.matmul(self.inputs.T, D, out=self.dW[0])

    def step(self, y: Array) -> float:
        """Make one step on the batch that was taken; return its mean loss before the step."""
        A, D, layers = self.A, self.D, self.layers
        last = len(layers) - 1
        for layer, at in enumerate(layers):
            if layer:
                np.matmul(A[layer - 1], self.weights[at], out=A[layer])
            else:
                self.first_product(A[0])
            A[layer] += self.biases[at]
            if layer < last:
                self.hidden[layer].forward(A[layer])
        loss = self.output_gradient(A[-1], y, D[-1])
        for layer in range(last, 0, -1):
            at = layers[layer]
            np.matmul(A[layer - 1].T, D[layer], out=self.dW[at])
            np.sum(D[layer], axis=0, out=self.db[at])
            np.matmul(D[layer], self.weights[at].T, out=D[layer - 1])
            self.hidden[layer - 1].backward(D[layer - 1])
        self.first_gradient(D[0])
        np.sum(D[0], axis=0, out=self.db[0])
        self.update()
        return loss

    def output_gradient(self, Z: Array, y: Array, D: Array) -> float:
        """Write dL/dZ of the last layer to D; return the mean loss. Z is overwritten."""
        n = len(Z)
        if self.model.loss == "squared_error":
            np.subtract(Z, y, out=D)
            loss = float(np.vdot(D, D)) / (2 * n)
        else:
            Z -= Z.max(axis=1, keepdims=True)
            np.exp(Z, out=D)
            sums = D.sum(axis=1, keepdims=True)
            loss = float(np.log(sums).sum() - Z[self.rows, y].sum()) / n
            D /= sums
            D[self.rows, y] -= 1
        D /= n
        return loss

    def update(self) -> None:
        """Move the parameters by one step of the optimizer."""
        self.n_steps += 1
        {
            "sgd": self.sgd,
            "momentum": self.momentum,
            "rmsprop": self.rmsprop,
            "adam": self.adam,
            "adamw": self.adam,
        }[self.model.optimizer]()

    def sgd(self) -> None:
        self.gradient *= self.model.learning_rate
        self.theta -= self.gradient

    def momentum(self) -> None:
        b = self.first_moment
        b *= MOMENTUM
        b += self.gradient
        np.multiply(b, self.model.learning_rate, out=self.scratch)
        self.theta -= self.scratch

    def rmsprop(self) -> None:
        g, v, scratch = self.gradient, self.second_moment, self.scratch
        v *= RHO
        np.square(g, out=scratch)
        scratch *= 1 - RHO
        v += scratch
        np.sqrt(v, out=scratch)
        scratch += EPSILON
        np.divide(g, scratch, out=scratch)
        scratch *= self.model.learning_rate
        self.theta -= scratch

    def adam(self) -> None:
        rate, g, scratch = self.model.learning_rate, self.gradient, self.scratch
        m, v, t = self.first_moment, self.second_moment, self.n_steps
        if self.model.weight_decay:
            self.theta *= 1 - rate * self.model.weight_decay
        m *= BETA_1
        np.multiply(g, 1 - BETA_1, out=scratch)
        m += scratch
        v *= BETA_2
        np.square(g, out=g)
        g *= 1 - BETA_2
        v += g
        np.divide(v, 1 - BETA_2**t, out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += EPSILON
        np.divide(m, scratch, out=scratch)
        scratch *= rate / (1 - BETA_1**t)
        self.theta -= scratch

    def parameters(self) -> Array:
        return flatten(self.weights, self.biases)

    def restore(self) -> None:
        self.theta[...] = self.model.flat


class Online(Trainer):
    """A step for each row, in place."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        super().__init__(model, X, y, 1)
        self.data = [(X[row : row + 1], y[row : row + 1]) for row in range(len(X))]

    def epoch(self, *, shuffle: bool) -> None:
        for x, y in self.data:
            self.inputs = x
            self.step(y)


class Adapter(base.Adapter):
    """NumPy, whose BLAS takes its number of threads from the environment."""

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        return partial(predict, model, X[0] if len(X) == 1 else X)

    def bound(self, model: Model, x: Array) -> Callable[[], Array]:
        return partial(predict, model, x, [np.empty(n, x.dtype) for n in model.widths[1:]])

    def jacobian(self, model: Model, x: Array) -> Callable[[], Array]:
        return partial(jacobian, model, x)

    def online(self, model: Model, X: Array, y: Array) -> Trainer:
        return Online(model, X, y)

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y, batch)
