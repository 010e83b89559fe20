"""fit: where it converges to, what its steps are, and what it reports."""

import math

import numpy as np
import pytest
from reference import ReferenceNetwork
from scipy import optimize

from fastbp import SGD, Dense, History, Network
from fastbp.callbacks import Callback

LAYERS = [Dense(17, "tanh"), Dense(33, "relu"), Dense(3, "softmax")]
WIDTHS = [5, 17, 33, 3]
ACTIVATIONS = ["tanh", "relu", "softmax"]


def classifier(dtype="float64", seed=0, learning_rate=0.1):
    return Network(
        5, LAYERS, loss="cross_entropy", optimizer=SGD(learning_rate), dtype=dtype, seed=seed
    )


def classes(n, seed=1):
    """n samples of five features, and labels of three classes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.integers(3, size=n)


def largest_curvature(X):
    """Of 1/(2n) ||X w + b - y||^2; its inverse is a learning rate that cannot diverge."""
    with_ones = np.column_stack([X, np.ones(len(X))])
    return np.linalg.eigvalsh(with_ones.T @ with_ones / len(X))[-1]


# Where it converges to


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_least_squares(n_outputs):
    """Full-batch gradient descent goes to the solution of numpy.linalg.lstsq.

    With so many random samples the condition number of X^T X is about 2, so the error shrinks
    to half with every epoch.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 17))
    y = rng.normal(size=(1000, n_outputs)) + X[:, :n_outputs] + 1
    with_ones = np.column_stack([X, np.ones(1000)])
    expected = np.linalg.lstsq(with_ones, y, rcond=None)[0]

    optimizer = SGD(1 / largest_curvature(X))
    net = Network(17, [Dense(n_outputs)], optimizer=optimizer, dtype="float64", seed=0)
    history = net.fit(X, y, epochs=100, batch_size=None)

    np.testing.assert_allclose(net.weights[0], expected[:-1], rtol=0, atol=1e-8)
    np.testing.assert_allclose(net.biases[0], expected[-1], rtol=0, atol=1e-8)
    residual = ((with_ones @ expected - y) ** 2).sum() / (2 * 1000)
    assert history.loss[-1] == pytest.approx(residual, rel=1e-12)


