"""mlpfile: one row at a time, in and out; hidden layers are ReLU and the outputs linear."""

from __future__ import annotations

import copy
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlpfile
import numpy as np

from benchmarks.peers import base
from benchmarks.workloads import Array, Model, flatten

LINEAR, RELU = 2, 3  # layer codes of the file format


def load(model: Model) -> Any:
    """Write a model in mlpfile's format and load it: the way to given parameters."""
    n_layers = 2 * len(model.weights) - 1
    header = [n_layers, model.widths[0]]
    for width in model.widths[1:-1]:
        header += [LINEAR, width, RELU]
    header += [LINEAR, model.widths[-1]]
    arrays = zip(model.weights, model.biases, strict=True)
    body = b"".join(W.T.astype("<f4").tobytes() + b.astype("<f4").tobytes() for W, b in arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.mlp")
        path.write_bytes(struct.pack(f"<{len(header)}I", *header) + body)
        return mlpfile.Model.load(str(path))


class Trainer(base.Trainer):
    """`grad_update`, row by row. It does not compute the loss."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        self.first = load(model)
        self.restore()
        self.X, self.rate = X, model.learning_rate
        self.rng = np.random.default_rng(0)
        if model.loss == "squared_error":
            self.y, self.loss = y, mlpfile.squared_error
        else:
            self.y = np.eye(model.widths[-1], dtype=X.dtype)[y]
            self.loss = mlpfile.softmax_cross_entropy

    def epoch(self, *, shuffle: bool) -> None:
        n = len(self.X)
        update, X, y, loss, rate = self.model.grad_update, self.X, self.y, self.loss, self.rate
        for row in self.rng.permutation(n) if shuffle else range(n):
            update(X[row], y[row], loss, rate)

    def parameters(self) -> Array:
        layers = [layer for layer in self.model.layers if layer.type == mlpfile.LayerType.Linear]
        return flatten([layer.W.T for layer in layers], [layer.b for layer in layers])

    def restore(self) -> None:
        self.model = copy.copy(self.first)


class Online(Trainer):
    """`grad_update`, with the rows and their targets taken apart before."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        super().__init__(model, X, y)
        self.rows = list(zip(self.X, self.y, strict=True))

    def epoch(self, *, shuffle: bool) -> None:
        update, loss, rate = self.model.grad_update, self.loss, self.rate
        for x, y in self.rows:
            update(x, y, loss, rate)


class Adapter(base.Adapter):
    """mlpfile, which has one thread and nothing to set."""

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        return partial(load(model).forward, X[0])

    def jacobian(self, model: Model, x: Array) -> Callable[[], Array]:
        return partial(load(model).jacobian, x)

    def online(self, model: Model, X: Array, y: Array) -> Trainer:
        return Online(model, X, y)

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y)
