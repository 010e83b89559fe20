"""One cell against one peer: build both sides, check them, time them, and write it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.arithmetic import Summary, percentile
from benchmarks.checks import Check, check_predictions, check_training
from benchmarks.measure import (
    QUICK,
    Effort,
    Race,
    clock_overhead,
    long_enough,
    race,
    time_calls,
    time_each_call,
    time_epochs,
)
from benchmarks.peers import Peer
from benchmarks.peers.base import Adapter
from benchmarks.workloads import Cell, make_data, make_model

PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
PAUSE = 0.01  # seconds between samples on several threads
BLOCK = 500  # calls of one side before it is the other's turn
FEWEST_CALLS, MOST_CALLS = 1000, 100_000

Result = dict[str, Any]


def run(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Measure a cell; return what the JSON says of it."""
    measure = {"latency": latency, "predict": predict, "digits": digit_fits}.get(cell.task, steps)
    started = time.perf_counter()
    result = {"cell": cell.name, **asdict(cell), "peer": peer.name, "n_threads": ours.n_threads}
    result |= measure(cell, peer, ours, theirs, effort)
    return result | {"seconds_spent": round(time.perf_counter() - started, 2)}


def written(summary: Summary) -> dict[str, float]:
    """Four digits of a summary: more are noise."""
    return {name: float(f"{value:.4g}") for name, value in asdict(summary).items()}


def written_checks(checks: Sequence[Check]) -> Result:
    """Say whether the sides agree, and how well."""
    entries = [asdict(check) | {"passed": bool(check.passed)} for check in checks]
    return {"agree": all(check.passed for check in checks), "checks": entries}


def written_race(measured: Race) -> Result:
    """Medians, spread and every pair, in seconds of one unit of work."""
    return {
        "ours": written(measured.ours),
        "theirs": written(measured.theirs),
        "ratio": written(measured.ratio),
        "busy": round(measured.busy, 3),
        "pairs": [[float(f"{value:.4g}") for value in pair] for pair in measured.pairs],
    }


def pause_for(cell: Cell) -> float:
    """Return the seconds that one side's threads get to go to sleep."""
    return 0.0 if cell.threads == "1" else PAUSE


Calls = tuple[Callable[[], Any], Callable[[], Any]]


def prediction_calls(
    cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter
) -> tuple[Calls, Result]:
    """Build the calls of both sides, and compare what they return."""
    model = make_model(cell, softmax=peer.softmax)
    X, _ = make_data(cell, cell.batch)
    calls = (ours.predictor(model, X), theirs.predictor(model, X))
    outputs = []
    for adapter, call in zip((ours, theirs), calls, strict=True):
        with adapter.around_predictions():
            outputs.append(call())
    return calls, written_checks([check_predictions(model, *outputs)])


def predict(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time blocks of calls."""
    calls, result = prediction_calls(cell, peer, ours, theirs)
    if not result["agree"]:
        return result
    our_sample, their_sample = (
        long_enough(partial(time_calls, adapter, call), 1, effort)
        for adapter, call in zip((ours, theirs), calls, strict=True)
    )
    result |= written_race(race(our_sample, their_sample, effort, pause=pause_for(cell)))
    return result | {"flops": cell.shape.flops(cell.task, cell.batch)}


def latency(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time every call by itself, in blocks of both sides by turns."""
    calls, result = prediction_calls(cell, peer, ours, theirs)
    if not result["agree"]:
        return result
    sides: list[tuple[Adapter, Callable[[], Any], list[int]]]
    sides = [(ours, calls[0], []), (theirs, calls[1], [])]
    most = MOST_CALLS if effort is not QUICK else MOST_CALLS // 10
    deadline = time.perf_counter() + 2 * effort.budget
    for adapter, call, _ in sides:
        time_each_call(adapter, call, BLOCK, effort.budget)  # warms up
    while any(len(times) < FEWEST_CALLS for _, _, times in sides) or (
        time.perf_counter() < deadline and any(len(times) < most for _, _, times in sides)
    ):
        for adapter, call, times in sides:
            times += time_each_call(adapter, call, BLOCK, effort.budget / 4)
    for name, (_, _, times) in zip(("ours", "theirs"), sides, strict=True):
        times.sort()
        result[name] = {
            "calls": len(times),
            **{label: percentile(times, q) / 1e9 for label, q in PERCENTILES.items()},
        }
    result["ratio"] = {
        label: float(f"{result['theirs'][label] / result['ours'][label]:.4g}")
        for label in PERCENTILES
    }
    return result | {"clock": clock_overhead() / 1e9}


# Over thousands of steps in float32 it happens that a relu whose input is zero to rounding is on
# for one side and off for the other; from there on the two go apart.
CHECKED_STEPS = 1000


def steps(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time the steps of shuffled epochs."""
    model = make_model(cell)
    n_steps = cell.shape.steps[cell.batch] // (4 if effort is QUICK else 1)
    X, y = make_data(cell, cell.batch * n_steps)
    checked = min(n_steps, CHECKED_STEPS)
    rows = cell.batch * checked
    result = written_checks(check_training(model, checked, *(
        adapter.trainer(model, X[:rows], y[:rows], cell.batch) for adapter in (ours, theirs)
    )))
    if not result["agree"]:
        return result
    trainers = [adapter.trainer(model, X, y, cell.batch) for adapter in (ours, theirs)]
    our_sample, their_sample = (
        long_enough(partial(time_epochs, trainer, n_steps=n_steps), n_steps, effort)
        for trainer in trainers
    )
    result |= written_race(race(our_sample, their_sample, effort, pause=pause_for(cell)))
    return result | {"steps": n_steps, "flops": cell.shape.flops(cell.task, cell.batch)}


def digit_fits(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time whole trainings on the digits."""
    from benchmarks import digits  # needs scikit-learn

    result = written_checks(digits.check())
    if not result["agree"]:
        return result
    accuracies = digits.accuracies()
    measured = race(digits.time_ours, digits.time_theirs, effort)
    return result | written_race(measured) | {"accuracy": accuracies}