def optimum(reference, X, y):
    """The parameters of least reference loss, by a quasi-Newton method of SciPy's."""
    result = optimize.minimize(
        lambda parameters: reference.with_flat(parameters).loss_value(X, y),
        reference.flat,
        jac=lambda parameters: reference.with_flat(parameters).gradient(X, y),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    assert np.abs(result.jac).max() < 1e-7
    return reference.with_flat(result.x), result.fun


def overlapping_classes(n_classes):
    """Three features, the means of which differ less by class than they spread.

    Separable classes have no optimum: the weights of a linear model grow for ever.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(300) % n_classes
    return rng.normal(size=(300, 3)) + 0.5 * np.eye(n_classes, 3)[labels], labels


def test_logistic_regression():
    X, labels = overlapping_classes(2)
    y = labels.astype(np.float64)
    start = ReferenceNetwork.from_flat(np.zeros(4), [3, 1], ["sigmoid"], "binary_cross_entropy")
    best, least_loss = optimum(start, X, y)

    # The curvature of log(1 + e^-z) is a quarter at most.
    optimizer = SGD(4 / largest_curvature(X))
    layers, loss = [Dense(1, "sigmoid")], "binary_cross_entropy"
    net = Network(3, layers, loss=loss, optimizer=optimizer, dtype="float64", seed=0)
    net.fit(X, y, epochs=1000, batch_size=None)
    # The optimum itself is known to its gradient of 1e-7 over the least curvature, about 0.1.
    np.testing.assert_allclose(net.parameters, best.flat, rtol=0, atol=1e-6)
    assert net.evaluate(X, y) == pytest.approx(least_loss, rel=1e-12)
    assert np.abs(net.parameters).max() > 0.1


def test_softmax_regression():
    X, labels = overlapping_classes(3)
    start = ReferenceNetwork.from_flat(np.zeros(12), [3, 3], ["softmax"], "cross_entropy")
    best, least_loss = optimum(start, X, labels)

    # The curvature of log sum exp is a half at most.
    optimizer = SGD(2 / largest_curvature(X))
    layers, loss = [Dense(3, "softmax")], "cross_entropy"
    net = Network(3, layers, loss=loss, optimizer=optimizer, dtype="float64", seed=0)
    net.fit(X, labels, epochs=1000, batch_size=None)
    assert net.evaluate(X, labels) == pytest.approx(least_loss, rel=1e-12)
    np.testing.assert_allclose(net.predict(X), best.predict(X), rtol=0, atol=1e-6)
    # The same number added to the logits of all classes changes nothing, so each parameter is
    # defined up to the mean over the classes.
    for actual, expected in [(net.weights[0], best.weights[0]), (net.biases[0], best.biases[0])]:
        actual = actual - actual.mean(axis=-1, keepdims=True)
        expected = expected - expected.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_xor():
    """What no network without a hidden layer can learn: the loss falls to nearly nothing."""
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.0, 1.0, 1.0, 0.0])
    layers = [Dense(8, "tanh"), Dense(1, "sigmoid")]
    net = Network(2, layers, loss="binary_cross_entropy", optimizer=SGD(0.5), seed=0)
    net.fit(X, y, epochs=2000, batch_size=None)
    assert np.round(net.predict(X)[:, 0]).tolist() == y.tolist()
    assert net.evaluate(X, y) < 0.02


# What its steps are


def steps_of(net, X, y, order, batch_size):
    """The steps of one epoch one by one, and the mean of their losses over the samples."""
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        total += net.train_step(X[rows], y[rows]) * len(rows)
    return total / len(order)


def network_and_generator(**settings):
    """A network and the generator it draws its weights from, which shuffles next."""
    generators = []

    def small_normal(rng, n_in, n_out):
        generators.append(rng)
        return rng.normal(size=(n_in, n_out)) * 0.3

    layers = [Dense(layer.units, layer.activation, init=small_normal) for layer in LAYERS]
    settings = {"optimizer": SGD(0.1), "dtype": "float64", "seed": 0} | settings
    net = Network(5, layers, loss="cross_entropy", **settings)
    assert generators[0] is generators[-1]
    return net, generators[0]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
def test_epoch_without_shuffling_is_its_steps(batch_size):
    """Bit for bit, with a last batch of fewer rows (129 = 18 * 7 + 3 = 2 * 64 + 1)."""
    X, y = classes(129)
    net, twin = classifier(), classifier()
    history = net.fit(X, y, batch_size=batch_size, shuffle=False)
    loss = steps_of(twin, X, y, np.arange(129), batch_size)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert history.loss == [pytest.approx(loss, rel=1e-14)]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_epoch_of_single_rows_is_its_steps(activation):
    """Bit for bit, through a first layer of many blocks and inputs of which most are zero."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 700)) * (rng.random((40, 700)) < 0.3)
    y = rng.integers(0, 3, 40)
    layers = [Dense(90, activation), Dense(3, "softmax")]
    net, twin = (
        Network(700, layers, loss="cross_entropy", optimizer=SGD(0.1), seed=0) for _ in range(2)
    )
    net.fit(X, y, batch_size=1, shuffle=False)
    steps_of(twin, X, y, np.arange(40), 1)
    assert net.parameters.tobytes() == twin.parameters.tobytes()


@pytest.mark.parametrize("batch_size", [1, 7, 64, None])
def test_epochs_are_their_steps_in_the_order_of_the_seed(batch_size):
    """Bit for bit: the twin takes its steps in the permutations its own generator draws."""
    X, y = classes(129)
    net, _ = network_and_generator()
    twin, rng = network_and_generator()
    history = net.fit(X, y, epochs=3, batch_size=batch_size)
    losses = [steps_of(twin, X, y, rng.permutation(129), batch_size or 129) for _ in range(3)]
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert history.loss == pytest.approx(losses, rel=1e-14)


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_takes_every_sample_once(shuffle):
    """Found out without knowing the order: b of a network of b alone records the samples.

    With X = 0, a learning rate of 1/2 and batches of one, b becomes (b + y) / 2 at each sample:
    the bits of 40 targets of 0 or 1 end up in b one after the other, the last one in front. A
    target of 1 for one sample in turn tells each one's place; the seed repeats the order.
    """
    n = 40
    places = []
    for sample in range(n):
        net = Network(1, [Dense(1)], optimizer=SGD(0.5), dtype="float64", seed=3)
        y = np.zeros(n)
        y[sample] = 1
        net.fit(np.zeros((n, 1)), y, batch_size=1, shuffle=shuffle)
        places.append(n + math.log2(net.biases[0][0]))
    assert sorted(places) == list(range(n))
    assert (places == list(range(n))) is not shuffle


@pytest.mark.parametrize("batch_size", [1, 7, 64, 129])
@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_against_reference(shuffle, batch_size):
    """To rounding, which some hundreds of steps carry along without making it grow much."""
    X, y = classes(129)
    net, _ = network_and_generator()
    _, rng = network_and_generator()
    reference = ReferenceNetwork.from_flat(net.parameters, WIDTHS, ACTIVATIONS, "cross_entropy")
    history = net.fit(X, y, epochs=2, batch_size=batch_size, shuffle=shuffle)
    for epoch in range(2):
        order = rng.permutation(129) if shuffle else np.arange(129)
        reference, loss = reference.epoch(X, y, 0.1, order, batch_size)
        assert history.loss[epoch] == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(net.parameters, reference.flat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batches_larger_than_one_pass(dtype):
    """Batches of 1500, 1500 and 500 rows, after ones of 7, against the reference."""
    X, y = classes(3500)
    net, _ = network_and_generator(dtype=dtype)
    _, rng = network_and_generator(dtype=dtype)
    X = X.astype(dtype)
    reference = ReferenceNetwork.from_flat(net.parameters, WIDTHS, ACTIVATIONS, "cross_entropy")
    reference = reference.rounded(dtype)
    losses = []
    for n, batch_size in [(14, 7), (3500, 1500), (14, 7)]:
        losses += net.fit(X[:n], y[:n], batch_size=batch_size).loss
        reference, loss = reference.epoch(X[:n], y[:n], 0.1, rng.permutation(n), batch_size)
        tolerance = {"float64": 1e-13, "float32": 1e-6}[dtype]
        assert losses[-1] == pytest.approx(loss, rel=tolerance)
    np.testing.assert_allclose(net.parameters, reference.flat, rtol=0, atol=tolerance)


def test_train_step_on_one_row_is_a_batch_of_one():
    X, y = classes(7)
    net, twin = classifier(), classifier()
    for row, label in zip(X, y, strict=True):
        assert net.train_step(row, label) == twin.train_step(row[None], label[None])
    assert net.parameters.tobytes() == twin.parameters.tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 32, None])
