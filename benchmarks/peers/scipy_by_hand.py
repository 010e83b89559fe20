"""SciPy: sparse inputs, and otherwise what is written out for NumPy.

A step changes only the rows of the first weight that belong to features of its batch. They are
numbered anew, so that the gradient is a product with a matrix of as many columns as there are such
features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.sparse import csr_array

from benchmarks.peers import base, numpy_by_hand
from benchmarks.workloads import Array, Inputs, Model


class Trainer(numpy_by_hand.Trainer):
    """SGD that leaves alone what a batch does not touch."""

    def hold(self) -> None:
        after = self.weights[0].size
        self.dense, self.dense_gradient = self.theta[after:], self.gradient[after:]

    def take(self, rows: Array) -> None:
        self.inputs = self.X[rows]

    def first_product(self, out: Array) -> None:
        out[...] = self.inputs @ self.weights[0]

    def first_gradient(self, D: Array) -> None:
        X: Inputs = self.inputs
        features, places = np.unique(X.indices, return_inverse=True)
        batch = csr_array((X.data, places, X.indptr), shape=(len(D), len(features)))
        gradient = batch.T @ D
        gradient *= self.model.learning_rate
        self.weights[0][features] -= gradient

    def update(self) -> None:
        self.dense_gradient *= self.model.learning_rate
        self.dense -= self.dense_gradient


class Adapter(base.Adapter):
    """SciPy's products of sparse matrices, which have one thread."""

    def predictor(self, model: Model, X: Inputs) -> Callable[[], Array]:
        return partial(numpy_by_hand.predict, model, X)

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y, batch)
