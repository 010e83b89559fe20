"""Training by SciPy's minimisers: each `fit` is one run on all the data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastbp import training
from fastbp._dispatch import engine
from fastbp.optimizers import Minimizer

if TYPE_CHECKING:
    from fastbp.network import Network
    from fastbp.splitting import Samples

__all__ = ["minimize"]


# What limits a run where it is not the number of iterations.
LIMITS = {"TNC": "maxfun"}


class Ended(Exception):
    """A callback has ended the training."""


def minimize(
    network: Network,
    minimizer: Minimizer,
    plan: engine.Plan,
    trained: NDArray[np.intp],
    penalty: Callable[..., float],
    samples: Samples,
    validation: Samples | None,
    settings: training.Settings,
) -> training.History:
    """Minimise mean loss and penalty over what is `trained`; an epoch is an iteration.

    Whatever ends it, the parameters are those of the last iteration.
    """
    from scipy import optimize  # only who asks for it pays for its import

    history = training.History(metrics={name: [] for name in settings.metrics})
    gradient = np.zeros_like(plan.parameters)
    last_good = plan.parameters[trained].astype(np.float64)
    evaluated, mean_loss = last_good, math.inf  # where the loss was taken last, and what it was
    started = time.perf_counter()

    def loss_and_gradient(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal evaluated, mean_loss
        with np.errstate(over="ignore"):
            plan.parameters[trained] = theta
        loss = math.inf
        if engine.all_finite(plan.parameters):
            evaluated = np.array(theta)
            mean_loss = plan.loss_and_gradient(*samples, gradient, settings.n_threads)
            loss = mean_loss + penalty(plan.parameters, gradient)
        if not math.isfinite(loss):  # the line search went too far
            return math.inf, np.zeros(len(trained))
        return loss, gradient[trained].astype(np.float64)

    def after_iteration(theta: NDArray[np.float64]) -> None:
        nonlocal last_good, started
        last_good = np.array(theta)
        plan.parameters[trained] = last_good
        history.seconds.append(time.perf_counter() - started)
        if not np.array_equal(last_good, evaluated):  # a line search may end before its last try
            loss_and_gradient(last_good)
        history.loss.append(mean_loss)
        if settings.gradient_norm:
            norm = np.linalg.norm(gradient[trained].astype(np.float64))
            history.gradient_norm.append(float(norm))
        training.look(network, plan, samples, validation, settings, history)
        # every callback hears of the iteration, whatever another one answers
        if any([callback.on_epoch_end(network, history) for callback in settings.callbacks]):
            raise Ended
        for callback in settings.callbacks:
            callback.on_epoch_begin(network, history)
        started = time.perf_counter()

    for callback in settings.callbacks:
        callback.on_train_begin(network, settings.epochs)
        callback.on_epoch_begin(network, history)
    try:
        first, _ = loss_and_gradient(last_good)
        if not math.isfinite(first):
            raise FloatingPointError(f"the loss is not finite; {training.DIVERGENCE_HINT}")
        optimize.minimize(
            loss_and_gradient, last_good, jac=True, method=minimizer.method, tol=settings.tol,
            callback=after_iteration,
            options={**minimizer.options, LIMITS.get(minimizer.method, "maxiter"): settings.epochs},
        )
    except Ended:
        pass
    finally:
        plan.parameters[trained] = last_good
        for callback in settings.callbacks:
            callback.on_train_end(network, history)
    return history
