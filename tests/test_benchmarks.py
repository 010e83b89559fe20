"""The benchmark suite: what its adapters compute, and the arithmetic of its tables.

Each peer runs in a process of its own: JAX and PyTorch start threads that the other tests, which
fork, must not inherit. A peer that is not installed is skipped.
"""

import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.special
from reference import ReferenceNetwork
from scipy.sparse import csr_array, issparse
from scipy.stats import binom

# The benchmarks are no part of the wheel. Appended, not prepended: `import fastbp` still finds
# the installed package before the sources that lie beside the benchmarks.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import (
    arithmetic,
    cells,
    checks,
    compare,
    crossovers,
    measure,
    report,
    run,
    startup,
    threads,
)
from benchmarks.groups import DEFAULT, GROUPS, all_cells, chosen, is_quick
from benchmarks.peers import FASTBP, PEERS, Peer, base, ours
from benchmarks.peers.numpy_by_hand import Adapter as NumpyAdapter
from benchmarks.workloads import (
    SHAPES,
    TRAINING,
    Cell,
    Model,
    Shape,
    flatten,
    make_data,
    make_model,
)

ROOT = Path(__file__).resolve().parent.parent
ROWS, BATCH = 12, 4
LOSSES = ("squared_error", "cross_entropy")
RATES = {"sgd": 0.05, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.01, "momentum": 0.02}
RATES["online"] = RATES["sgd"]
RATE_OF_DROPPING, RUNS = 0.4, 2000
EVERYONE = {FASTBP.name: FASTBP, **PEERS}


# --- every adapter computes what the reference computes ---------------------------------------


class Problem(NamedTuple):
    task: str
    loss: str
    dtype: str
    kind: str  # an activation, a layer, or "sparse"


def make_problem(peer, problem):
    """A small network with inputs and targets, and the batch size that suits the peer."""
    task, loss, dtype, kind = problem
    linear = task in ("online", "jacobian")
    widths = (5, 7, 6, 4) if loss == "cross_entropy" else (5, 7, 1)
    if kind == "dropout":
        widths = (5, 7, 4)  # 128 ways to drop
    rng = np.random.default_rng(3)
    weights, biases = [], []
    for pair in pairwise(widths):
        weights.append(rng.normal(size=pair) / 2)
        biases.append(rng.normal(size=pair[1]))
        if kind == "layer_norm" and len(biases) < 2 * len(widths) - 3:
            weights.append(rng.uniform(0.5, 2, size=pair[1]))
            biases.append(rng.normal(size=pair[1]))
    model = Model(
        widths=widths,
        loss=loss,
        softmax=loss == "cross_entropy" and peer.softmax and not linear,
        weights=tuple(weight.astype(dtype) for weight in weights),
        biases=tuple(bias.astype(dtype) for bias in biases),
        optimizer=task if task in TRAINING else "sgd",
        learning_rate=RATES.get(task, 1.0),
        weight_decay=0.5 if task == "adamw" else 0.0,
        activation=kind if kind in peer.activations else "relu",
        dropout=RATE_OF_DROPPING if kind == "dropout" else 0.0,
        nonzeros=5 if kind == "sparse" else None,
    )
    X = rng.normal(size=(ROWS, 5)).astype(dtype)
    if kind == "sparse":  # rows of none to all
        X = csr_array(X * (rng.random((ROWS, 5)) < np.linspace(0, 1, ROWS)[:, None]))
    y = rng.normal(size=(ROWS, 1)).astype(dtype)
    if loss == "cross_entropy":
        y = rng.integers(0, 4, size=ROWS)
    return model, X, y, 1 if peer.one_row else BATCH


def problems_of(peer):
    """A problem for each task, loss, dtype, activation, layer and kind of inputs of a peer."""
    tasks = [task for task in ("predict", *TRAINING) if task in peer.tasks]
    if "dense" in peer.inputs:
        for task in tasks:
            yield Problem(task, "cross_entropy", "float32", "relu")
            if task in ("predict", "sgd", "adam"):
                yield Problem(task, "squared_error", "float32", "relu")
            # What takes no part in a quick run compiles for seconds: one dtype is enough of it.
            if "float64" in peer.dtypes and peer.quick:
                yield Problem(task, "cross_entropy", "float64", "relu")
        activations = peer.activations[1:] if peer.quick else peer.activations[1:2]
        for kind in (*activations, *peer.layers):
            for task in {"predict", "sgd"} & {*tasks} if peer.quick else {"sgd"}:
                yield Problem(task, "cross_entropy", "float32", kind)
    embedding = {"bound": LOSSES, "online": LOSSES[:1], "jacobian": LOSSES}
    for task in embedding if not (peer == FASTBP and ours.lacks("bound")) else ():
        if task in peer.tasks:
            for loss in embedding[task]:
                yield Problem(task, loss, "float32", "relu")
                if "float64" in peer.dtypes:
                    yield Problem(task, loss, "float64", "relu")
    if "sparse" in peer.inputs and not (peer == FASTBP and ours.lacks("sparse")):
        for task in ("predict", "sgd"):
            yield Problem(task, "cross_entropy", "float32", "sparse")


