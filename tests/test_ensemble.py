"""Ensembles: each network is what it would be alone, bit for bit, and nothing is half done."""

import gc
import inspect
import os
import sys
import threading
import weakref

import interrupts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from names import name_of
from scipy import sparse

import fastbp
from fastbp import (
    LBFGS,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    Ensemble,
    LayerNorm,
    Network,
    Normalize,
    Residual,
    schedules,
)
from fastbp.optimizers import OPTIMIZERS, Optimizer

N_INPUTS, N_CLASSES = 12, 3
RULES = [kind() for kind in OPTIMIZERS.values() if issubclass(kind, Optimizer)]
STACKS = {
    "plain": [Dense(9, "tanh"), Dense(3, "softmax")],
    "wide": [Dense(150, "relu"), Dense(60, "gelu"), Dense(3, "softmax")],
    "dropout": [Dropout(0.2), Dense(9, "relu"), Dropout(0.5), Dense(3, "softmax")],
    "batch norm": [Dense(9), BatchNorm("relu"), Dense(3, "softmax")],
    "layer norm": [LayerNorm(), Dense(9, "relu"), Residual([Dense(9, "tanh")]),
                   Dense(3, "softmax")],
    "normalized": [Normalize(), Dense(9, "tanh", l1=1e-3, l2=1e-3, max_norm=2),
                   Dense(3, "softmax")],
    "frozen": [Dense(9, "tanh", trainable=False), Dense(3, "softmax")],
}
SCHEDULES = [
    SGD(0.1, 0.9, nesterov=True), SGD(0.1, clip_norm=0.1), SGD(0.1, noise=0.01),
    Adam(schedules.WarmUp(schedules.Cosine(0.02, 20, restarts=True), 10)),
    SGD(schedules.Plateau(0.1, 0.5, patience=1, min_delta=0.5)),
    SGD(lambda step: 0.1 / (1 + step)),
]


