"""fastbp: `predict` as it is, `fit` of one epoch, and bound calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

import fastbp
from benchmarks.peers import base
from benchmarks.workloads import EPSILON, MOMENTUM, NORM_EPSILON, RHO, Array, Inputs, Model

OPTIMIZERS: dict[str, Callable[[Model], Any]] = {
    "sgd": lambda model: fastbp.SGD(model.learning_rate),
    "momentum": lambda model: fastbp.SGD(model.learning_rate, MOMENTUM),
    "rmsprop": lambda model: fastbp.RMSProp(model.learning_rate, rho=RHO, epsilon=EPSILON),
    "adam": lambda model: fastbp.Adam(model.learning_rate),
    "adamw": lambda model: fastbp.AdamW(model.learning_rate, weight_decay=model.weight_decay),
}
# What came later than the rest, by what a cell needs.
METHODS = {
    "bound": "bind",
    "bound-latency": "bind",
    "online": "bind_step",
    "online-adam": "bind_step",
    "jacobian": "jacobian",
}
NAMES = {
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSProp",
    "dropout": "Dropout",
    "layer_norm": "LayerNorm",
}


def offers_threads() -> bool:
    """Whether this version of fastbp has `n_threads`."""
    return "n_threads" in inspect.signature(fastbp.Network.fit).parameters


@cache
def accepts_sparse() -> bool:
    """Whether this version of fastbp takes SciPy's CSR arrays."""
    net = fastbp.Network(2, [fastbp.Dense(1)])
    try:
        net.train_step(csr_array(np.eye(2, dtype=np.float32)), np.ones(2))
    except TypeError:  # it names .toarray()
        return False
    return True


def lacks(need: str) -> str | None:
    """Say why this version of fastbp cannot do what a cell needs, or return None."""
    if need == "sparse":
        return None if accepts_sparse() else "this version of fastbp takes no CSR arrays"
    if need in METHODS and not hasattr(fastbp.Network, METHODS[need]):
        return f"this version of fastbp does not have Network.{METHODS[need]}"
    name = NAMES.get(need)
    missing = name is not None and not hasattr(fastbp, name)
    return f"this version of fastbp does not have {name}" if missing else None


def hidden_layers(model: Model) -> list[Any]:
    """Return the layers before the last one."""
    layers: list[Any] = []
    for width in model.widths[1:-1]:
        if model.layer_norm:
            norm = fastbp.LayerNorm(model.activation, epsilon=NORM_EPSILON)
            layers += [fastbp.Dense(width), norm]
        else:
            layers.append(fastbp.Dense(width, model.activation))
        if model.dropout:
            layers.append(fastbp.Dropout(model.dropout))
    return layers


def network(model: Model, *, softmax: bool) -> fastbp.Network:
    """Build the model in fastbp, with softmax or linear outputs."""
    last = fastbp.Dense(model.widths[-1], "softmax" if softmax else "identity")
    net = fastbp.Network(
        model.widths[0],
        [*hidden_layers(model), last],
        loss="cross_entropy" if softmax else "squared_error",
        optimizer=OPTIMIZERS[model.optimizer](model),
        dtype=model.dtype.name,
        seed=0,
    )
    net.parameters[...] = model.flat
    return net


class Trainer(base.Trainer):
    """`Network.fit`."""

    def __init__(self, model: Model, X: Inputs, y: Array, batch: int, options: dict[str, Any]):
        self.net = network(model, softmax=model.loss == "cross_entropy")
        self.first = model.flat
        self.fit = partial(self.net.fit, X, y, epochs=1, batch_size=batch, **options)

    def epoch(self, *, shuffle: bool) -> float | None:
        return float(self.fit(shuffle=shuffle).loss[0])

    def parameters(self) -> Array:
        return self.net.parameters.copy()

    def restore(self) -> None:
        self.net.parameters[...] = self.first


class Online(Trainer):
    """`Network.bind_step`: a bound step for each row."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        super().__init__(model, X, y, 1, {})
        self.steps = [self.net.bind_step(*row) for row in zip(X, y, strict=True)]

    def epoch(self, *, shuffle: bool) -> None:
        for step in self.steps:
            step()


class Adapter(base.Adapter):
    """fastbp, with `n_threads` where this version has it."""

    @property
    def _options(self) -> dict[str, Any]:
        return {"n_threads": self.n_threads} if self.n_threads > 1 else {}

    def predictor(self, model: Model, X: Inputs) -> Callable[[], Array]:
        net = network(model, softmax=model.softmax)
        given = X[0] if model.nonzeros is None and len(X) == 1 else X
        if self._options:
            return partial(net.predict, given, **self._options)

        def predict() -> Array:  # as a program does: through `partial` it would take 40 ns more
            return net.predict(given)

        return predict

    def bound(self, model: Model, x: Array) -> Callable[[], Array]:
        return network(model, softmax=model.softmax).bind(x, np.empty(model.widths[-1], x.dtype))

    def jacobian(self, model: Model, x: Array) -> Callable[[], Array]:
        return partial(network(model, softmax=False).jacobian, x)

    def online(self, model: Model, X: Array, y: Array) -> Trainer:
        return Online(model, X, y)

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y, batch, self._options)