def answers(peer):
    """What a peer computes for all of its problems. This runs in a process of its own."""
    os.environ["JAX_ENABLE_X64"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    adapter = peer.adapter(1)
    found = {}
    for problem in problems_of(peer):
        model, X, y, batch = make_problem(peer, problem)
        found[problem] = answer = {}
        if problem.task == "predict":
            for rows in (1,) if peer.one_row else (1, ROWS):
                call = adapter.predictor(model, X[:rows])
                with adapter.around_predictions():
                    output = call()
                answer[rows] = output.reshape(rows, -1)
            continue
        if problem.task in ("bound", "jacobian"):
            answer["rows"] = row_by_row(adapter, problem.task, model, X)
            continue
        if problem.kind == "dropout":
            answer |= dropping(adapter, dataclasses.replace(model, learning_rate=1.0), X, y)
            continue
        if problem.task == "online":
            trainer = adapter.online(model, X, y)
        else:
            trainer = adapter.trainer(model, X, y, batch)
        answer["losses"] = [trainer.epoch(shuffle=False) for _ in range(2)]
        answer["parameters"] = trainer.parameters()
        trainer.restore()
        answer["restored"] = trainer.parameters()
        if problem.task == "sgd" and problem.dtype == "float32" and problem.kind == "relu":
            # So small a rate changes nothing: the mean loss is the same in any order of rows.
            still = dataclasses.replace(model, learning_rate=1e-30)
            trainer = adapter.trainer(still, X, y, batch)
            answer["shuffled"] = [trainer.epoch(shuffle=shuffle) for shuffle in (False, True)]
    return found


def row_by_row(adapter, task, model, X):
    """What an adapter computes for each row: bound once, or anew."""
    x = np.full_like(X[0], np.nan)
    bound = adapter.bound(model, x) if task == "bound" else None
    found = []
    with adapter.around_predictions():
        for row in X:
            x[...] = row
            call = bound or adapter.jacobian(model, row)
            found.append(call().copy())
    return np.array(found)


def dropping(adapter, model, X, y):
    """Mean and standard error of the loss and the gradient of single steps with dropout."""
    trainer = adapter.trainer(model, X, y, len(X))
    samples = []
    for _ in range(RUNS):
        trainer.restore()
        loss = trainer.epoch(shuffle=False)
        samples.append([loss, *(model.flat.astype(np.float64) - trainer.parameters())])
    return {"mean": np.mean(samples, axis=0), "error": np.std(samples, axis=0) / np.sqrt(RUNS)}


def reference_of(model):
    """The reference with a model's parameters, in float64."""
    hidden = [model.activation] * (len(model.widths) - 2)
    last = "softmax" if model.loss == "cross_entropy" else "identity"
    return ReferenceNetwork(
        [W.astype(np.float64) for W in model.weights],
        [b.astype(np.float64) for b in model.biases],
        [*hidden, last],
        model.loss,
    )


def normalized_outputs(model, X, flat):
    """What a network predicts whose hidden layers normalise, with other parameters."""
    A, start = X, 0
    for W, b in zip(model.weights, model.biases, strict=True):
        weight = flat[start : (start := start + W.size)].reshape(W.shape)
        bias = flat[start : (start := start + b.size)]
        if W.ndim == 1:
            mean, variance = A.mean(axis=1, keepdims=True), A.var(axis=1, keepdims=True)
            A = np.maximum((A - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)
        else:
            A = A @ weight + bias
    return scipy.special.softmax(A, axis=1)


def loss_and_gradient(model, X, y, flat):
    """By the reference, or, for layers it does not have, by central differences."""
    if not model.layer_norm:
        network = reference_of(model).with_flat(flat)
        return network.loss_value(X, y), network.gradient(X, y)

    def loss(flat):
        return -np.log(normalized_outputs(model, X, flat)[np.arange(len(y)), y]).mean()

    steps = 1e-6 * np.eye(len(flat))
    return loss(flat), np.array([(loss(flat + h) - loss(flat - h)) / 2e-6 for h in steps])


def stepped(model, theta, g, memory, t, *, epsilon_first):
    """One step by the definitions of the optimizers; `memory` is a pair of arrays."""
    rate, epsilon = model.learning_rate, 1e-8
    m, v = memory
    if model.optimizer == "momentum":  # Polyak (1964)
        m[...] = 0.9 * m + g
        return theta - rate * m
    if model.optimizer == "rmsprop":  # Tieleman and Hinton (2012)
        v[...] = 0.99 * v + 0.01 * g**2
        return theta - rate * g / (np.sqrt(v) + epsilon)
    if model.optimizer == "sgd":
        return theta - rate * g
    # Algorithm 1 of Kingma and Ba (2015), or the variant that its section 2 ends with; the decay
    # is that of algorithm 2 of Loshchilov and Hutter (2019).
    theta = theta - rate * model.weight_decay * theta
    m[...], v[...] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    if epsilon_first:
        return theta - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + epsilon)
    return theta - rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)


def trajectory(model, X, y, batch, epochs, *, epsilon_first=False):
    """The parameters after some epochs, and the mean loss of each, in float64."""
    X = X.toarray() if issparse(X) else X
    theta, losses, t = model.flat.astype(np.float64), [], 0
    memory = np.zeros((2, theta.size))
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(X), batch):
            rows = slice(start, start + batch)
            loss, g = loss_and_gradient(model, X[rows].astype(np.float64), y[rows], theta)
            total += loss * len(X[rows])
            t += 1
            theta = stepped(model, theta, g, memory, t, epsilon_first=epsilon_first)
        losses.append(total / len(X))
    return theta, losses


def expected_dropping(model, X, y):
    """Loss and gradient with dropout in the mean, over all ways to drop of one hidden layer."""
    W0, W1 = (W.astype(np.float64) for W in model.weights)
    b0, b1 = model.biases
    ways = np.array([*itertools.product([0, 1], repeat=len(b0))])
    kept = 1 - model.dropout
    Z = X @ W0 + b0
    total = 0.0
    for way in ways:
        mask = way / kept
        A = np.maximum(Z, 0) * mask
        P = scipy.special.softmax(A @ W1 + b1, axis=1)
        D = (P - np.eye(len(b1))[y]) / len(X)
        D_hidden = D @ W1.T * mask * (Z > 0)
        parts = (X.T @ D_hidden, D_hidden.sum(axis=0), A.T @ D, D.sum(axis=0))
        loss = -np.log(P[np.arange(len(y)), y]).mean()
        chance = kept ** way.sum() * model.dropout ** (len(way) - way.sum())
        total = total + chance * np.concatenate([[loss], *map(np.ravel, parts)])
    return total