def test_same_seed_same_bits(batch_size, dtype):
    X, y = classes(129)
    runs = []
    for seed in (0, 0, 1):
        net = classifier(dtype, seed)
        history = net.fit(X, y, epochs=3, batch_size=batch_size)
        runs.append((net.parameters.tobytes(), history.loss))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


def test_without_a_seed_networks_differ():
    first, second = classifier(seed=None), classifier(seed=None)
    assert (first.weights[0] != second.weights[0]).all()


def test_fitting_again_continues():
    """Two fits of two epochs are one of four: the orders of the samples go on as well."""
    X, y = classes(129)
    net, twin = classifier(), classifier()
    losses = net.fit(X, y, epochs=2).loss + net.fit(X, y, epochs=2).loss
    assert losses == twin.fit(X, y, epochs=4).loss
    assert net.parameters.tobytes() == twin.parameters.tobytes()


def test_what_does_not_train_changes_nothing():
    """Neither the parameters nor the orders of the samples to come."""
    X, y = classes(129)
    net, twin = classifier(), classifier()
    before = net.parameters.tobytes()
    net.predict(X)
    net.evaluate(X, y)
    net.loss_and_gradient(X, y)
    net.check_gradient(X, y, n_checks=3)
    str(net)
    assert net.parameters.tobytes() == before
    net.fit(X, y)
    twin.fit(X, y)
    assert net.parameters.tobytes() == twin.parameters.tobytes()


# How weights start

VARIANCES = {"he": lambda n_in, n_out: 2 / n_in, "glorot": lambda n_in, n_out: 2 / (n_in + n_out)}


