"""The epoch loop: shuffling, validation, history, callbacks, and what happens on divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp._dispatch import engine
from fastbp.callbacks import Callback

if TYPE_CHECKING:
    from fastbp.network import Network

__all__ = ["History", "train"]

DIVERGENCE_HINT = (
    "training has diverged: try a smaller learning rate, or scale the inputs "
    "(and the targets of a regression) to about unit size"
)
# Epochs in a row without progress before `tol` ends the training: one unlucky epoch is none.
PATIENCE = 10


@dataclass
class History:
    """What happened in each epoch of one `fit`.

    Attributes
    ----------
    loss : list of float
        Mean loss of the samples, each batch's taken before its step.
    validation_loss : list of float
        Mean loss of the validation data after the epoch; empty without validation data.
    seconds : list of float
        Time spent training, validation and callbacks left out.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def checked_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Return the callbacks as a tuple, or raise TypeError."""
    try:
        checked = tuple(callbacks)
    except TypeError:
        checked = (callbacks,)  # type: ignore[assignment]
    for callback in checked:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks must be a sequence of Callback, got {callback!r}")
    return checked


def train(
    network: Network,
    plan: engine.Plan,
    rng: np.random.Generator,
    X: NDArray[Any],
    y: NDArray[Any],
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool,
    validation: tuple[NDArray[Any], NDArray[Any]] | None,
    callbacks: tuple[Callback, ...],
    tol: float | None,
    n_threads: int,
) -> History:
    """Run the epochs, each one call into the engine, on arguments already checked.

    `network` is handed to the callbacks and is asked for its optimizer before every epoch, so
    that a callback may set another one.
    """
    history = History()
    parameters = plan.parameters
    last_good = parameters.copy()
    best, since_best = math.inf, 0
    for callback in callbacks:
        callback.on_train_begin(network, epochs)
    try:
        for epoch in range(1, epochs + 1):
            order = rng.permutation(len(X)) if shuffle else None
            started = time.perf_counter()
            rate = network.optimizer.learning_rate
            loss, steps = plan.epoch(X, y, order, batch_size, rate, n_threads)
            seconds = time.perf_counter() - started
            if not (math.isfinite(loss) and engine.all_finite(parameters)):
                parameters[...] = last_good
                step = steps if math.isfinite(loss) else steps + 1
                raise FloatingPointError(
                    f"epoch {epoch}, step {step}: the loss is {loss}, "
                    f"the parameters are back to those before this epoch; {DIVERGENCE_HINT}"
                )
            history.loss.append(loss)
            history.seconds.append(seconds)
            if validation is not None:
                history.validation_loss.append(
                    plan.loss_and_gradient(*validation, None, n_threads)
                )
            # every callback hears of the epoch, whatever another one answers
            if any([callback.on_epoch_end(network, history) for callback in callbacks]):
                break
            since_best = since_best + 1 if loss > best - (tol or 0) else 0
            best = min(best, loss)
            if tol is not None and since_best >= PATIENCE:
                break
            last_good[...] = parameters
    finally:
        for callback in callbacks:
            callback.on_train_end(network, history)
    return history
