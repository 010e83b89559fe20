"""Optimizers: PyTorch's trajectories, naive formulas on every path, and what state survives."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from reference import reference_of

import fastbp
from fastbp import Dense, Network, _dispatch
from fastbp.optimizers import OPTIMIZERS, Optimizer

RULES = [name for name, kind in OPTIMIZERS.items() if issubclass(kind, Optimizer)]
GOLDEN = np.load(Path(__file__).with_name("golden") / "optimizers.npz")
CASES = [name for name in GOLDEN.files if name.endswith(")")]


def made(call):
    """The optimizer of a call such as "Adam(0.01)"."""
    return eval(call, {name: getattr(fastbp, name) for name in fastbp.__all__})


@pytest.mark.parametrize("call", CASES)
def test_200_steps_are_pytorchs(call):
    """In float64 to 1e-10, after 1, 2, 10 and 200 steps."""
    net = Network(
        5, [Dense(7, "tanh"), Dense(4, "sigmoid"), Dense(3, "softmax")],
        loss="cross_entropy", optimizer=made(call), dtype="float64", seed=0,
    )
    X, labels, batch = GOLDEN["X"], GOLDEN["labels"], int(GOLDEN["batch"])
    net.parameters[:] = GOLDEN["start"]
    for kept, expected in zip(GOLDEN["kept"], GOLDEN[call], strict=True):
        while net.n_steps < kept:
            if kept - net.n_steps >= len(X) // batch and net.n_steps % (len(X) // batch) == 0:
                net.fit(X, labels, batch_size=batch, shuffle=False)
            else:
                first = net.n_steps * batch % len(X)
                net.train_step(X[first : first + batch], labels[first : first + batch])
        np.testing.assert_allclose(net.parameters, expected, rtol=1e-10, atol=1e-10)


# A step in plain NumPy, from the papers; each keeps its state in a dictionary of arrays.


def treated(o, g, theta):
    if o.clip_norm is not None:
        g = g * min(1, o.clip_norm / np.sqrt((g**2).sum()))
    if o.clip_value is not None:
        g = np.clip(g, -o.clip_value, o.clip_value)
    return g if o.name in ("adamw", "lion") else g + o.weight_decay * theta


def naive_sgd(o, theta, g, s, t):
    s["b"] = g if t == 1 else o.momentum * s["b"] + (1 - o.dampening) * g
    direction = g + o.momentum * s["b"] if o.nesterov else s["b"]
    return theta - o.learning_rate * (direction if o.momentum else g)


def naive_adagrad(o, theta, g, s, t):
    s["s"] = s.get("s", o.initial_accumulator) + g**2
    rate = o.learning_rate / (1 + (t - 1) * o.rate_decay)
    return theta - rate * g / (np.sqrt(s["s"]) + o.epsilon)


def naive_rmsprop(o, theta, g, s, t):
    s["v"] = o.rho * s.get("v", 0) + (1 - o.rho) * g**2
    s["g"] = o.rho * s.get("g", 0) + (1 - o.rho) * g
    variance = s["v"] - s["g"] ** 2 if o.centered else s["v"]
    d = g / (np.sqrt(np.maximum(variance, 0)) + o.epsilon)
    s["b"] = o.momentum * s.get("b", 0) + d
    return theta - o.learning_rate * s["b"]


def naive_adadelta(o, theta, g, s, t):
    s["v"] = o.rho * s.get("v", 0) + (1 - o.rho) * g**2
    d = np.sqrt(s.get("u", 0) + o.epsilon) / np.sqrt(s["v"] + o.epsilon) * g
    s["u"] = o.rho * s.get("u", 0) + (1 - o.rho) * d**2
    return theta - o.learning_rate * d


def naive_adam(o, theta, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    s["most"] = np.maximum(s.get("most", 0), s["v"])
    variance = (s["most"] if o.amsgrad else s["v"]) / (1 - o.beta2**t)
    if o.name == "adamw":
        theta = theta * (1 - o.learning_rate * o.weight_decay)
    return theta - o.learning_rate * s["m"] / (1 - o.beta1**t) / (np.sqrt(variance) + o.epsilon)


def naive_nadam(o, theta, g, s, t):
    mu = o.beta1 * (1 - 0.5 * 0.96 ** (t * o.momentum_decay))
    after = o.beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * o.momentum_decay))
    s["mu"] = s.get("mu", 1) * mu
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g**2
    mean = after * s["m"] / (1 - s["mu"] * after) + (1 - mu) * g / (1 - s["mu"])
    return theta - o.learning_rate * mean / (np.sqrt(s["v"] / (1 - o.beta2**t)) + o.epsilon)


def naive_adamax(o, theta, g, s, t):
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["u"] = np.maximum(o.beta2 * s.get("u", 0), np.abs(g) + o.epsilon)
    return theta - o.learning_rate / (1 - o.beta1**t) * s["m"] / s["u"]


def naive_lion(o, theta, g, s, t):
    direction = np.sign(o.beta1 * s.get("m", 0) + (1 - o.beta1) * g)
    s["m"] = o.beta2 * s.get("m", 0) + (1 - o.beta2) * g
    return theta - o.learning_rate * (direction + o.weight_decay * theta)


NAIVE = {
    "sgd": naive_sgd, "adagrad": naive_adagrad, "rmsprop": naive_rmsprop,
    "adadelta": naive_adadelta, "adam": naive_adam, "adamw": naive_adam, "nadam": naive_nadam,
    "adamax": naive_adamax, "lion": naive_lion,
}
# Of every kind, with settings that take all of its terms; epsilons large enough that an element
# of the gradient that is mere rounding does not make a whole step.
EVERY_KIND = [
    "SGD(0.1, weight_decay=0.1)", "SGD(0.1, 0.9, 0.3)", "SGD(0.1, 0.9, nesterov=True)",
    "SGD(0.1, clip_value=0.01)", "SGD(0.1, clip_norm=0.05)",
    "AdaGrad(0.1, 1e-2, 0.1, 0.1)", "RMSProp(0.01, 0.9, 1e-2, 0.8, True)",
    "RMSProp(0.01, 0.9, 1e-2)", "AdaDelta(0.1, 0.9, 1e-2)",
    "Adam(0.01, 0.9, 0.99, 1e-2, weight_decay=0.1)", "Adam(0.01, 0.9, 0.99, 1e-2, amsgrad=True)",
    "AdamW(0.01, 0.9, 0.99, 1e-2, weight_decay=0.1)", "Adam(0.01, 0.9, 0.99, 1e-2, clip_norm=0.05)",
    "Nadam(0.01, 0.9, 0.99, 1e-2)", "Adamax(0.01, 0.9, 0.99, 1e-2)",
]


def problem(widths, rows, call, dtype="float64"):
    net = Network(
        widths[0], [*(Dense(n, "tanh") for n in widths[1:-1]), Dense(widths[-1])],
        optimizer=made(call), dtype=dtype, seed=1,
    )
    rng = np.random.default_rng(rows)
    X = rng.uniform(-1, 1, (rows, widths[0])).astype(dtype)
    X[rng.random(X.shape) < 0.2] = 0
    return net, X, rng.uniform(-1, 1, (rows, widths[-1])).astype(dtype)


@pytest.mark.parametrize("call", EVERY_KIND)
@pytest.mark.parametrize("widths", [[1, 1], [3, 1, 2], [1, 40, 17], [65, 100, 33, 7]])
def test_every_path_is_the_formula(call, widths):
    """One row, few and many, one column, one input, one pass and several, against NumPy."""
    for rows in (1, 2, 40, 1100):
        net, X, y = problem(widths, rows, call)
        o, state = net.optimizer, {}
        reference = reference_of(net)
        theta = net.parameters.copy()
        for t in range(1, 4):
            g = reference.with_flat(theta).gradient(X, y)
            theta = NAIVE[o.name](o, theta, treated(o, g, theta), state, t)
            net.train_step(X, y)
            np.testing.assert_allclose(net.parameters, theta, rtol=0, atol=1e-11)


@pytest.mark.parametrize("call", EVERY_KIND)
@pytest.mark.parametrize("n_inputs", [1, 127, 512])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_of_a_step_lie_apart_in_a_page(call, n_inputs, dtype):
    # Equal places in pages of 4 KiB made a step of Adam take up to 1.6 times as long.
    net = Network(n_inputs, [Dense(2)], optimizer=made(call), dtype=dtype)
    vectors = [net.parameters, *net.optimizer_vectors.values()]
    places = sorted(vector.ctypes.data % 4096 for vector in vectors)
    assert all(place % 64 == 0 for place in places)
    gaps = np.diff([*places, places[0] + 4096])
    assert gaps.min() >= min(1024, 4096 // len(places))


def test_lion_follows_the_sign():
    """Apart from where the mean is rounding alone, whose sign is nobody's."""
    net, X, y = problem([65, 100, 7], 40, "Lion(0.01, 0.8, 0.95, weight_decay=0.1)")
    reference, theta, state = reference_of(net), net.parameters.copy(), {}
    for t in range(1, 4):
        g = reference.with_flat(theta).gradient(X, y)
        sure = np.abs(0.8 * state.get("m", 0) + 0.2 * g) > 1e-12
        theta = naive_lion(net.optimizer, theta, g, state, t)
        net.train_step(X, y)
        assert sure.mean() > 0.99
        np.testing.assert_allclose(net.parameters[sure], theta[sure], rtol=0, atol=1e-12)
        theta[~sure] = net.parameters[~sure]