def data(n=300, seed=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(3, 2, size=(n, N_INPUTS))
    return X, (X @ rng.normal(size=(N_INPUTS, N_CLASSES))).argmax(axis=1)


def network(seed=0, layers="plain", optimizer="sgd", dtype="float32", loss="cross_entropy"):
    return Network(N_INPUTS, STACKS[layers], loss=loss, optimizer=optimizer, dtype=dtype, seed=seed)


def bits(net):
    """All that training changes, but for the random numbers."""
    state = net.state()
    arrays = [state[name].tobytes() for name in ("parameters", "optimizer", "statistics")]
    return arrays, state["json"]["steps"], state["json"]["momentum_product"]


def everything(net):
    return bits(net), net.state()["json"]


def check_against_fits(networks, X, y, subsets=None, n_threads=1, **arguments):
    """Train twins of the networks one by one, by `Network.fit`, and compare all of it."""
    twins = [each.copy() for each in networks]
    histories = Ensemble(networks).fit(
        X, y, subsets=subsets, n_threads=n_threads, **arguments
    )
    weight = arguments.pop("sample_weight", None)
    for number, (net, twin, history) in enumerate(zip(networks, twins, histories, strict=True)):
        rows = np.arange(X.shape[0]) if subsets is None else np.arange(X.shape[0])[subsets[number]]
        own = None if weight is None else weight[rows]
        expected = twin.fit(X[rows], y[rows], sample_weight=own, **arguments)
        assert everything(net) == everything(twin), number
        assert history.loss == expected.loss
        assert history.validation_loss == expected.validation_loss
        assert history.learning_rate == expected.learning_rate
        assert len(history.seconds) == len(expected.seconds)
        assert history.metrics == expected.metrics == {}


# --- the same bits as alone ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", RULES + SCHEDULES, ids=name_of)
def test_every_optimizer(optimizer, dtype):
    X, y = data(90)
    networks = [network(seed, optimizer=optimizer, dtype=dtype) for seed in range(3)]
    for batch_size in (16, 1, None):
        check_against_fits(networks, X, y, epochs=2, batch_size=batch_size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", STACKS)
def test_every_layer(layers, dtype):
    X, y = data(90)
    networks = [network(seed, layers, "adam", dtype) for seed in range(3)]
    for batch_size in (16, None):
        check_against_fits(networks, X, y, epochs=2, batch_size=batch_size)
        check_against_fits(networks, X, y, epochs=2, batch_size=batch_size, shuffle=False)


def mixed(dtype="float32"):
    """Networks that differ in all that they may differ in."""
    rules = [*RULES, *SCHEDULES]
    return [
        network(seed, layers, rules[seed % len(rules)], dtype,
                ["cross_entropy", "kullback_leibler"][seed % 2] if one_hot else "cross_entropy")
        for seed, (layers, one_hot) in enumerate(
            [(layers, one_hot) for one_hot in (False, True) for layers in STACKS]
        )
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_networks_that_differ_in_everything_and_threads(n_threads, dtype):
    """Work enough that threads share it: 14 networks of up to 11000 weights, 1200 rows."""
    X, labels = data(1200)
    y = np.eye(N_CLASSES)[labels]
    check_against_fits(mixed(dtype), X, y, epochs=3, n_threads=n_threads)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_batches_of_several_passes(n_threads):
    """2500 rows in one step are three passes of at most 1024 rows."""
    X, y = data(2500)
    networks = [network(0, "wide"), network(1, "batch norm"), network(2, "wide", "adam")]
    check_against_fits(networks, X, y, epochs=2, batch_size=None, n_threads=n_threads)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 16, None])
def test_subsets(batch_size, shuffle):
    X, y = data()
    rng = np.random.default_rng(0)
    mask = rng.random(300) < 0.3
    subsets = [
        rng.permutation(300)[:100], mask, mask.tolist(), rng.integers(300, size=300),
        [5, 5, 5, -1], np.array([7], np.uint8), np.arange(0, 300, 2, dtype=np.int32),
        np.arange(300),
    ]
    networks = [network(seed, optimizer="adam") for seed in range(len(subsets))]
    check_against_fits(networks, X, y, subsets, epochs=2, batch_size=batch_size, shuffle=shuffle)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_any_subsets(drawn):
    n = drawn.draw(st.integers(1, 40))
    X, y = data(n)
    numbers = st.lists(st.integers(-n, n - 1), min_size=1, max_size=2 * n)
    masks = st.lists(st.booleans(), min_size=n, max_size=n).filter(any)
    subsets = drawn.draw(st.lists(numbers | masks, min_size=1, max_size=5))
    networks = [network(seed, "normalized") for seed in range(len(subsets))]
    check_against_fits(
        networks, X, y, [np.array(each) for each in subsets],
        batch_size=drawn.draw(st.none() | st.integers(1, n + 1)), shuffle=drawn.draw(st.booleans()),
    )


@pytest.mark.parametrize("with_subsets", [False, True])
def test_weights_are_scaled_over_what_a_network_is_trained_on(with_subsets):
    X, y = data()
    weight = np.random.default_rng(3).uniform(0, 2, size=300)
    subsets = np.random.default_rng(0).integers(300, size=(3, 200)) if with_subsets else None
    for class_weight in (None, "balanced", {0: 3.0}):
        networks = [network(seed) for seed in range(3)]
        check_against_fits(networks, X, y, subsets, sample_weight=weight, class_weight=class_weight)
    check_against_fits(networks, X, y, subsets, class_weight="balanced")


@pytest.mark.parametrize("n_threads", [1, 2])
def test_sparse_inputs(n_threads):
    rng = np.random.default_rng(0)
    X, y = data(2000)
    X[rng.random(X.shape) < 0.7] = 0
    X = sparse.csr_array(X)
    subsets = [rng.integers(2000, size=1500) for _ in range(4)]
    rules = ["sgd", "adagrad", "adam", SGD(0.1, clip_norm=0.1)]
    networks = [network(seed, "wide", rule) for seed, rule in enumerate(rules)]
    check_against_fits(networks, X, y, subsets, epochs=2, n_threads=n_threads)
    expected = np.array([each.predict(X) for each in networks])
    np.testing.assert_array_equal(Ensemble(networks).predict(X, n_threads), expected)
    row = sparse.coo_array(X.toarray()[1])
    expected = np.array([each.predict(row) for each in networks])
    np.testing.assert_array_equal(Ensemble(networks).predict(row), expected)
    losses = [each.evaluate(X, y) for each in networks]
    np.testing.assert_array_equal(Ensemble(networks).evaluate(X, y), losses)


def test_validation_data_and_tol():
    """Some end early, each at its own epoch, and the others go on."""
    X, y = data()
    Xv, yv = data(50, seed=2)
    networks = [network(seed, optimizer=SGD(rate))
                for seed, rate in enumerate([0.1, 1e-9, schedules.Plateau(0.3, patience=1), 1e-4])]
    check_against_fits(networks, X, y, epochs=25, tol=0.05, validation_data=(Xv, yv, yv + 1.0))
    assert len({each.n_steps for each in networks}) > 1


def test_fit_goes_on_where_it_stopped():
    X, y = data()
    networks = [network(seed, "dropout", "adam") for seed in range(3)]
    for _ in range(2):
        check_against_fits(networks, X, y, epochs=2)
    networks[1].optimizer = SGD(0.5)
    networks[1].fit(X, y)
    check_against_fits(networks, X, y, epochs=2)


def test_data_in_other_forms():
    X, y = data()
    for given_X, given_y in [
        (X.tolist(), y.tolist()), (np.asfortranarray(X), y.astype(np.uint8)),
        (X.astype(">f4"), y.astype(float)), (X[::-1][::-1], np.eye(3)[y]),
    ]:
        networks, twins = ([network(seed) for seed in range(2)] for _ in range(2))
        Ensemble(networks).fit(given_X, given_y, batch_size=8)
        for net, twin in zip(networks, twins, strict=True):
            twin.fit(given_X, given_y, batch_size=8)
            assert bits(net) == bits(twin)


def test_data_that_are_the_parameters_of_one():
    networks = [Network(3, [Dense(3), Dense(1)], seed=seed) for seed in range(3)]
    X, y = networks[1].weights[0], networks[2].biases[0]
    copies = X.copy(), y.copy()
    twins = [each.copy() for each in networks]
    Ensemble(networks).fit(X, y, epochs=3, shuffle=False)
    for net, twin in zip(networks, twins, strict=True):
        twin.fit(*copies, epochs=3, shuffle=False)
        assert bits(net) == bits(twin)


# --- predictions and losses ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_predictions_are_each_networks(n_threads, dtype):
    X, labels = data(1500)
    y = np.eye(N_CLASSES)[labels]
    ensemble = Ensemble(mixed(dtype))
    ensemble.fit(X[:300], y[:300])
    for rows in (1500, 7, 1):
        expected = np.array([each.predict(X[:rows]) for each in ensemble])
        result = ensemble.predict(X[:rows], n_threads=n_threads)
        assert result.shape == (len(ensemble), rows, N_CLASSES)
        assert result.dtype == dtype
        assert result.tobytes() == expected.tobytes()
        losses = ensemble.evaluate(X[:rows], y[:rows], n_threads=n_threads)
        assert losses.tolist() == [each.evaluate(X[:rows], y[:rows]) for each in ensemble]
    assert ensemble.predict(X[0]).tobytes() == expected.tobytes()
    assert ensemble.predict(X[0]).shape == (len(ensemble), N_CLASSES)
    weight = np.arange(1.0, 1501)
    losses = ensemble.evaluate(X, y, sample_weight=weight)
    assert losses.tolist() == [each.evaluate(X, y, sample_weight=weight) for each in ensemble]
    losses = ensemble.evaluate(X[0], y[0])
    assert losses.tolist() == [each.evaluate(X[0], y[0]) for each in ensemble]


def test_a_sequence_of_networks():
    networks = [network(seed) for seed in range(3)]
    ensemble = Ensemble(iter(networks))
    assert len(ensemble) == 3
    assert list(ensemble) == networks
    assert ensemble[-1] is ensemble.networks[2] is networks[2]
    assert repr(ensemble) == f"Ensemble({networks!r})"
    again = eval(repr(ensemble), vars(fastbp) | {"CrossEntropy": fastbp.losses.CrossEntropy})
    assert again.predict(np.ones(N_INPUTS)).tobytes() == ensemble.predict(
        np.ones(N_INPUTS)).tobytes()


def test_bagging_is_better_than_its_parts():
    """Breiman 1996: the mean's squared error is at most the mean squared error; by how much is the
    spread. That is an identity, up to rounding in float64."""
    X, _ = data()
    y = np.sin(X[:, 0]) + np.random.default_rng(0).normal(size=300)
    nets = [Network(N_INPUTS, [Dense(16, "tanh"), Dense(1)], optimizer="adam", dtype="float64",
                    seed=seed) for seed in range(7)]
    ensemble = Ensemble(nets)
    rng = np.random.default_rng(1)
    ensemble.fit(X, y, epochs=20, subsets=[rng.integers(300, size=300) for _ in nets])
    predictions = ensemble.predict(X)[:, :, 0]
    of_mean = np.mean((predictions.mean(axis=0) - y) ** 2)
    of_each = np.mean((predictions - y) ** 2)
    assert of_each - of_mean == pytest.approx(predictions.var(axis=0).mean(), rel=1e-12)
    assert predictions.std(axis=0).min() > 0


# --- what goes wrong ----------------------------------------------------------------------------


def exploding(rate):
    """A line whose error is multiplied by 1 - 2 rate in each step on x = 1."""
    def ones(rng, n_in, n_out):
        return np.ones((n_in, n_out))
    return Network(1, [Dense(1, init=ones)], optimizer=SGD(rate), dtype="float64", seed=0)


def test_divergence_names_the_network_and_restores_all():
    """At a rate of 16.5 the loss is 2**(10 t - 1) before step t: infinite from step 103 on."""
    X, y = np.ones((50, 1)), np.zeros(50)
    networks = [exploding(0.25), exploding(16.5), exploding(0.1)]
    twins = [each.copy() for each in networks]
    with pytest.raises(FloatingPointError, match=r"network 1, epoch 3, step 4: the loss is inf"):
        Ensemble(networks).fit(X, y, epochs=9, batch_size=1)
    for net, twin in zip(networks, twins, strict=True):
        twin.fit(X, y, epochs=2, batch_size=1)
        assert bits(net) == bits(twin)
    with pytest.raises(FloatingPointError, match=r"network 1, epoch 1, step 4: .*learning rate"):
        Ensemble(networks).fit(X, y, batch_size=1)
    for net, twin in zip(networks, twins, strict=True):
        assert bits(net) == bits(twin)
    Ensemble([networks[0], networks[2]]).fit(X, y)


def test_an_update_that_overflows():
    """The loss is finite, 5000, and the update of 100 x 1e308 is not."""
    networks = [exploding(0.1), exploding(1e308)]
    before = [bits(each) for each in networks]
    with pytest.raises(FloatingPointError, match="network 1, epoch 1, step 1: the loss is 5000"):
        Ensemble(networks).fit([[1.0]], [-99.0])
    assert [bits(each) for each in networks] == before


def test_one_that_has_ended_stays_as_it_is_when_another_diverges():
    """The first loses less than `tol` in each epoch; after step 21 the second's error is 1e306."""
    X, y = np.ones((5, 1)), np.zeros(5)
    networks = [exploding(1e-15), exploding(lambda step: 0.1 if step < 20 else 1e308)]
    twins = [each.copy() for each in networks]
    with pytest.raises(FloatingPointError, match="network 1, epoch 22, step 1"):
        Ensemble(networks).fit(X, y, epochs=30, batch_size=None, tol=1e-12)
    for net, twin, epochs in zip(networks, twins, (11, 21), strict=True):
        twin.fit(X, y, epochs=epochs, batch_size=None)
        assert bits(net) == bits(twin)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_a_users_loss_that_raises(error, n_threads):
    """In the fourth step of the second of three; it leaves whole steps everywhere."""
    X, labels = data(2000)
    y = np.eye(N_CLASSES)[labels]
    calls = []

    def failing(outputs, targets):
        calls.append(len(outputs))
        if len(calls) == 4:
            raise error("from the loss")
        return ((outputs - targets) ** 2).sum(axis=1) / 2, outputs - targets

    networks, twins = (
        [network(0, "wide"),
         Network(N_INPUTS, [Dense(150, "relu"), Dense(3)], loss=loss, seed=1),
         network(2, "batch norm")]
        for loss in (failing, "squared_error")
    )
    with pytest.raises(error, match="from the loss"):
        Ensemble(networks).fit(X, y, shuffle=False, epochs=2, n_threads=n_threads)
    assert networks[1].n_steps == 3
    for net, twin in zip(networks, twins, strict=True):
        for step in range(net.n_steps):
            rows = slice(step % 63 * 32, step % 63 * 32 + 32)
            twin.train_step(X[rows], y[rows])
        # a user's loss is of rounding of its own: some 1e-7 in each of three steps
        tolerance = 1e-6 if net is networks[1] else 0
        np.testing.assert_allclose(net.parameters, twin.parameters, rtol=0, atol=tolerance)
    Ensemble(networks).fit(X, y)  # and they go on


def test_what_a_users_loss_raises_does_not_wait_for_the_other_networks():
    """The second one's epoch, of some 10 GFLOP, is given up as soon as it looks for Ctrl-C."""
    def failing(outputs, targets):
        raise KeyboardInterrupt

    X, y = np.random.default_rng(0).normal(size=(20_000, 300)), np.zeros(20_000)
    networks = [Network(300, [Dense(1)], loss=failing), Network(300, [Dense(256), Dense(1)])]
    with pytest.raises(KeyboardInterrupt):
        Ensemble(networks).fit(X, y)
    assert networks[1].n_steps < 20_000 / 32


def test_what_normalises_inputs_outlives_a_step_that_fails_midway():
    """2500 rows are three passes; the loss raises in the second."""
    X, y = data(2500)
    calls = []

    def failing(outputs, targets):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return ((outputs - targets) ** 2).sum(axis=1) / 2, outputs - targets

    nets = [Network(N_INPUTS, [first, Dense(256, "tanh"), Dense(1)], loss=failing, seed=0)
            for first in (Normalize(), BatchNorm())]
    for net in nets:
        if net.layers[0] == Normalize():
            net.adapt(X)
        before = bits(net)
        calls.clear()
        with pytest.raises(ZeroDivisionError):
            Ensemble([net]).fit(X, y, batch_size=None)
        assert bits(net) == before
        calls.clear()
        with pytest.raises(ZeroDivisionError):
            net.fit(X, y, batch_size=None)
        assert bits(net) == before


def test_a_call_from_within_a_users_loss_is_refused():
    X, y = data(40)

    def recursive(outputs, targets):
        ensemble.fit(X, np.eye(3)[y])

    ensemble = Ensemble([network(0), Network(N_INPUTS, [Dense(3)], loss=recursive)])
    with pytest.raises(RuntimeError, match="in use"):
        ensemble.fit(X, np.eye(3)[y])


def test_a_network_that_another_thread_trains():
    X, y = data()
    busy, idle = network(0, "normalized", "adam"), network(1, "normalized", "adam")
    before = everything(idle)
    begun, go_on = threading.Event(), threading.Event()

    def waiting(outputs, targets):
        begun.set()
        assert go_on.wait(60)
        return outputs[:, 0], np.zeros_like(outputs)

    busy = Network(N_INPUTS, [Dense(3)], loss=waiting, seed=0)
    thread = threading.Thread(target=busy.fit, args=(X, np.eye(3)[y]))
    thread.start()
    try:
        assert begun.wait(60)
        for order in ([idle, busy], [busy, idle]):
            with pytest.raises(RuntimeError, match="in use by another thread"):
                Ensemble(order).fit(X, np.eye(3)[y])
            assert everything(idle) == before
        with pytest.raises(RuntimeError, match="in use by another thread"):
            Ensemble([busy]).evaluate(X, np.eye(3)[y])
        assert Ensemble([busy]).predict(X).shape == (1, 300, 3)
    finally:
        go_on.set()
        thread.join()
    check_against_fits([idle, network(2, "normalized")], X, y)


X_OK, Y_OK = data(20)
BAD_ARGUMENTS = [
    ({"X": X_OK[:, :5]}, ValueError, r"X must have shape \(n, 12\)"),
    ({"X": X_OK[0]}, ValueError, r"X must have shape \(n, 12\)"),
    ({"X": X_OK[:0]}, ValueError, "X must hold at least one sample"),
    ({"X": np.full_like(X_OK, np.nan)}, ValueError, "X must be finite"),
    ({"X": "X"}, TypeError, "X must hold real numbers"),
    ({"X": sparse.csr_array(X_OK)}, ValueError, "X is sparse, which only a Dense layer takes"),
    ({"y": Y_OK[1:]}, ValueError, "y must be as long as X, 20 samples; got 19"),
    ({"y": Y_OK + 3}, ValueError, "y must hold whole labels from 0 to 2"),
    ({"y": None}, TypeError, "y must hold real numbers"),
    ({"epochs": 0}, ValueError, "epochs must be"),
    ({"epochs": 1.5}, TypeError, "epochs must be"),
    ({"batch_size": 0}, ValueError, "batch_size must be"),
    ({"batch_size": "all"}, TypeError, "batch_size must be"),
    ({"shuffle": 1}, TypeError, "shuffle must be True or False"),
    ({"sample_weight": np.ones(19)}, ValueError, r"sample_weight must have shape \(20,\)"),
    ({"sample_weight": -np.ones(20)}, ValueError, "sample_weight must not be negative"),
    ({"sample_weight": np.arange(20) == 3, "subsets": [[3], [4, 5]]}, ValueError,
     r"subsets\[1\] sample_weight and class_weight must not all be zero"),
    ({"class_weight": {7: 1.0}}, ValueError, "class_weight must have labels from 0 to 2"),
    ({"class_weight": 3}, TypeError, "class_weight must be"),
    ({"subsets": 3}, TypeError, "subsets must hold one array for each of 2 networks, got 3"),
    ({"subsets": [[1, 2]]}, ValueError, "subsets must hold one array for each of 2 .* got 1"),
    ({"subsets": [[1], [20]]}, ValueError, r"subsets\[1\] must .*, -20 to 19, .*: index 20 is out"),
    ({"subsets": [[1], [-21]]}, ValueError, r"subsets\[1\]"),
    ({"subsets": [[], [1]]}, ValueError, r"subsets\[0\]"),
    ({"subsets": [np.zeros(20, bool), [1]]}, ValueError, r"subsets\[0\] .*, got 0 of them"),
    ({"subsets": [np.ones(19, bool), [1]]}, ValueError, r"subsets\[0\] .*boolean"),
    ({"subsets": [[1.0], [1]]}, ValueError, r"subsets\[0\]"),
    ({"subsets": [3, [1]]}, ValueError, r"subsets\[0\] .*shape \(\)"),
    ({"subsets": [[[1, 2]], [1]]}, ValueError, r"subsets\[0\] .*shape \(1, 2\)"),
    ({"subsets": [[[1, 2], [3]], [1]]}, ValueError, r"subsets\[0\]"),
    ({"subsets": ["ab", [1]]}, ValueError, r"subsets\[0\]"),
    ({"subsets": [None, [1]]}, ValueError, r"subsets\[0\]"),
    ({"validation_data": X_OK}, TypeError, r"validation_data must be \(X, y\)"),
    ({"validation_data": (X_OK,)}, ValueError, r"validation_data must be .* got 1 items"),
    ({"validation_data": (X_OK[:, 1:], Y_OK)}, ValueError, "validation_data X must have shape"),
    ({"validation_data": (X_OK, Y_OK[1:])}, ValueError, "validation_data y must be as long"),
    ({"tol": -1}, ValueError, "tol must be"),
    ({"tol": "small"}, TypeError, "tol must be"),
    ({"n_threads": 0}, ValueError, "n_threads must be"),
    ({"n_threads": None}, TypeError, "n_threads must be"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD_ARGUMENTS,
                         ids=[message for *_, message in BAD_ARGUMENTS])
def test_bad_arguments_of_fit(changes, kind, message):
    ensemble = Ensemble([network(0, optimizer="adam"), network(1, "normalized")])
    before = [everything(each) for each in ensemble]
    with pytest.raises(kind, match=message):
        ensemble.fit(**{"X": X_OK, "y": Y_OK} | changes)
    assert [everything(each) for each in ensemble] == before


def test_every_argument_of_fit_is_among_the_bad_ones():
    arguments = set(inspect.signature(Ensemble.fit).parameters) - {"self"}
    assert arguments == set().union(*(changes for changes, *_ in BAD_ARGUMENTS))


def test_networks_that_cannot_be_trained_or_predict():
    waiting = network(0, "normalized")
    for call in (lambda each: each.predict(X_OK), lambda each: each.evaluate(X_OK, Y_OK)):
        with pytest.raises(RuntimeError, match="no statistics yet"):
            call(Ensemble([network(1), waiting]))
    before = everything(waiting)
    with pytest.raises(TypeError, match="wants all the data"):
        Ensemble([waiting, network(1, optimizer=LBFGS())]).fit(X_OK, Y_OK)
    with pytest.raises(ZeroDivisionError):
        Ensemble([waiting, network(1, optimizer=SGD(lambda step: 1 / 0))]).fit(X_OK, Y_OK)
    # The statistics are there: as in `Network.fit`, a schedule is asked when the epoch begins.
    assert everything(waiting)[1] == before[1]
    assert bits(waiting)[0][0] == before[0][0][0]


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda each: each.predict(X_OK[:, 1:]), ValueError, "X must have shape"),
    (lambda each: each.predict(X_OK * np.inf), ValueError, "X must be finite"),
    (lambda each: each.predict(X_OK, n_threads=0), ValueError, "n_threads"),
    (lambda each: each.predict(X_OK, n_threads=True), TypeError, "n_threads"),
    (lambda each: each.evaluate(X_OK, Y_OK[1:]), ValueError, "y must be as long as X"),
    (lambda each: each.evaluate(X_OK, Y_OK, n_threads=0), ValueError, "n_threads"),
    (lambda each: each.evaluate(X_OK, Y_OK, sample_weight=[1]), ValueError, "sample_weight"),
    (lambda each: each.evaluate(X_OK, Y_OK, class_weight="fair"), ValueError, "class_weight"),
])
def test_bad_arguments_of_predict_and_evaluate(call, kind, message):
    ensemble = Ensemble([network(0), network(1, "wide")])
    with pytest.raises(kind, match=message):
        call(ensemble)


