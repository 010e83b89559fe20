"""The epoch loop: shuffling, validation, history, callbacks, and what happens on divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import _checks, schedules
from fastbp._data import Frozen
from fastbp._dispatch import engine
from fastbp.callbacks import Callback
from fastbp.metrics import Metric
from fastbp.optimizers import Optimizer
from fastbp.schedules import LearningRate, PlateauProgress, watch
from fastbp.splitting import Samples

if TYPE_CHECKING:
    from fastbp.network import Network

__all__ = [
    "History", "LearningRateCurve", "Snapshot", "checked_state", "checked_validation", "go_back",
    "range_test", "snapshot", "train",
]

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
    metrics : dict of str to list of float
        Each metric after the epoch, of the validation data or else of the training data.
    learning_rate : list of float
        The rate of the epoch's last step; empty where SciPy minimises.
    gradient_norm : list of float
        Mean norm of the steps' gradients, or that of the iteration where SciPy minimises; empty
        unless `fit` was asked for it.
    seconds : list of float
        Time spent training, validation and callbacks left out.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def watched(self) -> list[float]:
        """Tell the losses that show progress.

        Returns
        -------
        list of float
            The validation loss of each epoch, or the loss where there is no validation data.
        """
        return self.validation_loss or self.loss


@dataclass(eq=False, repr=False)
class Progress:
    """What training carries from call to call, beside parameters and the optimizer's state."""

    rng: np.random.Generator
    plateau: PlateauProgress = field(default_factory=PlateauProgress)

    def key(self, plan: engine.Plan) -> int:
        """Draw what decides on what the next steps drop, and on their noise, if there is any."""
        return int(self.rng.integers(2**63)) if plan.is_random else 0

    def rates(self, rate: LearningRate, first: int, count: int) -> float | NDArray[np.float64]:
        """Return the learning rates of some steps, as the engine takes them."""
        if isinstance(rate, float):
            return rate
        return schedules.rates(rate, first, count, self.plateau)


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


def checked_validation(data: object) -> tuple[Any, Any, Any]:
    """Return X, y and weights of validation data, or raise TypeError or ValueError."""
    accepted = "validation_data must be (X, y) or (X, y, sample_weight)"
    if not isinstance(data, (tuple, list)):
        raise TypeError(f"{accepted}, got {type(data).__name__}")
    if len(data) not in (2, 3):
        raise ValueError(f"{accepted}, got {len(data)} items")
    return data[0], data[1], data[2] if len(data) == 3 else None


class LearningRateCurve(Frozen):
    """What a range test found.

    Attributes
    ----------
    learning_rates, losses : ndarray of float64
        The rate of each step, and the loss of its batch before it.
    """

    learning_rates: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def suggestion(self) -> float:
        """A rate to begin with: a tenth of the one at which the smoothed loss is least."""
        smooth = np.empty(len(self.losses))
        mean = 0.0
        for step, loss in enumerate(self.losses):  # an exponential mean, without its bias
            mean = 0.9 * mean + 0.1 * loss
            smooth[step] = mean / (1 - 0.9 ** (step + 1))
        return float(self.learning_rates[np.argmin(smooth)]) / 10


def range_test(
    plan: engine.Plan,
    progress: Progress,
    samples: Samples,
    rates: NDArray[np.float64],
    batch_size: int,
) -> LearningRateCurve:
    """Make steps at these rates until the loss has grown; the plan is changed by it."""
    losses: list[float] = []
    order = np.empty(0, np.intp)
    key = progress.key(plan)
    for step, rate in enumerate(rates):
        if len(order) < batch_size:
            order = progress.rng.permutation(len(samples[0]))
        rows, order = order[:batch_size], order[batch_size:]
        loss, _, _ = plan.epoch(*samples, rows, batch_size, float(rate), 1, key, step)
        if not (math.isfinite(loss) and is_finite(plan)):
            break
        losses.append(loss)
        if loss > 4 * min(losses) > 0:
            break
    return LearningRateCurve(rates[: len(losses)], np.array(losses))