@pytest.mark.parametrize("init", ["he_normal", "he_uniform", "glorot_normal", "glorot_uniform"])
def test_initialisation(init):
    """Mean, variance and range within five standard deviations of each.

    The variance of a sample of N has a standard deviation of sqrt((kurtosis - 1) / N) of it,
    with a kurtosis of 3 for the normal distribution and 9/5 for the uniform one.
    """
    n_in, n_out = 129, 257
    scheme, distribution = init.split("_")
    variance = VARIANCES[scheme](n_in, n_out)
    net = Network(n_in, [Dense(n_out, init=init)], dtype="float64", seed=0)
    weight = net.weights[0]
    n = weight.size
    assert weight.shape == (n_in, n_out)
    assert abs(weight.mean()) < 5 * math.sqrt(variance / n)
    kurtosis = {"normal": 3, "uniform": 9 / 5}[distribution]
    assert abs(weight.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / n)
    # A uniform distribution ends at sqrt(3) standard deviations, and N samples come near.
    largest = np.abs(weight).max() / math.sqrt(3 * variance)
    assert 0.999 < largest < 1 if distribution == "uniform" else largest > 1.5
    assert not net.biases[0].any()


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu", "softmax"])
def test_initialisation_by_activation(activation):
    """He's for relu, Glorot's for the others."""
    name = "he_normal" if activation == "relu" else "glorot_uniform"
    auto = Network(33, [Dense(17, activation)], seed=0)
    named = Network(33, [Dense(17, activation, init=name)], seed=0)
    assert auto.parameters.tobytes() == named.parameters.tobytes()


def test_all_layers_start_differently_and_without_bias():
    net = Network(17, [Dense(17, "relu"), Dense(17, "relu"), Dense(17, "tanh")], seed=0)
    assert (net.weights[0] != net.weights[1]).all()
    assert (net.weights[1] != net.weights[2]).all()
    assert not any(bias.any() for bias in net.biases)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_callable_initialisation(dtype):
    calls = []

    def init(rng, n_in, n_out):
        calls.append((type(rng), n_in, n_out))
        return np.arange(n_in * n_out).reshape(n_in, n_out) / 3

    net = Network(3, [Dense(5, init=init), Dense(2, init=init)], dtype=dtype)
    assert calls == [(np.random.Generator, 3, 5), (np.random.Generator, 5, 2)]
    assert net.weights[0].tobytes() == (np.arange(15) / 3).astype(dtype).tobytes()
    assert net.weights[1].tobytes() == (np.arange(10) / 3).astype(dtype).tobytes()
    assert not any(bias.any() for bias in net.biases)


# Views


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_parameters_are_in_the_order_of_the_layers(dtype):
    """W0 row by row, b0, W1, b1, ..."""
    net = Network(3, [Dense(5), Dense(1), Dense(2)], dtype=dtype)
    net.parameters[...] = np.arange(net.n_parameters)
    assert net.n_parameters == 15 + 5 + 5 + 1 + 2 + 2
    np.testing.assert_array_equal(net.weights[0], np.arange(15).reshape(3, 5))
    np.testing.assert_array_equal(net.biases[0], np.arange(15, 20))
    np.testing.assert_array_equal(net.weights[1], np.arange(20, 25).reshape(5, 1))
    np.testing.assert_array_equal(net.biases[1], [25])
    np.testing.assert_array_equal(net.weights[2], [[26, 27]])
    np.testing.assert_array_equal(net.biases[2], [28, 29])


def test_views_are_live():
    """Both ways: writing to a view changes the network, and training shows in the view."""
    X, y = classes(33)
    net = classifier()
    parameters, weights, biases = net.parameters, net.weights, net.biases
    assert parameters.dtype == net.dtype
    for view in (*weights, *biases):
        assert np.shares_memory(view, parameters)

    before = parameters.copy()
    net.fit(X, y)
    assert (parameters != before).any()
    for _ in range(2):
        reference = ReferenceNetwork.from_flat(parameters, WIDTHS, ACTIVATIONS, "cross_entropy")
        for view, expected in zip(
            weights + biases, reference.weights + reference.biases, strict=True
        ):
            np.testing.assert_array_equal(view, expected)
        np.testing.assert_allclose(net.predict(X), reference.predict(X), rtol=1e-12)
        weights[1][3, 4] += 1
        biases[2][0] -= 1
        parameters[7] *= 2