def assert_close(got, expected, dtype, margin):
    """Within so many roundings of the largest value, or of 1.

    Everything here is summed from terms of about 1; a sum may cancel, its roundings do not.
    """
    expected = np.asarray(expected)
    error = np.abs(np.asarray(got, np.float64) - expected).max()
    assert error <= margin * np.finfo(dtype).eps * max(1.0, np.abs(expected).max())


# Three layers of sums of at most seven terms.
PREDICTION = 10
# Up to 24 steps that round; JAX, moreover, takes the powers in Adam's bias correction in float32.
TRAINING_MARGIN = 30


@pytest.fixture(scope="module", params=EVERYONE)
def answered(request):
    """A peer and its answers."""
    peer = EVERYONE[request.param]
    if reason := peer.missing():
        pytest.skip(reason)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return peer, pool.submit(answers, peer).result()


def test_adapter_predicts_what_the_reference_predicts(answered):
    peer, found = answered
    problems = [problem for problem in found if problem.task == "predict"]
    assert bool(problems) == ("predict" in peer.tasks)
    for problem in problems:
        model, X, _, _ = make_problem(peer, problem)
        X = X.toarray() if issparse(X) else X
        if model.layer_norm:
            expected = normalized_outputs(model, X, model.flat.astype(np.float64))
        else:
            logits, activations = reference_of(model).forward(X)
            expected = activations[-1] if peer.softmax else logits[-1]
        for rows, got in found[problem].items():
            assert got.dtype == problem.dtype
            assert_close(got, expected[:rows], problem.dtype, PREDICTION)


def test_adapter_trains_as_the_reference_does(answered):
    peer, found = answered
    problems = [problem for problem in found if "losses" in found[problem]]
    assert {problem.task for problem in problems} == {*TRAINING, "online"} & {*peer.tasks}
    for problem in problems:
        model, X, y, batch = make_problem(peer, problem)
        batch = 1 if problem.task == "online" else batch
        theta, losses = trajectory(
            model, X, y, batch, 2, epsilon_first=peer.name == "scikit-learn"
        )
        got, margin = found[problem], TRAINING_MARGIN
        assert_close(got["parameters"], theta, problem.dtype, margin)
        if peer.name == "mlpfile" or problem.task == "online":  # computes no loss
            assert got["losses"] == [None, None]
        else:
            assert_close(got["losses"], losses, problem.dtype, margin)
        np.testing.assert_array_equal(got["restored"], model.flat)


def test_adapter_follows_what_is_written_to_a_bound_row(answered):
    peer, found = answered
    problems = [problem for problem in found if problem.task == "bound"]
    if not problems:
        pytest.skip(f"{peer.title} makes no bound calls")
    for problem in problems:
        model, X, _, _ = make_problem(peer, problem)
        logits, activations = reference_of(model).forward(X)
        expected = activations[-1] if model.softmax else logits[-1]
        got = found[problem]["rows"].reshape(ROWS, -1)
        assert got.dtype == problem.dtype
        assert_close(got, expected, problem.dtype, PREDICTION)


def test_adapter_computes_the_jacobian(answered):
    peer, found = answered
    problems = [problem for problem in found if problem.task == "jacobian"]
    if not problems:
        pytest.skip(f"{peer.title} computes no Jacobian")
    h = 1e-6
    for problem in problems:
        model, X, _, _ = make_problem(peer, problem)
        network = reference_of(model)
        # With ReLU, differences are derivatives but for rounding: 1e-10 here, and in float64 the
        # only error that counts.
        expected = np.stack([
            (network.forward(X + step)[0][-1] - network.forward(X - step)[0][-1]) / (2 * h)
            for step in h * np.eye(5)
        ], axis=-1)
        got = found[problem]["rows"]
        assert got.dtype == problem.dtype
        if problem.dtype == "float64":
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)
        else:
            assert_close(got, expected, problem.dtype, PREDICTION)


def test_adapter_uses_every_row_once_when_shuffling(answered):
    peer, found = answered
    shuffled = {
        problem: answer["shuffled"] for problem, answer in found.items() if "shuffled" in answer
    }
    if not shuffled or peer.name == "mlpfile":
        pytest.skip(f"{peer.title} returns no loss of training on dense inputs")
    for problem, losses in shuffled.items():
        assert_close(losses[1], losses[0], problem.dtype, PREDICTION)


def test_adapter_drops_as_the_definition_does(answered):
    peer, found = answered
    problem = Problem("sgd", "cross_entropy", "float32", "dropout")
    if problem not in found:
        pytest.skip(f"{peer.title} has no dropout, or does not train")
    model, X, y, _ = make_problem(peer, problem)
    got, expected = found[problem]["mean"], expected_dropping(model, X, y)
    # 75 means within five standard errors, which none leaves by chance; and a rounding of the
    # parameters, which the gradient is a difference of.
    assert (np.abs(got - expected) <= 5 * found[problem]["error"] + 1e-6).all()
    # Else the errors would allow anything.
    assert np.abs(found[problem]["error"]).max() < 0.01


# --- both sides are checked before they are timed ---------------------------------------------

QUICK = measure.Effort(sample=1e-4, budget=0.05, pairs=(2, 4), uncertainty=0.5)
TINY = Cell("sgd", "tiny", 32)