@pytest.mark.parametrize("call", EVERY_KIND)
def test_float32_is_float64_to_rounding(call):
    single, X, y = problem([20, 50, 30, 4], 70, call, "float32")
    double, _, _ = problem([20, 50, 30, 4], 70, call)
    double.parameters[:] = single.parameters
    for net in (single, double):
        net.fit(X, y, epochs=3, batch_size=10, shuffle=False)
    np.testing.assert_allclose(single.parameters, double.parameters, rtol=0, atol=2e-5)


@pytest.mark.parametrize("call", EVERY_KIND)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads(call, dtype, monkeypatch):
    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: 3)
    widths = [300, 257, 130, 5]
    one, X, y = problem(widths, 600, call, dtype)
    many, _, _ = problem(widths, 600, call, dtype)
    one.fit(X, y, batch_size=250, epochs=2, shuffle=False)
    many.fit(X, y, batch_size=250, epochs=2, shuffle=False, n_threads=3)
    np.testing.assert_array_equal(one.parameters, many.parameters)


@pytest.mark.parametrize("call", EVERY_KIND)
def test_fit_goes_on_where_it_ended(call):
    once, X, y = problem([9, 20, 3], 50, call)
    twice, _, _ = problem([9, 20, 3], 50, call)
    once.fit(X, y, epochs=4, batch_size=8)
    twice.fit(X, y, epochs=1, batch_size=8)
    twice.fit(X, y, epochs=3, batch_size=8)
    np.testing.assert_array_equal(once.parameters, twice.parameters)
    assert once.n_steps == twice.n_steps == 4 * 7