# What it reports, and when it ends


@pytest.mark.parametrize("batch_size", [7, None])
def test_history(batch_size):
    X, y = classes(129)
    X_validation, y_validation = classes(33, seed=2)
    net = classifier()
    start = net.evaluate(X, y)
    history = net.fit(
        X, y, epochs=4, batch_size=batch_size, validation_data=(X_validation, y_validation)
    )
    assert isinstance(history, History)
    for values in (history.loss, history.validation_loss, history.seconds):
        assert [type(value) for value in values] == [float] * 4
    assert min(history.seconds) > 0
    assert history.validation_loss[-1] == net.evaluate(X_validation, y_validation)
    if batch_size is None:  # the whole loss before the first step
        assert history.loss[0] == pytest.approx(start, rel=1e-14)


def test_validation_only_looks():
    """Each epoch's validation loss is what evaluate says after it; training goes on the same."""
    X, y = classes(129)
    validation = classes(33, seed=2)
    net, twin = classifier(), classifier()
    history = net.fit(X, y, epochs=3, validation_data=validation)
    for epoch in range(3):
        twin_history = twin.fit(X, y)
        assert twin_history.loss == [history.loss[epoch]]
        assert twin_history.validation_loss == []
        assert twin.evaluate(*validation) == history.validation_loss[epoch]
    assert net.parameters.tobytes() == twin.parameters.tobytes()


class Recorder(Callback):
    """Notes what it is told, and stops after some epochs."""

    def __init__(self, stop_after=None):
        self.calls = []
        self.stop_after = stop_after

    def on_train_begin(self, network, epochs):
        self.calls.append(("begin", epochs))

    def on_epoch_end(self, network, history):
        self.calls.append(("epoch", len(history.loss), network.parameters.tobytes()))
        return len(history.loss) == self.stop_after

    def on_train_end(self, network, history):
        self.calls.append(("end", len(history.loss)))


def test_callbacks_see_every_epoch_and_can_stop():
    X, y = classes(129)
    net, twin = classifier(), classifier()
    stopper, watcher = Recorder(stop_after=3), Recorder()
    history = net.fit(X, y, epochs=10, callbacks=[stopper, watcher])
    expected = [("begin", 10)]
    for epoch in range(1, 4):
        twin.fit(X, y)
        expected.append(("epoch", epoch, twin.parameters.tobytes()))
    expected.append(("end", 3))
    assert stopper.calls == watcher.calls == expected
    assert len(history.loss) == len(history.seconds) == 3
    assert net.parameters.tobytes() == twin.parameters.tobytes()


def test_a_callback_can_set_the_optimizer():
    class Halve(Callback):
        def on_epoch_end(self, network, history):
            network.optimizer = SGD(network.optimizer.learning_rate / 2)

    X, y = classes(129)
    net, twin = classifier(), classifier()
    net.fit(X, y, epochs=3, callbacks=[Halve()])
    for learning_rate in (0.1, 0.05, 0.025):
        twin.optimizer = SGD(learning_rate)
        twin.fit(X, y)
    assert net.optimizer == SGD(0.0125)
    assert net.parameters.tobytes() == twin.parameters.tobytes()


def test_tol_ends_training_that_no_longer_gains():
    """After ten epochs in a row that do not lower the least loss by tol.

    The loss is 1/2 (b - 1)^2 from b = 0, of which a learning rate of 1/2 leaves a quarter each
    epoch: 1/2, 1/8, 1/32, ... The gain in epoch k (from 1) is 3/2 4^(1 - k), and below 1e-3
    from k = 7 on (3/8192), so epoch 16 is the tenth without it. Without tol it goes on.
    """

    def fit(tol, epochs=30):
        net = Network(1, [Dense(1)], optimizer=SGD(0.5), dtype="float64", seed=0)
        net.parameters[...] = 0
        return net.fit([[0.0]], [1.0], epochs=epochs, tol=tol).loss

    assert fit(None) == [4.0**-k / 2 for k in range(30)]
    assert fit(1e-3) == fit(None)[:16]
    assert fit(1e-3, epochs=12) == fit(None)[:12]