NET = network(0)


@pytest.mark.parametrize(("networks", "kind", "message"), [
    ([], ValueError, "at least one network"),
    (3, TypeError, "networks must be a sequence of Network, got 3"),
    (NET, TypeError, "networks must be a sequence of Network"),
    ([NET, "net"], TypeError, "got 'net' in it"),
    ([NET, NET], ValueError, "each network once"),
    ([NET, Network(5, [Dense(3)])], ValueError, "the same n_inputs, got 12 and 5"),
    ([NET, Network(12, [Dense(4)])], ValueError, "the same n_outputs, got 3 and 4"),
    ([NET, network(0, dtype="float64")], ValueError, "the same dtype, got float32 and float64"),
])
def test_what_is_no_ensemble(networks, kind, message):
    with pytest.raises(kind, match=message):
        Ensemble(networks)


def test_a_network_that_has_become_another_one():
    """`__init__` called again: other sizes must not be read or written past the end."""
    ensemble = Ensemble([network(0), network(1)])
    for arguments, dtype in [((N_INPUTS, [Dense(500)]), "float32"), ((5, [Dense(3)]), "float32"),
                             ((N_INPUTS, [Dense(3)]), "float64")]:
        ensemble[1].__init__(*arguments, dtype=dtype)
        for call in (ensemble.predict, lambda X: ensemble.fit(X, Y_OK),
                     lambda X: ensemble.evaluate(X, Y_OK)):
            with pytest.raises(ValueError, match="networks must have the same"):
                call(X_OK)