class Wrong(NumpyAdapter):
    """Wrong on purpose: outputs and learning rate are too large, or what a subclass changes."""

    def predictor(self, model, X):
        call = super().predictor(model, X)
        return lambda: call() * model.dtype.type(1.001)

    def bound(self, model, x):
        call = super().bound(model, x)
        return lambda: call() * model.dtype.type(1.001)

    def jacobian(self, model, x):
        return lambda: super(Wrong, self).jacobian(model, x)() * model.dtype.type(1.001)

    def online(self, model, X, y):
        return super().online(self.changed(model), X, y)

    def trainer(self, model, X, y, batch):
        return super().trainer(self.changed(model), X, y, batch)

    def changed(self, model):
        much = 1.01 if model.optimizer in ("sgd", "momentum") else 1.04
        return dataclasses.replace(model, learning_rate=much * model.learning_rate)


def assert_not_timed(cell, wrong_adapter):
    """Right beside right is timed, and right beside wrong is not."""
    right = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), NumpyAdapter(1), QUICK)
    assert right["agree"]
    assert "ratio" in right
    wrong = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), wrong_adapter(1), QUICK)
    assert not wrong["agree"]
    assert "ratio" not in wrong
    (problem,) = report.problems({"measurements": [right, wrong]})
    assert "was not timed" in problem


TASKS_OF_ONE_ROW = ["latency", "bound-latency", "bound", "online", "jacobian"]


@pytest.mark.parametrize("task", [*TASKS_OF_ONE_ROW, "predict", *TRAINING])
def test_what_does_not_agree_is_not_timed(task):
    batch = 1 if task in TASKS_OF_ONE_ROW else 32
    assert_not_timed(dataclasses.replace(TINY, task=task, batch=batch), Wrong)


class Deaf(NumpyAdapter):
    """Computes for what the row held first."""

    def bound(self, model, x):
        call = super().bound(model, x)

        def first():
            self.said = getattr(self, "said", None) or [call().copy()]
            return self.said[0]

        return first


def test_a_bound_call_that_does_not_follow_its_row_is_not_timed():
    assert_not_timed(Cell("bound", "tiny", 1), Deaf)


class WrongAdam(Wrong):
    def changed(self, model):
        return model if model.optimizer == "sgd" else super().changed(model)


def test_steps_of_adam_are_checked_beside_those_of_sgd():
    cell = Cell("online-adam", "tiny", 1)
    right = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), NumpyAdapter(1), QUICK)
    assert right["agree"]
    assert right["ratio"]["median"] > 0
    assert [check["what"] for check in right["checks"]] == 2 * ["parameters after two epochs"]
    for ours_, theirs in ((WrongAdam(1), NumpyAdapter(1)), (NumpyAdapter(1), Wrong(1))):
        wrong = cells.run(cell, PEERS["numpy"], ours_, theirs, QUICK)
        assert not wrong["agree"]
        assert "ratio" not in wrong


class NoDecay(Wrong):
    def changed(self, model):
        return dataclasses.replace(model, weight_decay=0.0)


class DropsMore(Wrong):
    def changed(self, model):
        return dataclasses.replace(model, dropout=1.4 * model.dropout)


class DropsNothing(Wrong):
    def changed(self, model):
        return dataclasses.replace(model, dropout=0.0)


class ScalesNothing(NumpyAdapter):
    def trainer(self, model, X, y, batch):
        trainer = super().trainer(model, X, y, batch)
        for hidden in trainer.hidden:
            hidden.forward = functools.partial(self.unscaled, hidden, hidden.forward)
        return trainer

    def unscaled(self, hidden, forward, Z):
        forward(Z)
        Z *= 1 - hidden.rate


@pytest.fixture
def toys(monkeypatch):
    """A network with two hidden layers that is done soon, and its variants."""
    toy = Shape("toy", (16, 48, 48, 4), "cross_entropy", {32: 64})
    monkeypatch.setitem(SHAPES, "toy", toy)
    for name, layer in (("dropout", {"dropout": 0.2}), ("layernorm", {"layer_norm": True})):
        variant = dataclasses.replace(toy, name=f"toy-{name}", **layer)
        monkeypatch.setitem(SHAPES, variant.name, variant)


def test_a_forgotten_decay_is_not_timed(toys):
    assert_not_timed(Cell("adamw", "toy", 32), NoDecay)


@pytest.mark.parametrize("wrong", [DropsMore, DropsNothing, ScalesNothing])
def test_dropout_that_differs_in_the_mean_is_not_timed(wrong, toys):
    assert_not_timed(Cell("sgd", "toy-dropout", 32), wrong)


def test_overhead_is_that_of_each_side_by_itself(toys):
    cell = Cell("overhead", "toy-layernorm", 32)
    result = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), NumpyAdapter(1), QUICK)
    assert result["agree"]
    ratio = result["theirs"]["median"] / result["ours"]["median"]
    assert result["ratio"]["median"] == pytest.approx(ratio, rel=1e-3)
    assert result["ratio"]["low"] <= result["ratio"]["median"] <= result["ratio"]["high"]
    result["ours"]["median"], result["theirs"]["median"] = 1.0826, 0.991
    (table,) = report.tables({"measurements": [result]})
    assert table.rows == [["toy-layernorm", "32", "+8.3 %", "-0.9 %"]]
    wrong = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), Wrong(1), QUICK)
    assert not wrong["agree"]
    assert "ratio" not in wrong


class Counting(NumpyAdapter):
    """Notes how many rows each of its trainers gets."""

    def trainer(self, model, X, y, batch):
        self.rows = [*getattr(self, "rows", []), len(X)]
        return super().trainer(model, X, y, batch)