Snapshot = tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[int, float]]


def snapshot(plan: engine.Plan, into: Snapshot | None = None) -> Snapshot:
    """Copy what training changes: parameters, statistics, the optimizer's vectors and progress."""
    if into is None or into[1].shape != plan.state.shape:  # another optimizer was set
        return plan.parameters.copy(), plan.state.copy(), plan.statistics.copy(), plan.progress
    parameters, state, statistics, _ = into
    parameters[...], state[...] = plan.parameters, plan.state
    statistics[...] = plan.statistics
    return parameters, state, statistics, plan.progress


def is_finite(plan: engine.Plan) -> bool:
    """Tell whether what training changes still is."""
    return engine.all_finite(plan.parameters) and engine.all_finite(plan.statistics)


def go_back(plan: engine.Plan, to: Snapshot) -> None:
    """Undo what training has changed since a snapshot."""
    plan.parameters[...], plan.state[...], plan.statistics[...], plan.progress = to


def checked_state(
    state: Mapping[str, Any], description: Mapping[str, Any], plan: engine.Plan
) -> tuple[Snapshot, Progress]:
    """Return the parts of a state that fits the network, or say what differs in an error."""
    try:
        found = state["json"]
        for what, wanted in description.items():
            if found["network"][what] != wanted:
                raise ValueError(
                    f"the state is of another network: its {what} is {found['network'][what]!r}, "
                    f"this one's is {wanted!r}"
                )
        arrays = []
        for name, own in (
            ("parameters", plan.parameters), ("optimizer", plan.state),
            ("statistics", plan.statistics),
        ):
            array = np.asarray(state[name])
            if array.dtype != own.dtype or array.shape != (own.size,):
                raise ValueError(
                    f"the state's {name} must be {own.dtype.name} of shape {(own.size,)}, "
                    f"got {array.dtype} of shape {array.shape}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"the state's {name} must be finite")
            arrays.append(array.reshape(own.shape))
        rng = np.random.default_rng()
        rng.bit_generator.state = found["random"]
        if rng.bit_generator.state != found["random"]:  # NumPy cuts what is too large
            raise ValueError(f"the state's random numbers are none: {found['random']!r}")
        steps = _checks.whole("the state's steps", found["steps"])
        product = _checks.number("the state's momentum_product", found["momentum_product"])
        if not 0 <= product <= 1:
            raise ValueError(f"the state's momentum_product must lie in [0, 1], got {product}")
        carried = Progress(rng, PlateauProgress.from_json(found["plateau"]))
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"this is not a state of a network: {error!r}") from None
    return (arrays[0], arrays[1], arrays[2], (steps, product)), carried


class Settings(Frozen):
    """How to train: the arguments of `fit`, checked."""

    epochs: int
    batch_size: int | None
    accumulate: int
    shuffle: bool
    metrics: Mapping[str, Metric]
    gradient_norm: bool
    callbacks: tuple[Callback, ...]
    tol: float | None
    n_threads: int


