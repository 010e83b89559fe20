"""fastbp: `predict` as it is, and `fit` of one epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import fastbp
from benchmarks.peers import base
from benchmarks.workloads import Array, Model

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}


def offers_threads() -> bool:
    """Whether this version of fastbp has `n_threads`."""
    return "n_threads" in inspect.signature(fastbp.Network.fit).parameters


def offers_adam() -> bool:
    """Whether this version of fastbp has Adam."""
    return hasattr(fastbp, OPTIMIZERS["adam"])


def network(model: Model, *, softmax: bool) -> fastbp.Network:
    """Build the model in fastbp, with softmax or linear outputs."""
    hidden = [fastbp.Dense(width, "relu") for width in model.widths[1:-1]]
    net = fastbp.Network(
        model.widths[0],
        [*hidden, fastbp.Dense(model.widths[-1], "softmax" if softmax else "identity")],
        loss="cross_entropy" if softmax else "squared_error",
        optimizer=getattr(fastbp, OPTIMIZERS[model.optimizer])(model.learning_rate),
        dtype=model.dtype.name,
        seed=0,
    )
    net.parameters[...] = model.flat
    return net


class Trainer(base.Trainer):
    """`Network.fit`."""

    def __init__(self, model: Model, X: Array, y: Array, batch: int, options: dict[str, Any]):
        self.net = network(model, softmax=model.loss == "cross_entropy")
        self.first = model.flat
        self.fit = partial(self.net.fit, X, y, epochs=1, batch_size=batch, **options)

    def epoch(self, *, shuffle: bool) -> float:
        return float(self.fit(shuffle=shuffle).loss[0])

    def parameters(self) -> Array:
        return self.net.parameters.copy()

    def restore(self) -> None:
        self.net.parameters[...] = self.first


class Adapter(base.Adapter):
    """fastbp, with `n_threads` where this version has it."""

    @property
    def _options(self) -> dict[str, Any]:
        return {"n_threads": self.n_threads} if self.n_threads > 1 else {}

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        net = network(model, softmax=model.softmax)
        return partial(net.predict, X[0] if len(X) == 1 else X, **self._options)

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y, batch, self._options)