@pytest.mark.parametrize(("long", "rows"), [(math.inf, [32 * 8, 32 * 64]), (0.0, [32 * 8])])
def test_epochs_that_take_long_are_cut(monkeypatch, long, rows):
    short = dataclasses.replace(SHAPES["tiny"], steps={32: 64}, checked_steps=8)
    monkeypatch.setitem(SHAPES, "tiny", short)
    monkeypatch.setattr(cells, "LONG", long)
    sides = Counting(1), Counting(1)
    assert cells.run(TINY, PEERS["numpy"], *sides, QUICK)["agree"]
    assert [side.rows for side in sides] == [rows, rows]


def test_sparse_cells_are_measured(monkeypatch):
    if reason := ours.lacks("sparse"):
        pytest.skip(reason)
    monkeypatch.setitem(SHAPES, "text", dataclasses.replace(SHAPES["text"], steps={32: 16}))
    peer = PEERS["scipy"]
    for cell in GROUPS["sparse"].cells:
        result = cells.run(cell, peer, FASTBP.adapter(1), peer.adapter(1), QUICK)
        assert result["agree"]
        assert result["ratio"]["median"] > 0


def test_a_check_refuses_nan_and_what_has_not_moved():
    model = make_model(TINY)
    outputs = np.ones((32, 1), "f")
    assert checks.check_predictions(model, outputs, outputs).passed
    assert not checks.check_predictions(model, outputs * np.nan, outputs).passed
    assert not checks.check_predictions(model, outputs, outputs.astype("d")).passed
    X, y = make_data(TINY, 64)
    still = dataclasses.replace(model, learning_rate=0.0)
    sides = [NumpyAdapter(1).trainer(still, X, y, 32) for _ in range(2)]
    assert not all(check.passed for check in checks.check_training(still, 2, *sides))


# --- arithmetic -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "q", "expected"),
    [
        (1000, 50, 500),
        (1000, 99, 990),
        (1000, 99.9, 999),
        (1000, 100, 1000),
        (999, 50, 500),
        (10, 99.9, 10),
        (4, 25, 1),
        (1, 99.9, 1),
    ],
)
def test_percentile_is_the_nearest_rank(n, q, expected):
    assert arithmetic.percentile(range(1, n + 1), q) == expected


def test_a_histogram_counts_on_a_logarithmic_scale():
    values = [1.0, 1.05, 1.2, 9.9e-8, 101.0, 101.0]
    found = arithmetic.log_histogram(values)
    assert sum(count for _, count in found) == len(values)
    lows = [low for low, _ in found]
    # of ten to the power of k / 20, for k of -141, 0, 1 and 40
    assert lows == [8.913e-8, 1.0, 1.122, 100.0]
    assert [count for _, count in found] == [1, 2, 1, 2]


def test_summary_of_known_numbers():
    summary = arithmetic.summarize([9, 1, 8, 2, 10, 3, 7, 4, 6, 5])
    # of ten values the second and the ninth enclose the median with 97.9 %
    assert summary == arithmetic.Summary(median=5.5, low=2, high=9, q1=3, q3=8)
    assert summary.uncertainty == 7 / 11
    assert arithmetic.summarize([3.0]) == arithmetic.Summary(3, 3, 3, 3, 3)


@pytest.mark.parametrize("n", range(6, 80))
def test_confidence_interval_is_the_narrowest_that_covers_95_percent(n):
    summary = arithmetic.summarize(range(1, n + 1))
    k = summary.low
    assert summary.high == n + 1 - k
    # the median lies outside when fewer than k values are below it, or fewer than k above
    assert 2 * binom.cdf(k - 1, n, 0.5) <= 0.05 < 2 * binom.cdf(k, n, 0.5)


def test_ratios_are_taken_pair_by_pair():
    pairs = [(1.0, 3.0), (10.0, 10.0), (10.0, 20.0)]
    assert arithmetic.pair_ratios(pairs) == [3.0, 1.0, 2.0]
    measured = measure.Race(pairs, busy=1.0)
    assert measured.ratio.median == 2.0  # the ratio of the medians is 1
    assert (measured.ours.median, measured.theirs.median) == (10.0, 10.0)


def race_of(ours, theirs, **settings):
    """The pairs of a race between two endless sequences, and who was measured when."""
    order = []

    def sample(side, values):
        def measured():
            order.append(side)
            return next(values)

        return measured

    effort = measure.Effort(**{"sample": 1.0, "uncertainty": 0.01, **settings})
    made = measure.race(sample("o", iter(ours)), sample("t", iter(theirs)), effort)
    return made.pairs, "".join(order)


def test_sides_take_turns_and_each_is_first_as_often():
    pairs, order = race_of(range(1, 99), range(101, 199), budget=math.inf, pairs=(4, 4))
    assert order == "ottootto"
    assert pairs == [(1, 101), (2, 102), (3, 103), (4, 104)]


def test_race_ends_when_the_ratio_is_known_or_time_is_over():
    ones, erratic = [1.0] * 99, [1.0, 9.0] * 50
    assert len(race_of(ones, ones, budget=math.inf, pairs=(6, 40))[0]) == 6
    assert len(race_of(ones, erratic, budget=math.inf, pairs=(6, 40))[0]) == 40
    # half of the fewest pairs are made whatever the time
    assert len(race_of(ones, erratic, budget=0.0, pairs=(6, 40))[0]) == 3