def test_another_rate_keeps_the_state_and_another_kind_does_not():
    net, X, y = problem([9, 20, 3], 50, "Adam(0.01, 0.9, 0.99, 1e-2)")
    state, theta, reference = {}, net.parameters.copy(), reference_of(net)

    def step(t):
        g = reference.with_flat(theta).gradient(X, y)
        net.train_step(X, y)
        expected = NAIVE[net.optimizer.name](net.optimizer, theta, g, state, t)
        np.testing.assert_allclose(net.parameters, expected, rtol=0, atol=1e-11)
        return expected

    theta = step(1)
    net.optimizer = dataclasses.replace(net.optimizer, learning_rate=0.001)
    theta = step(2)
    net.optimizer = fastbp.AdaGrad(0.1, 1e-2)
    assert net.n_steps == 0
    state.clear()
    step(1)


@pytest.mark.parametrize("calm", ["SGD(0.1, 0.9)", "Adam(0.1)", "RMSProp(0.1, momentum=0.5)"])
def test_divergence_restores_parameters_and_state(calm):
    net, X, y = problem([9, 20, 3], 50, calm)
    twin, _, _ = problem([9, 20, 3], 50, calm)
    for each in (net, twin):
        each.fit(X, y, epochs=2, shuffle=False)
    net.optimizer = dataclasses.replace(net.optimizer, learning_rate=1e300)
    with pytest.raises(FloatingPointError, match="epoch 1, step 2"):
        net.fit(X, y, epochs=2, shuffle=False)
    net.optimizer = made(calm)
    for each in (net, twin):
        each.fit(X, y, epochs=2, shuffle=False)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_a_loss_that_is_not_finite_is_no_step():
    net, X, y = problem([9, 20, 3], 50, "Nadam(0.01)")
    twin, _, _ = problem([9, 20, 3], 50, "Nadam(0.01)")
    with pytest.raises(FloatingPointError):
        net.train_step(X, np.full_like(y, 1e300))
    assert net.n_steps == 0
    net.train_step(X, y)
    twin.train_step(X, y)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@pytest.mark.parametrize("name", RULES)
