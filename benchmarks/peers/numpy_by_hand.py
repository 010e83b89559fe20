"""NumPy: backpropagation written out, every product into a buffer made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.peers import base
from benchmarks.workloads import Array, Model, flatten

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def forward(X: Array, weights: tuple[Array, ...], biases: tuple[Array, ...]) -> Array:
    """Compute the linear outputs."""
    A = X
    for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
        if layer:
            np.maximum(A, 0, out=A)
        A = A @ W
        A += b
    return A


def predict(model: Model, X: Array) -> Array:
    """Compute what the network predicts."""
    A = forward(X, model.weights, model.biases)
    if model.softmax:
        A -= A.max(axis=-1, keepdims=True)
        np.exp(A, out=A)
        A /= A.sum(axis=-1, keepdims=True)
    return A


class Trainer(base.Trainer):
    """One network with its buffers."""

    def __init__(self, model: Model, X: Array, y: Array, batch: int) -> None:
        self.model, self.X, self.y, self.batch = model, X, y, batch
        self.rng = np.random.default_rng(0)
        # One flat vector each, and views of it: an optimizer is a few operations on the vector.
        self.theta, self.gradient = model.flat, np.empty_like(model.flat)
        self.weights, self.biases = self.views(self.theta)
        self.dW, self.db = self.views(self.gradient)
        self.first_moment, self.second_moment = np.zeros((2, *self.theta.shape), model.dtype)
        self.scratch = np.empty_like(self.theta)
        self.n_steps = 0
        # A[l] is the input of layer l, A[-1] the outputs, and D[l] is dL/dZ of layer l.
        self.A = [np.empty((batch, width), model.dtype) for width in model.widths]
        self.D = [np.empty_like(A) for A in self.A[1:]]
        self.rows = np.arange(batch)

    def views(self, flat: Array) -> tuple[list[Array], list[Array]]:
        """Cut a flat vector into weights and biases."""
        weights, biases, start = [], [], 0
        for W in self.model.weights:
            weights.append(flat[start : start + W.size].reshape(W.shape))
            start += W.size
            biases.append(flat[start : start + W.shape[1]])
            start += W.shape[1]
        return weights, biases

    def epoch(self, *, shuffle: bool) -> float:
        order = self.rng.permutation(len(self.X)) if shuffle else np.arange(len(self.X))
        total = 0.0
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            np.take(self.X, rows, axis=0, out=self.A[0], mode="clip")
            total += self.step(self.y[rows])
        return total * self.batch / len(order)

    def step(self, y: Array) -> float:
        """Make one step on the batch in A[0]; return its mean loss before the step."""
        A, D = self.A, self.D
        last = len(self.weights) - 1
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            np.matmul(A[layer], W, out=A[layer + 1])
            A[layer + 1] += b
            if layer < last:
                np.maximum(A[layer + 1], 0, out=A[layer + 1])
        loss = self.output_gradient(A[-1], y, D[-1])
        for layer in range(last, -1, -1):
            np.matmul(A[layer].T, D[layer], out=self.dW[layer])
            np.sum(D[layer], axis=0, out=self.db[layer])
            if layer:
                np.matmul(D[layer], self.weights[layer].T, out=D[layer - 1])
                D[layer - 1] *= A[layer] > 0
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
        rate, g, scratch = self.model.learning_rate, self.gradient, self.scratch
        if self.model.optimizer == "sgd":
            g *= rate
            self.theta -= g
            return
        self.n_steps += 1
        m, v, t = self.first_moment, self.second_moment, self.n_steps
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


class Adapter(base.Adapter):
    """NumPy, whose BLAS takes its number of threads from the environment."""

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        return partial(predict, model, X[0] if len(X) == 1 else X)

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y, batch)
