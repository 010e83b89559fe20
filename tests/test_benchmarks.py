"""The benchmark suite: what its adapters compute, and the arithmetic of its tables.

Each peer runs in a process of its own: JAX and PyTorch start threads that the other tests, which
fork, must not inherit. A peer that is not installed is skipped.
"""

import dataclasses
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

import numpy as np
import pytest
from reference import ReferenceNetwork
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
from benchmarks.peers import FASTBP, PEERS, Peer, base
from benchmarks.peers.numpy_by_hand import Adapter as NumpyAdapter
from benchmarks.workloads import (
    SHAPES,
    Cell,
    Model,
    all_cells,
    flatten,
    make_data,
    make_model,
)

ROOT = Path(__file__).resolve().parent.parent
ROWS, BATCH = 12, 4
RATES = {"sgd": 0.05, "adam": 0.01}


# --- every adapter computes what the reference computes ---------------------------------------


def make_problem(peer, task, loss, dtype):
    """A small network with inputs and targets, and the batch size that suits the peer."""
    widths = (5, 7, 6, 4) if loss == "cross_entropy" else (5, 7, 1)
    rng = np.random.default_rng(3)
    pairs = list(pairwise(widths))
    model = Model(
        widths=widths,
        loss=loss,
        softmax=loss == "cross_entropy" and peer.softmax,
        weights=tuple((rng.normal(size=pair) / 2).astype(dtype) for pair in pairs),
        biases=tuple(rng.normal(size=n_out).astype(dtype) for _, n_out in pairs),
        optimizer=task if task in RATES else "sgd",
        learning_rate=RATES.get(task, 1.0),
    )
    X = rng.normal(size=(ROWS, 5)).astype(dtype)
    y = rng.normal(size=(ROWS, 1)).astype(dtype)
    if loss == "cross_entropy":
        y = rng.integers(0, 4, size=ROWS)
    return model, X, y, 1 if peer.one_row else BATCH


def problems_of(peer):
    """(task, loss, dtype) for each task, each loss and each dtype that a peer has."""
    for task in ("predict", "sgd", "adam"):
        if task not in peer.tasks or (peer.name == FASTBP.name and task == "adam" and not ADAM):
            continue
        yield task, "cross_entropy", "float32"
        yield task, "squared_error", "float32"
        # What takes no part in a quick run compiles for seconds: one dtype is enough of it.
        if "float64" in peer.dtypes and peer.quick:
            yield task, "cross_entropy", "float64"


def answers(peer):
    """What a peer computes for all of its problems. This runs in a process of its own."""
    os.environ["JAX_ENABLE_X64"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    adapter = peer.adapter(1)
    found = {}
    for task, loss, dtype in problems_of(peer):
        model, X, y, batch = make_problem(peer, task, loss, dtype)
        if task == "predict":
            for rows in (1,) if peer.one_row else (1, ROWS):
                call = adapter.predictor(model, X[:rows])
                with adapter.around_predictions():
                    output = call()
                found[task, loss, dtype, rows] = output.reshape(rows, -1)
            continue
        trainer = adapter.trainer(model, X, y, batch)
        losses = [trainer.epoch(shuffle=False) for _ in range(2)]
        found[task, loss, dtype, "losses"] = losses
        found[task, loss, dtype, "parameters"] = trainer.parameters()
        trainer.restore()
        found[task, loss, dtype, "restored"] = trainer.parameters()
        if (task, dtype) == ("sgd", "float32"):
            # So small a rate changes nothing: the mean loss is the same in any order of rows.
            still = dataclasses.replace(model, learning_rate=1e-30)
            trainer = adapter.trainer(still, X, y, batch)
            shuffled = [trainer.epoch(shuffle=shuffle) for shuffle in (False, True)]
            found[task, loss, dtype, "shuffled"] = shuffled
    return found


def reference_of(model):
    """The reference with a model's parameters, in float64."""
    hidden = ["relu"] * (len(model.widths) - 2)
    last = "softmax" if model.loss == "cross_entropy" else "identity"
    return ReferenceNetwork(
        [W.astype(np.float64) for W in model.weights],
        [b.astype(np.float64) for b in model.biases],
        [*hidden, last],
        model.loss,
    )


def sgd_epoch(network, model, X, y, batch):
    return network.epoch(X, y, model.learning_rate, np.arange(len(X)), batch)


def adam_epochs(network, model, X, y, batch, epochs, *, epsilon_first):
    """Algorithm 1 of Kingma and Ba (2015), or the variant that its section 2 ends with."""
    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-8
    m, v, t, losses = np.zeros_like(network.flat), np.zeros_like(network.flat), 0, []
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(X), batch):
            rows = slice(start, start + batch)
            total += network.loss_value(X[rows], y[rows]) * len(X[rows])
            g = network.gradient(X[rows], y[rows])
            t += 1
            m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
            if epsilon_first:
                rate = model.learning_rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
                update = rate * m / (np.sqrt(v) + epsilon)
            else:
                m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
                update = model.learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)
            network = network.with_flat(network.flat - update)
        losses.append(total / len(X))
    return network, losses


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
TRAINING = 30
EVERYONE = {FASTBP.name: FASTBP, **PEERS}


def adam_is_there():
    from benchmarks.peers import ours

    return ours.offers_adam()


ADAM = adam_is_there()


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
    keys = [key for key in found if key[0] == "predict"]
    assert bool(keys) == ("predict" in peer.tasks)
    for task, loss, dtype, rows in keys:
        model, X, _, _ = make_problem(peer, task, loss, dtype)
        logits, activations = reference_of(model).forward(X[:rows])
        expected = activations[-1] if peer.softmax else logits[-1]
        got = found[task, loss, dtype, rows]
        assert got.dtype == dtype
        assert_close(got, expected, dtype, PREDICTION)