def test_short_work_is_repeated_until_it_is_long_enough():
    asked = []

    def timer(repetitions):
        asked.append(repetitions)
        return 1e-6

    effort = measure.Effort(sample=1e-3, budget=1.0, pairs=(1, 1), uncertainty=1.0)
    sample = measure.long_enough(timer, 4, effort)
    assert sample() == 1e-6
    assert 1e-3 <= asked[-1] * 4 * 1e-6 < 2e-3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123456.7, "123,457"),
        (999.4, "999"),
        (99.94, "99.9"),
        (1.234, "1.23"),
        (0.3456, "0.346"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


# --- the cells --------------------------------------------------------------------------------


def test_cells_are_named_apart_and_found_by_pattern():
    names = [cell.name for cell in all_cells()]
    assert len(set(names)) == len(names)
    cell = Cell("sgd", "small", 32, "float32", "all")
    assert cell.name == "sgd/small/32/float32/all"
    assert cell.matches(["small"])
    assert cell.matches(["sgd/*/32/*"])
    assert cell.matches(["mnist", "s?d"])
    assert not cell.matches(["sgd/small", "smol", "1"])


def test_groups_can_be_asked_for():
    assert chosen() == [*GROUPS[DEFAULT].cells]
    assert chosen(groups=("sparse",), quick=True) == [*GROUPS["sparse"].cells]
    assert chosen(quick=True) == [cell for cell in GROUPS[DEFAULT].cells if is_quick(cell)]
    assert [cell.name for cell in chosen(only=("momentum/small/*",))] == [
        f"momentum/small/{batch}/float32/1" for batch in (1, 32, 256)
    ]
    assert chosen(only=("adam",), groups=("optimizers",)) == []
    # A cell that two groups have is measured once.
    both = chosen(groups=("activations", "layers"))
    assert len(set(both)) == len(both) > 0
    assert Cell("sgd", "small", 32) in both


def test_start_up_belongs_to_the_default_group():
    assert run.make_plan(peers=("numpy",)).startup
    assert run.make_plan(groups=("sparse", DEFAULT), peers=("scipy",)).startup
    assert not run.make_plan(groups=("sparse",), peers=("scipy",)).startup
    assert not run.make_plan(only=("small",), peers=("numpy",)).startup
    assert run.make_plan(only=("startup",), peers=("numpy",)).startup


def test_every_group_is_on_the_page():
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    for name in GROUPS:
        assert f"| `{name}` |" in page


def test_every_cell_has_a_peer_and_fastbp():
    for cell in all_cells():
        assert any(peer.supports(cell) for peer in PEERS.values()), cell.name
        assert cell.task == "digits" or FASTBP.supports(cell), cell.name


def test_flops_of_known_networks():
    # of 100 inputs that are not zero, 64 units and 10 outputs
    assert SHAPES["text"].flops("sgd", 32) == 64 * (2 * (6400 + 640) + 640)
    # 16 x 32 and 32 x 1; the first layer's input needs no gradient
    assert SHAPES["tiny"].flops("predict", 1) == 2 * (512 + 32)
    assert SHAPES["tiny"].flops("sgd", 10) == 20 * (2 * (512 + 32) + 32)
    assert SHAPES["tiny"].flops("online", 1) == SHAPES["tiny"].flops("sgd", 1)
    # forward, and each of ten outputs back through 100 x 100 and 40 x 100
    products = 4000 + 10000
    assert SHAPES["example"].flops("jacobian", 1) == 2 * (products + 1000 + 10 * products)
    assert SHAPES["tiny"].n_parameters == 512 + 32 + 32 + 1


def test_every_cell_has_data_that_fits_it():
    for cell in all_cells():
        model = make_model(dataclasses.replace(cell, network="tiny"))
        assert model.dtype == cell.dtype
        assert model.flat.size == SHAPES["tiny"].n_parameters
    for name in SHAPES.keys() - {"big", "text"}:  # the same as the others, only large
        assert make_model(Cell("sgd", name, 32)).flat.size == SHAPES[name].n_parameters
    X, y = make_data(Cell("sgd", "small", 32, "float64"), 64)
    assert (X.shape, X.dtype, y.shape) == ((64, 64), np.float64, (64,))
    assert set(y) <= set(range(10))


def test_sparse_rows_are_as_words_are():
    X, y = make_data(Cell("sgd", "text", 32), 640)
    assert (X.shape, X.dtype, y.shape) == ((640, 100_000), np.float32, (640,))
    assert (np.diff(X.indptr) == 100).all()
    assert X.has_canonical_format  # sorted, and no column twice
    counts = np.bincount(X.indices % 1000, minlength=1000)
    n = 640 * 100
    for k in (0, 1, 10, 100):  # about 1 / (k + 1); within 3.5 sigma
        chance = np.log((k + 2) / (k + 1)) / np.log(1000)
        assert abs(counts[k] - n * chance) < 3.5 * np.sqrt(n * chance)
    assert np.mean(X.data**2) == pytest.approx(1, rel=0.1)


def test_flat_parameters_are_in_the_order_of_fastbp():
    weights, biases = [np.array([[1, 2], [3, 4]]), np.array([[7], [8]])], [[5, 6], [9]]
    assert flatten(weights, [np.array(b) for b in biases]).tolist() == list(range(1, 10))


def test_peers_are_asked_for_what_they_can_do():
    assert PEERS["mlpfile"].supports(Cell("sgd", "small", 1))
    assert not PEERS["mlpfile"].supports(Cell("sgd", "small", 32))
    assert not PEERS["mlpfile"].supports(Cell("sgd", "small", 1, "float64"))
    assert not PEERS["mlpfile"].supports(Cell("sgd", "small", 1, threads="all"))
    assert not PEERS["onnxruntime"].supports(Cell("sgd", "small", 1))
    assert not PEERS["jax-scan"].supports(Cell("predict", "small", 1))
    assert PEERS["scikit-learn"].supports(Cell("momentum", "small", 32))
    assert not PEERS["scikit-learn"].supports(Cell("rmsprop", "small", 32))
    assert PEERS["scikit-learn"].supports(Cell("sgd", "small-tanh", 32))
    assert not PEERS["scikit-learn"].supports(Cell("sgd", "small-gelu", 32))
    assert not PEERS["scikit-learn"].supports(Cell("sgd", "small-dropout", 32))
    assert PEERS["scikit-learn"].supports(Cell("sgd", "text", 32))
    assert not PEERS["torch"].supports(Cell("sgd", "text", 32))
    assert PEERS["torch-bag"].supports(Cell("sgd", "text", 32))
    assert not PEERS["torch-bag"].supports(Cell("sgd", "small", 32))
    assert PEERS["scikit-learn"].supports(Cell("digits", "digits", 32))
    assert not PEERS["numpy"].supports(Cell("digits", "digits", 32))
    assert PEERS["mlpfile"].supports(Cell("online-adam", "small", 1))
    assert not PEERS["torch"].supports(Cell("online-adam", "small", 1))
    assert not PEERS["onnxruntime"].supports(Cell("jacobian", "small", 1))


# --- the plan and the processes ---------------------------------------------------------------


def test_a_missing_peer_is_skipped_with_the_reason(monkeypatch):
    ghost = Peer("ghost", "Ghost", "ghost", ("no_such_package",), ("no-such-distribution",))
    monkeypatch.setitem(PEERS, "ghost", ghost)
    plan = run.make_plan(only=("sgd/tiny/1/float32/1",), peers=("numpy", "ghost"))
    assert ("Ghost", "no_such_package not installed") in plan.skipped
    assert {group.peer.name for group in plan.groups} == {"numpy"}


def test_what_fastbp_lacks_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(ours, "lacks", lambda need: "too old" if need == "adamw" else None)
    plan = run.make_plan(only=("adamw/small/*", "sgd/small/*"), peers=("numpy",))
    assert ("adamw", "too old") in plan.skipped
    assert {cell.task for group in plan.groups for cell in group.cells} == {"sgd"}


def test_a_process_has_one_number_of_threads_and_one_dtype():
    plan = run.make_plan(peers=("numpy",))
    for group in plan.groups:
        assert {(cell.threads, cell.dtype) for cell in group.cells} == {
            (group.threads, group.cells[0].dtype)
        }
    kinds = [(group.threads, group.cells[0].dtype) for group in plan.groups]
    assert len(set(kinds)) == len(kinds)


def test_environment_fixes_the_number_of_threads():
    variables = threads.environment(3)
    assert variables["OMP_NUM_THREADS"] == variables["OPENBLAS_NUM_THREADS"] == "3"
    assert "multi_thread_eigen=true" in variables["XLA_FLAGS"]
    assert "multi_thread_eigen=false" in threads.environment(1)["XLA_FLAGS"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound here")
def test_one_thread_means_one_core():
    code = "from benchmarks import threads; threads.bind(1); print(threads.available_cores())"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "1"


@pytest.fixture(scope="module")
def small_result():
    """A run of two cells against NumPy."""
    only = ("predict/tiny/1/float32/1", "sgd/tiny/256/float32/1")
    plan = run.make_plan(quick=True, only=only, peers=("numpy",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure_peak", lambda: {"float32": 1e11, "float64": 5e10})
        ticks = []
        result = run.measure(plan, ticks.append)
    assert ticks.count("") == plan.n_measurements == 2
    return result


def test_a_run_measures_what_was_planned(small_result):
    for each in small_result["measurements"]:
        assert each["agree"]
        assert each["ours"]["median"] > 0
        ratios = sorted(theirs / ours for ours, theirs in each["pairs"])
        assert ratios[0] <= each["ratio"]["median"] * 1.001
        assert each["ratio"]["median"] <= ratios[-1] * 1.001
    assert report.problems(small_result) == []
    assert json.loads(run.as_json(small_result)) == small_result


def test_the_report_has_a_row_for_each_cell(small_result):
    text = report.markdown(small_result, ["step_time_sgd.png"])
    assert "| tiny | 1 |" in text
    assert "| tiny | 256 |" in text
    assert "(step_time_sgd.png)" in text
    assert small_result["machine"]["versions"]["numpy"] == np.__version__


def test_plots_are_written(small_result, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra bench, is not installed")
    from benchmarks import plots

    assert plots.write(small_result, tmp_path) == ["step_time_sgd.png", "percent_of_peak.png"]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_latencies_of_bound_calls_have_a_table_and_a_histogram(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra bench, is not installed")
    from benchmarks import plots

    peer = PEERS["numpy"]
    sides = FASTBP.adapter(1), peer.adapter(1)
    wanted = [Cell("bound-latency", network, 1) for network in ("tiny", "example")]
    measured = [cells.run(cell, peer, *sides, QUICK) for cell in wanted]
    for each in measured:
        for side in (each["ours"], each["theirs"]):
            assert sum(count for _, count in side["histogram"]) == side["calls"]
            lows = [low for low, _ in side["histogram"]]
            assert lows[0] <= side["p50"] <= side["p99.9"] < lows[-1] * 10 ** (1 / 20) * 1.001
    result = {"measurements": measured}
    (table,) = report.tables(result)
    assert "bound calls" in table.title
    assert [row[0] for row in table.rows] == ["tiny", "example"]
    assert plots.write(result, tmp_path) == ["bound_latency_histogram.png"]
    assert (tmp_path / "bound_latency_histogram.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_that_raises_is_reported(monkeypatch):
    broken = dataclasses.replace(PEERS["numpy"], name="broken", module="no_such_module")
    monkeypatch.setitem(PEERS, "broken", broken)
    group = run.Group(broken, "1", (TINY,))
    (result,) = run.measure_group(group, quick=True, deadline=math.inf, tick=lambda what: None)
    # The process does not know that peer and ends; its last words become the reason.
    assert "broken" in result["failed"]
    assert report.problems({"measurements": [result]}) != []


def test_needs_of_a_distribution_are_followed():
    assert {"fastbp", "numpy", "scipy"} <= startup.with_needs("fastbp")
    assert startup.installed_bytes("fastbp") > 100_000


# --- comparing two runs -----------------------------------------------------------------------


def result_with(ratios, spread=0.01, imports=1.2):
    """A result of one cell, given its ratio to each peer and the relative spread of all."""

    def ratio(median):
        return {"median": median, "low": median * (1 - spread), "high": median * (1 + spread)}

    return {
        "measurements": [
            {"cell": "sgd/small/1/float32/1", "peer": peer, "ratio": ratio(median)}
            for peer, median in ratios.items()
        ],
        "startup": {"imports": {"fastbp": {"by_numpy": ratio(imports)}}},
    }


def changes_of(old, new):
    return {change.cell: change for change in compare.compare(old, new)}


OLD = result_with({"numpy": 20.0, "jax": 5.0, "torch": 100.0})


def test_slower_against_all_peers_is_a_regression():
    new = result_with({"numpy": 16.0, "jax": 4.0, "torch": 80.0})
    change = changes_of(OLD, new)["sgd/small/1/float32/1"]
    assert change.change == pytest.approx(0.8)
    assert change.n_peers == 3
    assert change.is_regression
    assert not change.is_gain
    back = changes_of(new, OLD)["sgd/small/1/float32/1"]
    assert back.is_gain
    assert not back.is_regression


def test_a_peer_that_became_faster_is_none():
    new = result_with({"numpy": 20.0, "jax": 2.5, "torch": 100.0})
    assert not changes_of(OLD, new)["sgd/small/1/float32/1"].is_regression


def test_a_change_within_the_noise_is_none():
    # Twice the root of the squares of both uncertainties: 2 sqrt(2) 1 % is below the floor of 5 %.
    assert compare.relative_noise(0.01, 0.01) == compare.FLOOR == 0.05
    assert compare.relative_noise(0.03, 0.04) == pytest.approx(0.10)
    within = result_with({"numpy": 19.2, "jax": 4.8, "torch": 96.0})
    assert not changes_of(OLD, within)["sgd/small/1/float32/1"].is_regression
    noisy = result_with({"numpy": 16.0, "jax": 4.0, "torch": 80.0}, spread=0.2)
    assert not changes_of(OLD, noisy)["sgd/small/1/float32/1"].is_regression


def test_a_slower_import_is_a_regression():
    slower = result_with({"numpy": 20.0}, imports=1.5)
    assert changes_of(OLD, slower)["startup"].is_regression
    assert not changes_of(slower, OLD)["startup"].is_regression


def test_only_what_both_have_is_compared():
    failed = {"measurements": [{"cell": "sgd/small/1/float32/1", "peer": "jax", "failed": "x"}]}
    assert changes_of(OLD, failed) == {}
    assert changes_of(failed, OLD) == {}


def test_the_comparison_names_what_differs(small_result):
    old = json.loads(json.dumps(small_result))
    old["machine"]["versions"]["numpy"] = "0.1"
    changes = compare.compare(old, small_result)
    assert [change.change for change in changes] == [1.0, 1.0]
    text = compare.text(changes, old, small_result)
    assert "numpy: 0.1 then" in text
    assert "nothing became slower" in text


def test_command_line_returns_1_on_a_regression(small_result, tmp_path, monkeypatch):
    for package in ("rich", "matplotlib"):
        pytest.importorskip(package, reason=f"{package}, of the extra bench, is not installed")
    from benchmarks import __main__ as command

    old = json.loads(json.dumps(small_result))
    for each in old["measurements"]:  # without the noise of a busy machine
        each["ratio"] = dict.fromkeys(("median", "low", "high"), each["ratio"]["median"])
    result = json.loads(json.dumps(old))
    monkeypatch.setattr(run, "measure", lambda plan, tick: result)
    path = tmp_path / "old.json"
    arguments = ["--quick", "--compare", str(path), "--output", str(tmp_path / "new")]
    path.write_text(run.as_json(old))
    assert command.main(arguments) == 0
    for each in old["measurements"]:
        for name in each["ratio"]:
            each["ratio"][name] *= 100
    path.write_text(run.as_json(old))
    assert command.main(arguments) == 1
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == result


def test_every_adapter_is_an_adapter():
    for peer in EVERYONE.values():
        if not peer.missing() and peer.name in (FASTBP.name, "numpy"):
            assert isinstance(peer.adapter(1), base.Adapter)


# --- the crossovers ---------------------------------------------------------------------------


def test_every_crossover_of_the_engine_can_be_measured():
    """Both sides set macros that the header lets a build set, and nothing is forgotten."""
    header = (ROOT / "fastbp" / "engine" / "crossovers.h").read_text()
    settable = set(re.findall(r"#ifndef (\w+)\n#define \1 ", header))
    assert set(crossovers.CROSSOVERS) == settable
    for crossover in crossovers.CROSSOVERS.values():
        assert crossover.before != crossover.after
        assert {*crossover.before, *crossover.after} <= settable


def test_a_worker_times_both_kinds_of_work():
    works = [
        crossovers.Work("a step", "step", (3, 4, 2), 5),
        crossovers.Work("a prediction", "predict", (3, 2), 1),
    ]
    orders = "".join(json.dumps(dataclasses.asdict(work)) + "\n" for work in works)
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.crossovers", "--worker", "1"],
        cwd=ROOT, input=orders, capture_output=True, text=True, check=True, timeout=60,
    )
    seconds = [float(line) for line in made.stdout.split()]
    assert len(seconds) == 2
    assert all(0 < each < 1 for each in seconds)
