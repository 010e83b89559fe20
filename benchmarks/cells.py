"""One cell against one peer: build both sides, check them, time them, and write it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.arithmetic import Summary, log_histogram, percentile
from benchmarks.checks import Check, check_dropping, check_predictions, check_training
from benchmarks.measure import (
    QUICK,
    Effort,
    Race,
    Sample,
    clock_overhead,
    long_enough,
    race,
    time_calls,
    time_each_call,
    time_epochs,
)
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.base import Adapter, Trainer
from benchmarks.workloads import (
    ONLINE_ROWS,
    Array,
    Cell,
    Inputs,
    Model,
    make_data,
    make_model,
    make_online,
)

PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
PAUSE = 0.01  # seconds between samples on several threads
BLOCK = 500  # calls of one side before it is the other's turn
COLD = 20  # calls of a block that do not count: the caches are as the other side left them
FEWEST_CALLS, MOST_CALLS = 1000, 100_000

Result = dict[str, Any]


def run(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Measure a cell; return what the JSON says of it."""
    measure = {
        "latency": latency,
        "bound-latency": latency,
        "predict": predict,
        "bound": predict,
        "jacobian": predict,
        "online": online,
        "online-adam": online_adam,
        "overhead": overhead,
        "digits": digit_fits,
    }.get(cell.task, steps)
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
    if cell.task.startswith("bound"):
        return bound_calls(cell, peer, ours, theirs)
    jacobian = cell.task == "jacobian"
    model = make_model(cell, softmax=peer.softmax and not jacobian)
    X, _ = make_data(cell, cell.batch)

    def build(side: Adapter) -> Callable[[], Any]:
        return side.jacobian(model, X[0]) if jacobian else side.predictor(model, X)

    calls = (build(ours), build(theirs))
    outputs = []
    for adapter, call in zip((ours, theirs), calls, strict=True):
        with adapter.around_predictions():
            outputs.append(call())
    return calls, written_checks([check_predictions(model, *outputs)])


def bound_calls(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter) -> tuple[Calls, Result]:
    """Build calls on an array of each side's own; compare what they return for rows put there."""
    model = make_model(cell, softmax=peer.softmax)
    rows, _ = make_data(cell, 2)
    calls, outputs = [], []
    for adapter in (ours, theirs):
        x = np.zeros_like(rows[0])
        call = adapter.bound(model, x)
        found = []
        with adapter.around_predictions():
            for row in rows:
                x[...] = row
                found.append(call().flatten())
        calls.append(call)
        outputs.append(np.concatenate(found))
    return (calls[0], calls[1]), written_checks([check_predictions(model, *outputs)])


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
            time_each_call(adapter, call, COLD, effort.budget / 4)
            times += time_each_call(adapter, call, BLOCK, effort.budget / 4)
    for name, (_, _, times) in zip(("ours", "theirs"), sides, strict=True):
        times.sort()
        result[name] = {
            "calls": len(times),
            **{label: percentile(times, q) / 1e9 for label, q in PERCENTILES.items()},
            "histogram": log_histogram([max(time, 1) / 1e9 for time in times]),
        }
    result["ratio"] = {
        label: float(f"{result['theirs'][label] / result['ours'][label]:.4g}")
        for label in PERCENTILES
    }
    return result | {"clock": clock_overhead() / 1e9}


LONG = 1.0  # seconds of an epoch
Sides = tuple[Adapter, Adapter]
Trainers = tuple[Trainer, Trainer]
Samples = tuple[Sample, Sample]


def checked_trainers(
    model: Model, X: Inputs, y: Array, batch: int, sides: Sides
) -> tuple[Trainers, list[Check]]:
    """Build the networks of both sides to train on some data, and compare how they do it."""
    n_steps = X.shape[0] // batch

    def build(model: Model) -> Trainers:
        ours, theirs = (side.trainer(model, X, y, batch) for side in sides)
        return ours, theirs

    if not model.dropout:
        trainers = build(model)
        return trainers, check_training(model, n_steps, *trainers)
    plain_model = replace(model, dropout=0.0)
    plain = build(plain_model)
    checks = check_training(plain_model, n_steps, *plain)
    trainers = build(model)
    return trainers, checks + check_dropping(model, X.shape[0], plain[1], *trainers)