def test_adapter_trains_as_the_reference_does(answered):
    peer, found = answered
    keys = [key for key in found if key[-1] == "losses"]
    assert bool(keys) == ("sgd" in peer.tasks)
    for task, loss, dtype, _ in keys:
        model, X, y, batch = make_problem(peer, task, loss, dtype)
        network = reference_of(model)
        if task == "sgd":
            network, first = sgd_epoch(network, model, X, y, batch)
            network, second = sgd_epoch(network, model, X, y, batch)
            losses = [first, second]
        else:
            network, losses = adam_epochs(
                network, model, X, y, batch, 2, epsilon_first=peer.name == "scikit-learn"
            )
        assert_close(found[task, loss, dtype, "parameters"], network.flat, dtype, TRAINING)
        got = found[task, loss, dtype, "losses"]
        if peer.name == "mlpfile":  # computes no loss
            assert got == [None, None]
        else:
            assert_close(got, losses, dtype, TRAINING)
        np.testing.assert_array_equal(found[task, loss, dtype, "restored"], model.flat)


def test_adapter_uses_every_row_once_when_shuffling(answered):
    peer, found = answered
    if "sgd" not in peer.tasks or peer.name == "mlpfile":
        pytest.skip(f"{peer.title} returns no loss of training")
    for (_, _, dtype, what), losses in found.items():
        if what == "shuffled":
            assert_close(losses[1], losses[0], dtype, PREDICTION)


# --- both sides are checked before they are timed ---------------------------------------------

QUICK = measure.Effort(sample=1e-4, budget=0.05, pairs=(2, 4), uncertainty=0.5)
TINY = Cell("sgd", "tiny", 32)


class Doubled(NumpyAdapter):
    """Wrong on purpose: outputs and learning rate are too large."""

    def predictor(self, model, X):
        call = super().predictor(model, X)
        return lambda: call() * model.dtype.type(1.001)

    def trainer(self, model, X, y, batch):
        faster = dataclasses.replace(model, learning_rate=1.01 * model.learning_rate)
        return super().trainer(faster, X, y, batch)


@pytest.mark.parametrize("task", ["latency", "predict", "sgd"])
def test_what_does_not_agree_is_not_timed(task):
    cell = dataclasses.replace(TINY, task=task, batch=1 if task == "latency" else 32)
    right = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), NumpyAdapter(1), QUICK)
    assert right["agree"]
    assert "ratio" in right
    wrong = cells.run(cell, PEERS["numpy"], NumpyAdapter(1), Doubled(1), QUICK)
    assert not wrong["agree"]
    assert "ratio" not in wrong
    (problem,) = report.problems({"measurements": [right, wrong]})
    assert "was not timed" in problem


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


def test_flops_of_known_networks():
    # 16 x 32 and 32 x 1; the first layer's input needs no gradient
    assert SHAPES["tiny"].flops("predict", 1) == 2 * (512 + 32)
    assert SHAPES["tiny"].flops("sgd", 10) == 20 * (2 * (512 + 32) + 32)
    assert SHAPES["tiny"].n_parameters == 512 + 32 + 32 + 1


def test_every_cell_has_data_that_fits_it():
    for cell in all_cells():
        model = make_model(dataclasses.replace(cell, network="tiny"))
        assert model.dtype == cell.dtype
        assert model.flat.size == SHAPES["tiny"].n_parameters
    X, y = make_data(Cell("sgd", "small", 32, "float64"), 64)
    assert (X.shape, X.dtype, y.shape) == ((64, 64), np.float64, (64,))
    assert set(y) <= set(range(10))


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
    assert PEERS["scikit-learn"].supports(Cell("digits", "digits", 32))
    assert not PEERS["numpy"].supports(Cell("digits", "digits", 32))


# --- the plan and the processes ---------------------------------------------------------------


def test_a_missing_peer_is_skipped_with_the_reason(monkeypatch):
    ghost = Peer("ghost", "Ghost", "ghost", ("no_such_package",), ("no-such-distribution",))
    monkeypatch.setitem(PEERS, "ghost", ghost)
    plan = run.make_plan(only=("sgd/tiny/1/float32/1",), peers=("numpy", "ghost"))
    assert ("Ghost", "no_such_package not installed") in plan.skipped
    assert {group.peer.name for group in plan.groups} == {"numpy"}


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
    text = report.markdown(small_result, ["step_time.png"])
    assert "| tiny | 1 |" in text
    assert "| tiny | 256 |" in text
    assert "(step_time.png)" in text
    assert small_result["machine"]["versions"]["numpy"] == np.__version__


def test_plots_are_written(small_result, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra bench, is not installed")
    from benchmarks import plots

    assert plots.write(small_result, tmp_path) == ["step_time.png", "percent_of_peak.png"]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


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

    monkeypatch.setattr(run, "measure", lambda plan, tick: small_result)
    old = json.loads(json.dumps(small_result))
    path = tmp_path / "old.json"
    arguments = ["--quick", "--compare", str(path), "--output", str(tmp_path / "new")]
    path.write_text(run.as_json(old))
    assert command.main(arguments) == 0
    for each in old["measurements"]:
        for name in each["ratio"]:
            each["ratio"][name] *= 100
    path.write_text(run.as_json(old))
    assert command.main(arguments) == 1
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == small_result


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