def test_names_and_calls(name):
    default = OPTIMIZERS[name]()
    assert Network(2, [Dense(1)], optimizer=name).optimizer == default
    assert made(repr(default)) == default
    changed = dataclasses.replace(default, learning_rate=0.25, clip_norm=2.0)
    assert repr(changed) == f"{type(default).__name__}(learning_rate=0.25, clip_norm=2.0)"
    assert made(repr(changed)) == changed


SETTINGS = [
    ("learning_rate", 0, "positive and finite"), ("learning_rate", -1, "positive and finite"),
    ("learning_rate", np.nan, "positive and finite"), ("epsilon", 10**400, "float can hold"),
    ("momentum", 1, r"\[0, 1\)"),
    ("momentum", -0.1, r"\[0, 1\)"), ("dampening", 1.5, r"\[0, 1\)"), ("rho", 1, r"\[0, 1\)"),
    ("beta1", 1.0, r"\[0, 1\)"), ("beta2", np.nan, r"\[0, 1\)"), ("epsilon", 0, "positive"),
    ("weight_decay", -1e-9, "not negative"), ("clip_value", 0, "positive"),
    ("noise", -1, "not negative"), ("noise_decay", -1, "not negative"),
    ("clip_norm", -1, "positive"), ("rate_decay", -1, "not negative"),
    ("momentum_decay", -1, "not negative"), ("initial_accumulator", -1, "not negative"),
]


@pytest.mark.parametrize(("setting", "value", "accepted"), SETTINGS)
@pytest.mark.parametrize("name", RULES)
def test_bad_settings(name, setting, value, accepted):
    kind = OPTIMIZERS[name]
    if setting in {field.name for field in dataclasses.fields(kind)}:
        with pytest.raises(ValueError, match=f"{setting} must .*{accepted}"):
            kind(**{setting: value})
        with pytest.raises(TypeError, match=f"{setting} must be a number"):
            kind(**{setting: "much"})
    else:
        with pytest.raises(TypeError, match=setting):
            kind(**{setting: value})


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_wants_momentum(settings):
    with pytest.raises(ValueError, match="nesterov=True wants a momentum above 0"):
        fastbp.SGD(nesterov=True, **settings)
