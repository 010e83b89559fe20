"""Timing two sides by turns, on work that was checked to be the same."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

from benchmarks.arithmetic import Summary, pair_ratios, summarize
from benchmarks.peers.base import Adapter, Trainer
from benchmarks.workloads import Array

Sample = Callable[[], float]  # seconds of one unit of work


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Parameters
    ----------
    sample : float
        Seconds that one sample takes at least; short work is repeated until then.
    budget : float
        Seconds for a pair of sides, after which no new pair of samples is begun.
    pairs : tuple of int
        The fewest and the most pairs of samples. Up to half of the fewest are given up for the
        budget.
    uncertainty : float
        Stop when the median ratio is known this well, relatively.
    """

    sample: float
    budget: float
    pairs: tuple[int, int]
    uncertainty: float


FULL = Effort(sample=0.010, budget=3.0, pairs=(10, 200), uncertainty=0.01)
QUICK = Effort(sample=0.004, budget=0.25, pairs=(6, 40), uncertainty=0.03)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage before, and not while, something is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def time_calls(adapter: Adapter, call: Callable[[], Array], n_calls: int) -> float:
    """Return the seconds of one of `n_calls` calls."""
    with adapter.around_predictions():
        started = time.perf_counter()
        for _ in repeat(None, n_calls):
            call()
        return (time.perf_counter() - started) / n_calls


def time_epochs(
    trainer: Trainer, n_epochs: int, n_steps: int, *, shuffle: bool = True
) -> float:
    """Return the seconds of one step in `n_epochs` epochs of `n_steps` steps.

    Each epoch starts from the first parameters, so that all samples do the same work: how many
    hidden units are zero changes with training, and some engines skip them.
    """
    seconds = 0.0
    for _ in range(n_epochs):
        trainer.restore()
        started = time.perf_counter()
        trainer.epoch(shuffle=shuffle)
        seconds += time.perf_counter() - started
    return seconds / (n_epochs * n_steps)


def long_enough(timer: Callable[[int], float], units: int, effort: Effort) -> Sample:
    """Return a sample that repeats a piece of work of `units` units until it lasts long enough.

    Parameters
    ----------
    timer : callable
        From a number of repetitions to the seconds of one unit.
    units : int
        Units of work in one repetition.
    effort : Effort
    """
    repetitions = 1
    while (spent := timer(repetitions) * repetitions * units) < effort.sample:
        # Not by more than tenfold, since the first measurements are the least reliable.
        growth = min(10.0, 1.2 * effort.sample / max(spent, 1e-9))
        repetitions = max(repetitions + 1, int(repetitions * growth))
    return lambda: timer(repetitions)


@dataclass(frozen=True)
class Race:
    """Times of the two sides, pair by pair.

    Parameters
    ----------
    pairs : list of (float, float)
        Seconds of one unit of work, fastbp's first.
    busy : float
        Processor time of this process over elapsed time. Well below the number of threads in
        use, the machine had something else to do.
    """

    pairs: list[tuple[float, float]]
    busy: float

    @property
    def ours(self) -> Summary:
        """The times of fastbp."""
        return summarize([ours for ours, _ in self.pairs])

    @property
    def theirs(self) -> Summary:
        """The times of the peer."""
        return summarize([theirs for _, theirs in self.pairs])

    @property
    def ratio(self) -> Summary:
        """How many times faster fastbp was, pair by pair."""
        return summarize(pair_ratios(self.pairs))


def race(ours: Sample, theirs: Sample, effort: Effort, *, pause: float = 0.0) -> Race:
    """Measure both sides by turns, each as often first as the other.

    Parameters
    ----------
    ours, theirs : callable
    effort : Effort
    pause : float
        Seconds before each sample. With several threads some are needed: a pool that spins
        after a call would take a core from the other side's next sample.
    """

    def rested(sample: Sample) -> float:
        if pause:
            time.sleep(pause)
        return sample()

    fewest, most = effort.pairs
    pairs: list[tuple[float, float]] = []
    with no_garbage_collection():
        started, cpu = time.perf_counter(), time.process_time()
        while len(pairs) < most:
            if len(pairs) % 2:
                second = rested(theirs)
                pairs.append((rested(ours), second))
            else:
                first = rested(ours)
                pairs.append((first, rested(theirs)))
            elapsed = time.perf_counter() - started
            if elapsed > effort.budget and 2 * len(pairs) >= fewest:
                break
            ratio = summarize(pair_ratios(pairs))
            if len(pairs) >= fewest and ratio.uncertainty < effort.uncertainty:
                break
        busy = (time.process_time() - cpu) / (time.perf_counter() - started)
    return Race(pairs, busy)


def time_each_call(
    adapter: Adapter, call: Callable[[], Array], n_calls: int, seconds: float
) -> list[int]:
    """Return the nanoseconds of single calls: `n_calls` of them, or fewer if time is over."""
    clock = time.perf_counter_ns
    times = []
    deadline = clock() + int(seconds * 1e9)
    with adapter.around_predictions():
        for _ in repeat(None, n_calls):
            started = clock()
            call()
            ended = clock()
            times.append(ended - started)
            if ended > deadline:
                break
    return times


def clock_overhead() -> int:
    """Return the nanoseconds that `time_each_call` measures for nothing at all, as a median."""
    clock = time.perf_counter_ns
    times = []
    for _ in repeat(None, 1001):
        started = clock()
        times.append(clock() - started)
    return sorted(times)[500]
