"""Metrics: how good predictions are, beside the loss.

Each takes the targets and the predictions, ``metric(y, prediction) -> float``, with y as `fit`
takes it: integer labels (n,), or an array of the predictions' shape (n, n_outputs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import _checks

__all__ = ["METRICS", "Metric", "accuracy", "log_loss", "mae", "mse", "r2", "top_k"]

Metric = Callable[[NDArray[Any], NDArray[Any]], float]


def _labels(y: NDArray[Any]) -> NDArray[Any]:
    """Labels, from themselves or from rows of probabilities."""
    return y if y.ndim == 1 else y.argmax(axis=1)


def _dense(y: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Targets of the shape of the predictions; labels become rows with a single 1."""
    if np.issubdtype(y.dtype, np.integer):
        y = np.eye(prediction.shape[1])[y]
    targets: NDArray[np.float64] = y.astype(np.float64).reshape(prediction.shape)
    return targets


def accuracy(y: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Part of the samples whose class is right; of one output, which side of 1/2 it is on.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_outputs)
        Labels or targets.
    prediction : ndarray of shape (n, n_outputs)

    Returns
    -------
    float
    """
    if prediction.shape[1] == 1:
        return float(np.mean((prediction[:, 0] > 0.5) == (y.ravel() > 0.5)))
    return float(np.mean(prediction.argmax(axis=1) == _labels(y)))


def top_k(k: int) -> Metric:
    """Return the metric: part of the samples whose class is among the k largest predictions.

    Parameters
    ----------
    k : int
        1 is the accuracy. A tie counts against the prediction.

    Returns
    -------
    callable
        ``metric(y, prediction) -> float``.
    """
    k = _checks.count("k", k)

    def metric(y: NDArray[Any], prediction: NDArray[Any]) -> float:
        labels = _labels(y)[:, np.newaxis]
        # ties count against it
        better = prediction >= np.take_along_axis(prediction, labels, axis=1)
        return float(np.mean(better.sum(axis=1) <= k))

    metric.__name__ = f"top_{k}"
    return metric


def mse(y: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Mean of the squared errors, over samples and outputs.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_outputs)
        Labels or targets.
    prediction : ndarray of shape (n, n_outputs)

    Returns
    -------
    float
    """
    return float(np.mean((prediction - _dense(y, prediction)) ** 2, dtype=np.float64))


def mae(y: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Mean of the absolute errors, over samples and outputs.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_outputs)
        Labels or targets.
    prediction : ndarray of shape (n, n_outputs)

    Returns
    -------
    float
    """
    return float(np.mean(np.abs(prediction - _dense(y, prediction)), dtype=np.float64))


def r2(y: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Coefficient of determination, the mean of those of all outputs.

    1 is perfect, 0 as good as the mean of y. An output whose y is constant counts as 1 where it is
    met and 0 otherwise, as in scikit-learn.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_outputs)
        Labels or targets.
    prediction : ndarray of shape (n, n_outputs)

    Returns
    -------
    float
    """
    targets = _dense(y, prediction)
    residual = ((prediction - targets) ** 2).sum(axis=0, dtype=np.float64)
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    scores = np.where(residual == 0, 1.0, 0.0)
    varies = spread > 0
    scores[varies] = 1 - residual[varies] / spread[varies]
    return float(scores.mean())


def log_loss(y: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Mean of -log of the probability of what is so, clipped at the machine epsilon.

    With one output, that is the probability of class 1.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_outputs)
        Labels or targets.
    prediction : ndarray of shape (n, n_outputs)

    Returns
    -------
    float
    """
    eps = np.finfo(prediction.dtype).eps
    p = np.clip(prediction.astype(np.float64), eps, 1 - eps)
    targets = _dense(y, prediction)
    if prediction.shape[1] == 1:
        return float(-np.mean(targets * np.log(p) + (1 - targets) * np.log(1 - p)))
    p /= p.sum(axis=1, keepdims=True)
    return float(-np.mean((targets * np.log(p)).sum(axis=1)))


METRICS: dict[str, Metric] = {
    each.__name__: each for each in (accuracy, mse, mae, r2, log_loss)
}


def named(metrics: Any) -> dict[str, Metric]:
    """Return metrics by name, from names of `METRICS` and callables, or raise an error."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    found: dict[str, Metric] = {}
    for each in metrics:
        name = getattr(each, "__name__", None) or repr(each)
        if not callable(each):
            name = _checks.choice("metric", each, METRICS)
            each = METRICS[name]
        if name in found:
            raise ValueError(f"metrics must have different names, got {name!r} twice")
        found[name] = each
    return found