def test_memory_is_freed():
    """The networks go with the ensemble, and a thousand calls do not add up to anything."""
    X, y = data(100)
    ensemble = Ensemble([network(seed, "wide", "adam") for seed in range(4)])
    gone = weakref.ref(ensemble[0])
    for arguments in ("fit", X, y), ("predict", X), ("evaluate", X, y):
        name, *arrays = arguments
        for _ in range(30):
            getattr(ensemble, name)(*arrays)
        before = resident()
        for _ in range(300):
            getattr(ensemble, name)(*arrays)
        # 300 leaks of one network's workspace, of 0.1 MB and more, would be 30 MB
        assert resident() - before < 8 * 2**20, name
    del ensemble
    gc.collect()
    assert gone() is None


def resident():
    """Bytes of this process that are in memory."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pytest.skip("how much memory a process has is read from /proc, which is not there")


# --- Ctrl-C -------------------------------------------------------------------------------------

INTERRUPTED_FIT = """
import numpy as np
from fastbp import Dense, Ensemble, Network, SGD, BatchNorm

rows, widths, batch_size, moments, n_networks, n_threads = arguments
rng = np.random.default_rng(0)
X, y = rng.standard_normal((rows, widths[0])), rng.standard_normal((rows, widths[-1]))
layers = [Dense(width, "tanh") for width in widths[1:]]

