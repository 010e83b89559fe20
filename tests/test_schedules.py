"""Learning-rate schedules: PyTorch's rates, and what they do to training."""

from pathlib import Path

import numpy as np
import pytest

from fastbp import SGD, Dense, Network, schedules
from fastbp.schedules import Plateau, PlateauProgress, WarmUp

GOLDEN = np.load(Path(__file__).with_name("golden") / "schedules.npz")
CASES = [name for name in GOLDEN.files if name.endswith(")")]


def made(call):
    return eval(call, vars(schedules).copy())


def of_steps(rate, first, count):
    return schedules.rates(rate, first, count, PlateauProgress())


@pytest.mark.parametrize("call", CASES)
def test_rates_are_pytorchs(call):
    expected = GOLDEN[call]
    np.testing.assert_allclose(of_steps(made(call), 0, len(expected)), expected, rtol=1e-12,
                               atol=1e-16)
    # any stretch of steps, as they come in epochs
    for first, count in ((0, 1), (1, 30), (31, 17), (len(expected) - 1, 1)):
        np.testing.assert_array_equal(
            of_steps(made(call), first, count),
            of_steps(made(call), 0, len(expected))[first : first + count],
        )


@pytest.mark.parametrize(
    ("call", "last"),
    [("Polynomial(0.5, 60, 0.125)", 0.125), ("Cosine(0.5, 60, 0.125)", 0.125),
     ("OneCycle(0.5, 100, 0.3, 0.5, 0.5)", 0.125), ("WarmUp(0.5, 60)", 0.5)],
)
def test_ends_stay(call, last):
    np.testing.assert_allclose(of_steps(made(call), 100, 10**4), last, rtol=1e-15)


def plateau_rates(plateau, losses):
    progress, found = PlateauProgress(), []
    for loss in losses:
        found.append(schedules.rates(plateau, 0, 1, progress)[0])
        schedules.watch(plateau, progress, loss)
    return found


def test_plateau_that_watches_each_epoch_is_pytorchs():
    plateau = Plateau(0.5, 0.3, 4, minimum=0.001, window=1)
    np.testing.assert_allclose(plateau_rates(plateau, GOLDEN["epochs"]), GOLDEN["plateau"])


def test_plateau_is_not_fooled_by_one_lucky_epoch():
    losses = np.linspace(2, 1, 40)
    losses[10] = 0.5  # which the next thirty do not reach
    assert min(plateau_rates(Plateau(0.5, patience=5), losses)) == 0.5
    assert min(plateau_rates(Plateau(0.5, patience=5, window=1), losses)) < 0.5


def test_plateau_of_negative_losses():
    falling = -np.linspace(1, 2, 30)
    assert min(plateau_rates(Plateau(0.5, patience=3), falling)) == 0.5
    assert min(plateau_rates(Plateau(0.5, patience=3), -falling)) < 0.5


def network(rate, **settings):
    return Network(3, [Dense(4, "tanh"), Dense(1)], optimizer=SGD(rate), dtype="float64", seed=0,
                   **settings)


def data(n=40):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    return X, X.sum(axis=1)


def test_each_step_has_its_rate():
    """fit over epochs, in one go and in two, is train_step by train_step with a plain rate."""
    X, y = data()
    rate = made("WarmUp(Cosine(0.5, 7, restarts=True), 4)")
    by_fit, again, by_step = network(rate), network(rate), network(0.1)
    history = by_fit.fit(X, y, epochs=4, batch_size=9, shuffle=False)
    again.fit(X, y, epochs=1, batch_size=9, shuffle=False)
    again.fit(X, y, epochs=3, batch_size=9, shuffle=False)
    expected = of_steps(rate, 0, 20)
    for step in range(20):
        by_step.optimizer = SGD(max(float(expected[step]), 1e-300))
        first = step % 5 * 9
        by_step.train_step(X[first : first + 9], y[first : first + 9])
    np.testing.assert_array_equal(by_fit.parameters, again.parameters)
    np.testing.assert_allclose(by_fit.parameters, by_step.parameters, rtol=1e-13)
    np.testing.assert_array_equal(history.learning_rate, expected[4::5])


