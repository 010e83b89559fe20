"""scikit-learn: MLPClassifier or MLPRegressor, without what fastbp is not asked to do either.

No penalty, and momentum only where it is asked for. One call of `partial_fit` on all of the data
is one epoch of batches, so that validation of the arguments is paid once per epoch, as in `fit`.
Neither saves it any work: it adds the penalty's gradient, and keeps a velocity, whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.peers import base
from benchmarks.workloads import MOMENTUM, Array, Inputs, Model, flatten

ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}


def estimator(model: Model, **settings: Any) -> Any:
    """Build the estimator a model asks for."""
    kind = MLPRegressor if model.loss == "squared_error" else MLPClassifier
    return kind(
        hidden_layer_sizes=model.widths[1:-1],
        activation=ACTIVATIONS[model.activation],
        solver="adam" if model.optimizer == "adam" else "sgd",
        alpha=0.0,
        learning_rate_init=model.learning_rate,
        momentum=MOMENTUM if model.optimizer == "momentum" else 0.0,
        nesterovs_momentum=False,
        random_state=0,
        **settings,
    )


def with_parameters(model: Model, X: Inputs, y: Array, **settings: Any) -> Any:
    """Build the estimator with a model's parameters.

    There is no public way to set them: a first call on a few rows makes the arrays, which are
    overwritten then.
    """
    made = estimator(model, batch_size=1, **settings)
    classes = {"classes": np.arange(model.widths[-1])} if model.loss == "cross_entropy" else {}
    made.partial_fit(X[:1], targets(model, y)[:1], **classes)
    overwrite(made, model)
    del made._optimizer  # what it remembers of that first row
    return made


def overwrite(made: Any, model: Model) -> None:
    """Write a model's parameters into a fitted estimator."""
    for own, given in zip(made.coefs_, model.weights, strict=True):
        own[...] = given
    for own, given in zip(made.intercepts_, model.biases, strict=True):
        own[...] = given


def targets(model: Model, y: Array) -> Array:
    """Targets as scikit-learn likes them: 1-D where there is one output."""
    return y.ravel() if model.widths[-1] == 1 else y


class Trainer(base.Trainer):
    """`partial_fit` on all of the data."""

    def __init__(self, model: Model, X: Inputs, y: Array, batch: int) -> None:
        self.model, self.X, self.y = model, X, targets(model, y)
        self.made = with_parameters(model, X, y)
        self.made.set_params(batch_size=batch)

    def epoch(self, *, shuffle: bool) -> float | None:
        self.made.set_params(shuffle=shuffle)
        self.made.partial_fit(self.X, self.y)
        return float(self.made.loss_)

    def parameters(self) -> Array:
        return flatten(self.made.coefs_, self.made.intercepts_)

    def restore(self) -> None:
        overwrite(self.made, self.model)


class Online(Trainer):
    """`partial_fit` on each row."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        super().__init__(model, X, y, 1)
        self.rows = [(X[row : row + 1], self.y[row : row + 1]) for row in range(len(X))]

    def epoch(self, *, shuffle: bool) -> None:
        for row in self.rows:
            self.made.partial_fit(*row)


class Adapter(base.Adapter):
    """scikit-learn, whose BLAS takes its number of threads from the environment."""

    def predictor(self, model: Model, X: Inputs) -> Callable[[], Array]:
        zeros = np.zeros((1, model.widths[-1]), model.dtype)
        regression = model.loss == "squared_error"
        made = with_parameters(model, X, zeros if regression else np.zeros(1, np.int64))
        return partial(made.predict if regression else made.predict_proba, X)

    def online(self, model: Model, X: Array, y: Array) -> Trainer:
        return Online(model, X, y)

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> Trainer:
        return Trainer(model, X, y, batch)