def make():
    return [Network(widths[0], layers, optimizer=SGD(0.01), dtype="float64", seed=seed)
            for seed in range(n_networks)]

# An interrupt may be lost in an import: whatever is imported on first use.
Ensemble(make()).fit(X[:100], y[:100], batch_size=batch_size, n_threads=n_threads)
networks, twins = make(), make()
ensemble = Ensemble(networks)
size = batch_size or rows
results = []
for moment in moments:
    begun = [net.parameters.copy() for net in networks]
    steps_before = [net.n_steps for net in networks]
    interrupt = Interrupt(moment)
    try:
        interrupt.start()
        ensemble.fit(X, y, epochs=10**6, batch_size=batch_size, shuffle=False,
                     n_threads=n_threads)
    except KeyboardInterrupt:
        delay = interrupt.delay()
    whole, steps = [], []
    for net, twin, parameters, before in zip(networks, twins, begun, steps_before):
        # the same number of whole steps, in the order of the rows, gives the same bits
        twin.parameters[:] = parameters
        made = net.n_steps - before
        per_epoch = -(-rows // size)
        for step in range(made):
            at = step % per_epoch * size
            twin.train_step(X[at:at + size], y[at:at + size])
        whole.append(bool(np.array_equal(net.parameters, twin.parameters)))
        steps.append(made)
    results.append({"delay": delay, "whole": whole, "steps": steps,
                    "finite": bool(all(np.isfinite(net.parameters).all() for net in networks))})
usable = []
ensemble.fit(X[:50], y[:50], batch_size=10, shuffle=False)
for net, twin in zip(networks, twins):
    twin.fit(X[:50], y[:50], batch_size=10, shuffle=False)
    usable.append(bool(np.array_equal(net.parameters, twin.parameters)))
print(json.dumps([results, usable]))
"""

MOMENTS = [0.01, 0.05, 0.2]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one Windows process")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("rows", "widths", "batch_size"), [
    (2_000, [8, 16, 1], 8), (4_000, [300, 256, 256, 1], 32), (10_000, [8, 512, 512, 1], None),
], ids=["small", "mini-batches", "one step over many rows"])
def test_keyboard_interrupt(rows, widths, batch_size, n_threads):
    results, usable = interrupts.run(
        INTERRUPTED_FIT, rows, widths, batch_size, MOMENTS, 5, n_threads
    )
    assert all(usable)
    assert len(results) == len(MOMENTS)
    for result in results:
        assert all(result["whole"]), result
        assert result["finite"]
    # The threads share the work, and with it the CPU time.
    delays = [result["delay"] / n_threads for result in results]
    assert max(delays) < interrupts.PROMISED_SECONDS, delays