def test_train_step_counts_on():
    X, y = data()
    net, seen = network(lambda step: seen.append(step) or 0.1), []
    for _ in range(3):
        net.train_step(X, y)
    net.fit(X, y, batch_size=20)
    assert seen == [0, 1, 2, 3, 4]


def test_plateau_in_fit_follows_the_validation_loss():
    X, y = data()
    net = network(Plateau(0.1, 0.5, patience=2, window=1))
    history = net.fit(X, y, epochs=12, validation_data=(X, np.full(40, 1e6)))
    # validation never improves for long: the target is far away and moves by less than 1e-4
    assert min(np.diff(history.learning_rate)) < 0
    assert set(history.learning_rate) <= {0.1 * 0.5**k for k in range(6)}


@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf])
def test_a_callable_that_returns_no_rate(wrong):
    X, y = data()
    net = network(lambda step: 0.1 if step < 3 else wrong)
    before = net.parameters.copy()
    state = net._progress.rng.bit_generator.state
    with pytest.raises(ValueError, match=r"finite and not negative, got .* for step 3"):
        net.fit(X, y, batch_size=10)
    np.testing.assert_array_equal(net.parameters, before)
    assert net._progress.rng.bit_generator.state == state


def test_a_callable_that_raises():
    def rate(step):
        raise ZeroDivisionError("mine")

    X, y = data()
    net = network(rate)
    before = net.parameters.copy()
    for train in (net.fit, net.train_step):
        with pytest.raises(ZeroDivisionError, match="mine"):
            train(X, y)
    np.testing.assert_array_equal(net.parameters, before)


BAD = [
    ("StepDecay(0.1, 0, 3)", "factor must be positive"),
    ("StepDecay(0.1, 1.5, 3)", r"factor must lie in \(0, 1\]"),
    ("StepDecay(-0.1, 0.5, 3)", "initial must be positive"),
    ("StepDecay(0.1, 0.5, 0)", "every must be an integer from 1"),
    ("Exponential(0.1, 2)", r"factor must lie in \(0, 1\]"),
    ("InverseScaling(0.1, -1)", "power must be finite and not negative"),
    ("Polynomial(0.1, 10, -0.1)", "final must be finite and not negative"),
    ("Polynomial(0.1, 0)", "steps must be an integer from 1"),
    ("Cosine(0.1, 10, -1e-9)", "final must be finite and not negative"),
    ("Cosine(0.1, 10, growth=0)", "growth must be an integer from 1"),
    ("WarmUp(-0.1, 10)", "after must be positive"),
    ("WarmUp(0.1, 10, 0)", "start_factor must be positive"),
    ("OneCycle(0.1, 2)", "steps must leave more than one step"),
    ("OneCycle(0.1, 100, 1.0)", r"rise must lie in \[0, 1\)"),
    ("Plateau(0.1, patience=0)", "patience must be an integer from 1"),
    ("Plateau(0.1, min_delta=-1)", r"min_delta must lie in \[0, 1\)"),
    ("Plateau(0.1, window=0)", "window must be an integer from 1"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        made(call)


@pytest.mark.parametrize("call", ['WarmUp("0.1", 10)', 'Cosine(0.1, "ten")', "Cosine(None, 3)"])
def test_wrong_kinds(call):
    with pytest.raises(TypeError, match="must be"):
        made(call)


def test_a_schedule_inside_a_schedule_keeps_its_repr():
    rate = WarmUp(schedules.Cosine(0.5, 100), 10)
    assert made(repr(rate)) == rate
    assert repr(SGD(rate)) == f"SGD(learning_rate={rate!r})"