def step_samples(cell: Cell, sides: Sides, effort: Effort) -> tuple[Samples | None, Result]:
    """Return samples of both sides that time the steps of shuffled epochs, and their check.

    What does not agree has no samples.
    """
    model = make_model(cell)
    n_steps = cell.shape.steps[cell.batch] // (4 if effort is QUICK else 1)
    checked = min(n_steps, cell.shape.checked_steps)
    X, y = make_data(cell, cell.batch * n_steps)
    rows = cell.batch * checked
    trainers, checks = checked_trainers(model, X[:rows], y[:rows], cell.batch, sides)
    result = written_checks(checks)
    if not result["agree"]:
        return None, result
    samples = []
    for side, trainer in zip(sides, trainers, strict=True):
        n = checked
        if checked < n_steps and time_epochs(trainer, 1, checked) * n_steps < LONG:
            # What a library does once per epoch matters where an epoch is short, and there alone.
            n, trainer = n_steps, side.trainer(model, X, y, cell.batch)
        samples.append(long_enough(partial(time_epochs, trainer, n_steps=n), n, effort))
    return (samples[0], samples[1]), result


def steps(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time the steps of shuffled epochs."""
    samples, result = step_samples(cell, (ours, theirs), effort)
    if samples is None:
        return result
    result |= written_race(race(*samples, effort, pause=pause_for(cell)))
    return result | {"flops": cell.shape.flops(cell.task, cell.batch)}


def race_of_steps(
    cell: Cell, trainers: Trainers, checks: Sequence[Check], effort: Effort
) -> Result:
    """Time single steps of both sides by turns, if all checks have passed."""
    result = written_checks(checks)
    if not result["agree"]:
        return result
    n = ONLINE_ROWS
    our_sample, their_sample = (
        long_enough(partial(time_epochs, trainer, n_steps=n, shuffle=False), n, effort)
        for trainer in trainers
    )
    result |= written_race(race(our_sample, their_sample, effort, pause=pause_for(cell)))
    return result | {"flops": cell.shape.flops(cell.task, cell.batch)}


def online(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time single steps of SGD, one row each."""
    model, X, y = make_online(cell, "sgd")
    trainers = (ours.online(model, X, y), theirs.online(model, X, y))
    return race_of_steps(cell, trainers, check_training(model, len(X), *trainers), effort)


def online_adam(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time single steps of Adam beside those of SGD of a peer that does not have Adam.

    Both sides agree in SGD, and Adam's steps are checked against NumPy's.
    """
    sgd, X, y = make_online(cell, "sgd")
    their_trainer = theirs.online(sgd, X, y)
    checks = check_training(sgd, len(X), ours.online(sgd, X, y), their_trainer)
    adam, _, _ = make_online(cell, "adam")
    our_trainer = ours.online(adam, X, y)
    by_hand = PEERS["numpy"].adapter(ours.n_threads).online(adam, X, y)
    checks += check_training(adam, len(X), our_trainer, by_hand)
    return race_of_steps(cell, (our_trainer, their_trainer), checks, effort)


def overhead(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time the steps of each side with the additional layers and without them, by turns."""
    sides = (ours, theirs)
    plain, result = step_samples(replace(cell, network=cell.shape.base), sides, effort)
    if plain is None:
        return result
    samples, result = step_samples(cell, sides, effort)
    if samples is None:
        return result
    for sample in (*plain, *samples):
        sample()  # torch.compile forgets a network when it compiles the next one
    races = [
        race(without, with_them, effort, pause=pause_for(cell))
        for without, with_them in zip(plain, samples, strict=True)
    ]
    our, their = (each.ratio for each in races)
    return result | {
        "ours": written(our),
        "theirs": written(their),
        # How many times more of a step it takes there. Both intervals at their worst.
        "ratio": {
            "median": float(f"{their.median / our.median:.4g}"),
            "low": float(f"{their.low / our.high:.4g}"),
            "high": float(f"{their.high / our.low:.4g}"),
        },
        "busy": round(min(each.busy for each in races), 3),
    }


def digit_fits(cell: Cell, peer: Peer, ours: Adapter, theirs: Adapter, effort: Effort) -> Result:
    """Time whole trainings on the digits."""
    from benchmarks import digits  # needs scikit-learn

    result = written_checks(digits.check())
    if not result["agree"]:
        return result
    accuracies = digits.accuracies()
    measured = race(digits.time_ours, digits.time_theirs, effort)
    return result | written_race(measured) | {"accuracy": accuracies}
