"""Learning-rate schedules, as data, and the rates they make.

Steps are those of the optimizer, counted from 0 over all calls of `fit` and `train_step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import _checks
from fastbp._data import Frozen, check_fields

__all__ = [
    "Cosine", "Exponential", "InverseScaling", "LearningRate", "OneCycle", "Plateau", "Polynomial",
    "Schedule", "StepDecay", "WarmUp",
]

Steps = NDArray[np.float64]


class Schedule(Frozen):
    """What all schedules have in common: settings that are checked."""

    def __post_init__(self) -> None:
        check_fields(self, CHECKS)


LearningRate = float | Schedule | Callable[[int], float]


def learning_rate(name: str, value: object) -> LearningRate:
    """Return a positive float, a schedule or a callable as it is, or raise an error."""
    if isinstance(value, Schedule) or callable(value):
        return value
    return _checks.positive(name, value)


class StepDecay(Schedule):
    """``initial * factor ** (step // every)``: a fall every so many steps.

    Parameters
    ----------
    initial : float
        The rate of step 0, positive.
    factor : float
        In (0, 1].
    every : int
        How many steps a rate lasts.
    """

    initial: float
    factor: float
    every: int


class Exponential(Schedule):
    """``initial * factor ** (step / every)``: a smooth fall.

    Parameters
    ----------
    initial : float
        The rate of step 0, positive.
    factor : float
        In (0, 1].
    every : int
        After how many steps the rate has fallen by `factor`.
    """

    initial: float
    factor: float
    every: int = 1


class InverseScaling(Schedule):
    """``initial / (step + 1) ** power``.

    Parameters
    ----------
    initial : float
        The rate of step 0, positive.
    power : float
        Not negative; rates with a power in (1/2, 1] are those of Robbins and Monro (1951).
    """

    initial: float
    power: float = 0.5


class Polynomial(Schedule):
    """``final + (initial - final) (1 - step / steps) ** power``, and `final` from `steps` on.

    Parameters
    ----------
    initial : float
        The rate of step 0, positive.
    steps : int
        How long it falls.
    final : float
        Not negative.
    power : float
        Not negative; 1 is a straight line.
    """

    initial: float
    steps: int
    final: float = 0.0
    power: float = 1.0


class Cosine(Schedule):
    """Half a cosine wave down from `initial` to `final` (Loshchilov and Hutter 2017).

    Parameters
    ----------
    initial : float
        The rate of step 0, positive.
    steps : int
        How long the first wave falls.
    final : float
        Not negative.
    restarts : bool
        Whether another wave starts after that, from `initial` again; otherwise the rate stays
        at `final`.
    growth : int
        How many times longer each wave is than the one before it.
    """

    initial: float
    steps: int
    final: float = 0.0
    _: KW_ONLY
    restarts: bool = False
    growth: int = 1


class WarmUp(Schedule):
    """A straight line up to the first rate of another schedule, which then takes its course.

    Parameters
    ----------
    after : float or schedule or callable
        What follows; its step 0 is the first one after the warm-up.
    steps : int
        How long the rate rises.
    start_factor : float
        In (0, 1]: which part of the first rate of `after` step 0 has.
    """

    after: LearningRate
    steps: int
    start_factor: float = 0.1


class OneCycle(Schedule):
    """Half a cosine wave up, and a longer one down (Smith and Topin 2018).

    Parameters
    ----------
    peak : float
        The highest rate, positive.
    steps : int
        How long the whole cycle is, at least 2; the rate stays at its end afterwards.
    rise : float
        In (0, 1): the part of the cycle in which the rate rises.
    start_factor : float
        In (0, 1]: which part of the peak step 0 has.
    end_factor : float
        In (0, 1]: which part of the first rate the last step has.
    """

    peak: float
    steps: int
    rise: float = 0.3
    start_factor: float = 0.04
    end_factor: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rise * self.steps - 1 < self.steps - 1:
            raise ValueError(
                "steps must leave more than one step to the rise of a cycle, "
                f"got steps={self.steps} and rise={self.rise}"
            )


class Plateau(Schedule):
    """A fall whenever the loss has not improved for some epochs.

    What is watched is the validation loss, or the training loss where there is no validation data:
    the median of its last `window` epochs, so that one lucky epoch is no progress that the next
    ones would have to match, and one bad epoch no setback.

    Parameters
    ----------
    initial : float
        The first rate, positive.
    factor : float
        In (0, 1]: what the rate is multiplied by.
    patience : int
        How many epochs without progress are borne.
    min_delta : float
        Progress is a loss that is lower than the best one by this part of it.
    minimum : float
        The rate falls no further than this.
    window : int
        How many epochs the median is taken over; 1 watches each epoch by itself.
    """

    initial: float
    factor: float = 0.1
    patience: int = 10
    _: KW_ONLY
    min_delta: float = 1e-4
    minimum: float = 0.0
    window: int = 3


def _part(name: str, value: object) -> float:
    """Return `value` as a float in (0, 1]."""
    number = _checks.positive(name, value)
    if number > 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")
    return number


# How each setting is checked, for every schedule that has it.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "initial": _checks.positive,
    "peak": _checks.positive,
    "final": _checks.non_negative,
    "minimum": _checks.non_negative,
    "min_delta": _checks.fraction,
    "power": _checks.non_negative,
    "factor": _part,
    "start_factor": _part,
    "end_factor": _part,
    "rise": _checks.fraction,
    "every": _checks.count,
    "steps": _checks.count,
    "growth": _checks.count,
    "patience": _checks.count,
    "window": _checks.count,
    "restarts": _checks.flag,
    "after": learning_rate,
}


# --- what a plateau has seen --------------------------------------------------------------------


@dataclass
class PlateauProgress:
    """How far a `Plateau` has come: part of the state of training."""

    scale: float = 1.0
    best: float = math.inf
    since: int = 0
    recent: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return its fields for JSON, which has no infinity: as strings where not finite."""
        return {
            "scale": self.scale, "best": _writable(self.best), "since": self.since,
            "recent": [_writable(loss) for loss in self.recent],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> PlateauProgress:
        """Return what `as_json` has told of, or raise KeyError, TypeError or ValueError."""
        if set(found) != {each.name for each in fields(cls)}:
            raise KeyError(f"the plateau has {sorted(found)}")
        if not isinstance(found["recent"], (list, tuple)):
            raise TypeError(f"the plateau's recent must be a list, got {found['recent']!r}")
        scale = _checks.number("the plateau's scale", found["scale"])
        if not 0 <= scale <= 1:
            raise ValueError(f"the plateau's scale must lie in [0, 1], got {scale}")
        return cls(
            scale,
            _readable("the plateau's best", found["best"]),
            _checks.whole("the plateau's since", found["since"]),
            [_readable("the plateau's recent", loss) for loss in found["recent"]],
        )


NOT_FINITE = ("inf", "-inf", "nan")


def _writable(loss: float) -> float | str:
    return loss if math.isfinite(loss) else str(loss)


def _readable(name: str, loss: object) -> float:
    return float(str(loss)) if loss in NOT_FINITE else _checks.number(name, loss)


def watch(rate: LearningRate, progress: PlateauProgress, loss: float) -> None:
    """Tell the plateau in a learning rate, if there is one, of an epoch's loss."""
    while isinstance(rate, WarmUp):
        rate = rate.after
    if not isinstance(rate, Plateau):
        return
    progress.recent = [*progress.recent, loss][-rate.window :]
    if len(progress.recent) < rate.window:
        return
    median = float(np.median(progress.recent))
    if math.isinf(progress.best) or median < progress.best - rate.min_delta * abs(progress.best):
        progress.best, progress.since = median, 0
        return
    progress.since += 1
    if progress.since > rate.patience:
        progress.scale, progress.since = progress.scale * rate.factor, 0


# --- the rates they make ------------------------------------------------------------------------


def rates(rate: LearningRate, first: int, count: int, plateau: PlateauProgress) -> Steps:
    """Return the learning rates of `count` steps from step `first` on.

    Raises
    ------
    ValueError
        If a rate is negative or not finite.
    """
    made = np.asarray(_rates(rate, np.arange(first, first + count, dtype=np.float64), plateau))
    wrong = ~(np.isfinite(made) & (made >= 0))
    if wrong.any():
        step = int(np.argmax(wrong))
        raise ValueError(
            f"the learning rate must be finite and not negative, "
            f"got {made[step]} for step {first + step}"
        )
    return made


@singledispatch
def _rates(rate: Any, steps: Steps, plateau: PlateauProgress) -> Steps:
    """Rates of some steps: of a number, or of a callable."""
    if callable(rate):
        return np.array([_checks.number("the learning rate", rate(int(t))) for t in steps])
    return np.full(len(steps), rate)


@_rates.register(StepDecay)
def _(rate: StepDecay, steps: Steps, plateau: PlateauProgress) -> Steps:
    return rate.initial * rate.factor ** (steps // rate.every)


@_rates.register(Exponential)
def _(rate: Exponential, steps: Steps, plateau: PlateauProgress) -> Steps:
    return rate.initial * rate.factor ** (steps / rate.every)


@_rates.register(InverseScaling)
def _(rate: InverseScaling, steps: Steps, plateau: PlateauProgress) -> Steps:
    return rate.initial / (steps + 1) ** rate.power


@_rates.register(Polynomial)
def _(rate: Polynomial, steps: Steps, plateau: PlateauProgress) -> Steps:
    left = 1 - np.minimum(steps / rate.steps, 1)
    return rate.final + (rate.initial - rate.final) * left**rate.power


@_rates.register(Cosine)
def _(rate: Cosine, steps: Steps, plateau: PlateauProgress) -> Steps:
    if not rate.restarts:
        passed = np.minimum(steps / rate.steps, 1)
    elif rate.growth == 1:
        passed = steps % rate.steps / rate.steps
    else:
        # wave k starts at steps (growth^k - 1) / (growth - 1)
        grown = steps / rate.steps * (rate.growth - 1) + 1
        wave = np.floor(np.log(grown) / math.log(rate.growth) + 1e-12)
        length = rate.steps * float(rate.growth) ** wave
        passed = (steps - (length - rate.steps) / (rate.growth - 1)) / length
    return _wave(rate.initial, rate.final, passed)


@_rates.register(WarmUp)
def _(rate: WarmUp, steps: Steps, plateau: PlateauProgress) -> Steps:
    peak = _rates(rate.after, np.zeros(1), plateau)[0]
    rising: Steps = peak * (rate.start_factor + (1 - rate.start_factor) * steps / rate.steps)
    warm = steps >= rate.steps
    rising[warm] = _rates(rate.after, steps[warm] - rate.steps, plateau)
    return rising


@_rates.register(OneCycle)
def _(rate: OneCycle, steps: Steps, plateau: PlateauProgress) -> Steps:
    top, last = rate.rise * rate.steps - 1, rate.steps - 1
    start = rate.peak * rate.start_factor
    up = _wave(start, rate.peak, steps / top)
    down = _wave(rate.peak, start * rate.end_factor, np.minimum((steps - top) / (last - top), 1))
    return np.where(steps <= top, up, down)


@_rates.register(Plateau)
def _(rate: Plateau, steps: Steps, plateau: PlateauProgress) -> Steps:
    return np.full(len(steps), max(rate.minimum, rate.initial * plateau.scale))


def _wave(start: float, end: float, passed: Steps) -> Steps:
    """Half a cosine wave from `start` to `end`."""
    wave: Steps = end + (start - end) / 2 * (1 + np.cos(np.pi * passed))
    return wave
