"""A network of scikit-learn's multilayer perceptrons."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp import LBFGS, SGD, Adam, Dense, Network, Normalize
from fastbp.interop.parts import Part, assembled, naming, required

__all__ = ["read"]

ACTIVATIONS = {
    "identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu",
    "softmax": "softmax", "exp": "exponential",
}
# What "auto" stands for, where there are as many samples.
AUTO_BATCH = 200


def read(
    estimator: Any, *, batch_size: int | None, optimizer: Any, seed: int | None
) -> Network:
    """Return a network of a fitted estimator."""
    required("sklearn", "scikit-learn")
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = None
    if isinstance(estimator, Pipeline) and len(estimator.steps) == 2:
        (_, scaler), (_, estimator) = estimator.steps
    if not isinstance(estimator, (MLPClassifier, MLPRegressor)) or not (
        scaler is None or isinstance(scaler, StandardScaler)
    ):
        raise TypeError(
            "estimator must be an MLPClassifier or MLPRegressor, or a Pipeline of a StandardScaler "
            f"and one, got {estimator if scaler is None else (scaler, estimator)}"
        )
    if not hasattr(estimator, "coefs_"):
        raise ValueError(f"{type(estimator).__name__} has no weights yet: call its fit first")
    if optimizer is None:
        optimizer = _optimizer(estimator)
    l2 = _penalty(estimator, batch_size)
    last = len(estimator.coefs_) - 1
    parts = [
        Part(
            Dense(
                weight.shape[1],
                ACTIVATIONS[estimator.out_activation_ if at == last else estimator.activation],
                l2=l2,
            ),
            f"coefs_[{at}]", weight, bias,
        )
        for at, (weight, bias) in enumerate(
            zip(estimator.coefs_, estimator.intercepts_, strict=True)
        )
    ]
    if scaler is not None:
        parts.insert(0, _normalize(scaler, estimator))
    return assembled(parts, loss=None, optimizer=optimizer, seed=seed)


def _normalize(scaler: Any, estimator: Any) -> Part:
    width, dtype = estimator.n_features_in_, estimator.coefs_[0].dtype
    # which are None where the scaler is told not to use them
    mean = np.zeros(width) if scaler.mean_ is None or not scaler.with_mean else scaler.mean_
    deviation = np.ones(width) if scaler.scale_ is None else scaler.scale_
    return Part(
        Normalize(), "StandardScaler", statistics=(mean.astype(dtype), deviation.astype(dtype))
    )


def _penalty(estimator: Any, batch_size: int | None) -> float:
    """What alpha is per sample of a step: the penalty there is alpha / (2 samples) sum w^2."""
    if batch_size is None:
        if not estimator.t_:  # by lbfgs, which takes all samples and has not counted them
            return 0.0
        asked = AUTO_BATCH if estimator.batch_size == "auto" else estimator.batch_size
        batch_size = min(asked, estimator.t_ // estimator.n_iter_)
    elif batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    return float(estimator.alpha / batch_size)


def _optimizer(estimator: Any) -> Any:
    if estimator.solver == "lbfgs":
        return LBFGS()
    rate = estimator.learning_rate_init
    with naming(f"{type(estimator).__name__}, solver={estimator.solver!r}; give an optimizer"):
        if estimator.solver == "adam":
            return Adam(
                rate, beta1=estimator.beta_1, beta2=estimator.beta_2, epsilon=estimator.epsilon
            )
        if estimator.learning_rate != "constant":
            raise ValueError(
                f"learning_rate={estimator.learning_rate!r} goes by epochs, and cannot be "
                "carried over"
            )
        momentum = estimator.momentum
        return SGD(rate, momentum=momentum, nesterov=estimator.nesterovs_momentum and momentum > 0)