def train(
    network: Network,
    plan: engine.Plan,
    progress: Progress,
    samples: Samples,
    validation: Samples | None,
    settings: Settings,
) -> History:
    """Run the epochs on samples already checked.

    `network` is handed to the callbacks and is asked for its optimizer before every epoch, so
    that a callback may set another one.
    """
    history = History(metrics={name: [] for name in settings.metrics})
    callbacks = settings.callbacks
    n_samples = len(samples[0])
    step_size = (settings.batch_size or n_samples) * settings.accumulate
    n_steps = -(-n_samples // step_size)
    best, since_best = math.inf, 0
    for callback in callbacks:
        callback.on_train_begin(network, settings.epochs)
    last_good = snapshot(plan)
    try:
        for epoch in range(1, settings.epochs + 1):
            for callback in callbacks:
                callback.on_epoch_begin(network, history)
            # before the permutation, as a schedule of the user's may raise
            optimizer = network.optimizer
            if not isinstance(optimizer, Optimizer):
                raise TypeError(f"{optimizer} cannot take over within a fit")
            rate = optimizer.learning_rate
            rates = progress.rates(rate, plan.progress[0], n_steps)
            order = progress.rng.permutation(n_samples) if settings.shuffle else None
            key = progress.key(plan)
            started = time.perf_counter()
            loss, steps, norms = _epoch(
                network, plan, samples, order, step_size, rates, key, settings
            )
            seconds = time.perf_counter() - started
            if not (math.isfinite(loss) and is_finite(plan)):
                go_back(plan, last_good)
                step = steps if math.isfinite(loss) else steps + 1
                raise FloatingPointError(
                    f"epoch {epoch}, step {step}: the loss is {loss}, "
                    f"the parameters are back to those before this epoch; {DIVERGENCE_HINT}"
                )
            history.loss.append(loss)
            history.seconds.append(seconds)
            if settings.gradient_norm:
                history.gradient_norm.append(norms / steps)
            history.learning_rate.append(float(np.atleast_1d(rates)[-1]))
            look(network, plan, samples, validation, settings, history)
            watch(rate, progress.plateau, history.watched()[-1])
            # every callback hears of the epoch, whatever another one answers
            if any([callback.on_epoch_end(network, history) for callback in callbacks]):
                break
            since_best = since_best + 1 if loss > best - (settings.tol or 0) else 0
            best = min(best, loss)
            if settings.tol is not None and since_best >= PATIENCE:
                break
            if epoch < settings.epochs:
                last_good = snapshot(plan, last_good)
    finally:
        for callback in callbacks:
            callback.on_train_end(network, history)
    return history


def _epoch(
    network: Network,
    plan: engine.Plan,
    samples: Samples,
    order: NDArray[np.intp] | None,
    step_size: int,
    rates: float | NDArray[np.float64],
    key: int,
    settings: Settings,
) -> tuple[float, int, float]:
    """One epoch: its loss, how many steps it made, and the sum of their gradients' norms.

    One call into the engine, unless a callback listens.
    """
    listening = [each for each in settings.callbacks if each.every_steps is not None]
    if not listening:
        return plan.epoch(
            *samples, order, step_size, rates, settings.n_threads, key, 0, settings.gradient_norm
        )
    order = np.arange(len(samples[0])) if order is None else order
    every = [_checks.count("every_steps", each.every_steps) for each in listening]
    stretch = math.gcd(*every)  # after each of which one of them may be due
    total, steps, norms = 0.0, 0, 0.0
    unheard = [(0.0, 0)] * len(listening)  # summed loss and rows since a callback's last call
    while steps * step_size < len(order):
        rows = order[steps * step_size : (steps + stretch) * step_size]
        of_stretch = rates if isinstance(rates, float) else rates[steps : steps + stretch]
        loss, made, of_norms = plan.epoch(
            *samples, rows, step_size, of_stretch, settings.n_threads, key, steps,
            settings.gradient_norm,
        )
        steps += made
        norms += of_norms
        if not math.isfinite(loss):
            return loss, steps, norms
        total += loss * len(rows)
        for at, (callback, due) in enumerate(zip(listening, every, strict=True)):
            summed, count = unheard[at][0] + loss * len(rows), unheard[at][1] + len(rows)
            unheard[at] = summed, count
            if steps % due == 0 or steps * step_size >= len(order):
                callback.on_steps(network, summed / count)
                unheard[at] = 0.0, 0
    return total / len(order), steps, norms


def look(
    network: Network,
    plan: engine.Plan,
    samples: Samples,
    validation: Samples | None,
    settings: Settings,
    history: History,
) -> None:
    """Add validation loss and metrics after an epoch to the history."""
    if validation is not None:
        history.validation_loss.append(
            plan.loss_and_gradient(*validation, None, settings.n_threads)
        )
    if settings.metrics:
        X, y, _ = validation or samples
        prediction = network.predict(X, n_threads=settings.n_threads)
        for name, metric in settings.metrics.items():
            history.metrics[name].append(float(metric(y, prediction)))
