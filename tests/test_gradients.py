"""Loss, predictions and gradient of every kind of network against two oracles.

The oracles are the naive network of reference.py and central differences of its loss.
Errors of a gradient are relative to its largest entry.
"""

import numpy as np
import pytest
from reference import ACTIVATIONS, PAIRS, ReferenceNetwork

from fastbp import SGD, Dense, Network

WIDTHS = (1, 3, 17, 33, 129)
BATCHES = (1, 7, 64)
HIDDEN = ("identity", "sigmoid", "tanh", "relu")
LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy")
# Sums of up to 129 products, a few layers deep, lose some ten units in the last place of either
# dtype (2e-16, 1e-7); the rest of the way to these bounds is 1/p and 1/(1 - p) in the losses.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}

every_output = pytest.mark.parametrize("output", list(ACTIVATIONS))
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_hidden = pytest.mark.parametrize("hidden", HIDDEN)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


def shapes(n_hidden):
    """Widths from input to output: each of WIDTHS in each position, and one with all equal.

    The stride differs with the depth, so that different widths become neighbours.
    """
    positions = range(n_hidden + 2)
    rotated = [[WIDTHS[(first + (n_hidden + 1) * p) % 5] for p in positions] for first in range(5)]
    return [*rotated, [17] * len(positions)]


def with_bias_off_the_kinks(products, weight, rng):
    """Weight and bias of a ReLU layer, no pre-activation of which is close to zero.

    A central difference across the kink of a ReLU is wrong by up to half the slope, and random
    pre-activations of some thousand units come as close to zero as any step. So each unit's
    bias puts the zero into the widest gap between its products A W, looked for in their middle
    half: some samples are on, some are off, none is near. Unit 0 is always on for sample 0, so
    there is a way for the gradient through every layer.
    """
    if len(products) == 1:
        sign = np.where(rng.random(products.shape[1]) < 0.5, -1, 1)
        bias = 0.5 * sign - products[0]
    else:
        ordered = np.sort(products, axis=0)
        outer = len(products) // 4
        ordered = ordered[outer : len(products) - outer]
        widest = np.diff(ordered, axis=0).argmax(axis=0)
        units = np.arange(products.shape[1])
        bias = -(ordered[widest, units] + ordered[widest + 1, units]) / 2
    if products[0, 0] + bias[0] < 0:
        weight[:, 0] *= -1
        bias[0] *= -1
    return weight, bias


def random_problem(widths, hidden, output, loss, batch):
    """A network away from ReLU's kinks, inputs, and every form of target its loss takes.

    Logarithms behind outputs that are no probabilities would meet the clip at random, so there
    the last layer is scaled to outputs within 0.5 +- 0.3 before the activation, which keeps
    them within (0.1, 0.9) after it. test_clipped_predictions has the other side.
    """
    rng = np.random.default_rng([batch, *widths])
    X = rng.normal(size=(batch, widths[0]))
    activations = [hidden] * (len(widths) - 2) + [output]
    weights, biases, A = [], [], X
    for layer, activation in enumerate(activations):
        n_in, n_out = widths[layer : layer + 2]
        weight = rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)
        bias = rng.normal(size=n_out) / 2
        last = layer == len(activations) - 1
        if last and loss != "squared_error" and output in ("identity", "tanh", "relu"):
            weight *= 0.3 / np.abs(A @ weight).max()
            bias = np.full(n_out, 0.5)
        elif activation == "relu":
            weight, bias = with_bias_off_the_kinks(A @ weight, weight, rng)
        Z = A @ weight + bias
        assert activation != "relu" or np.abs(Z).min() > 1e-3
        A = ACTIVATIONS[activation](Z)
        weights.append(weight)
        biases.append(bias)

    if loss == "squared_error":
        targets = [rng.normal(size=A.shape)]
    elif loss == "binary_cross_entropy":
        targets = [np.clip(rng.uniform(-0.3, 1.3, size=A.shape), 0, 1)]  # exact 0 and 1 too
    else:
        labels = rng.integers(A.shape[1], size=batch)
        targets = [labels, rng.dirichlet(np.ones(A.shape[1]), size=batch)]
    if A.shape[1] == 1 and loss != "cross_entropy":
        targets.append(targets[0][:, 0])
    return ReferenceNetwork(weights, biases, activations, loss), X, targets


def problems(hidden, output, loss, n_hidden, some_shapes):
    """Yields reference, X and y; with softmax the shapes of one output are left out.

    Softmax of a single output is 1 whatever the logit, so the gradient is zero:
    test_softmax_of_one_output.
    """
    if n_hidden == 0 and hidden != "identity":
        return
    for widths in some_shapes:
        if output == "softmax" and widths[-1] == 1:
            continue
        for batch in BATCHES:
            reference, X, targets = random_problem(widths, hidden, output, loss, batch)
            for y in targets:
                yield reference, X, y


def fastbp_twin(reference, dtype, **settings):
    """The fastbp network with the layers, loss and parameters of a reference network."""
    n_inputs, *units = reference.widths
    layers = [Dense(*layer) for layer in zip(units, reference.activations, strict=True)]
    net = Network(n_inputs, layers, loss=reference.loss, dtype=dtype, **settings)
    net.parameters[...] = reference.flat
    return net


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


def assert_no_layer_is_all_zero(gradient, reference):
    blocks = reference.with_flat(gradient)
    for block in blocks.weights + blocks.biases:
        assert np.abs(block).max() > 0


def central_difference(reference, X, y, entry):
    """dL/dparameter of one entry of the flat vector.

    With a step of 1e-5 the truncation is some 1e-10 / 6 of the third derivative, the rounding
    1e-16 / 1e-5 of the loss: together far below 1e-7 of a gradient. The step moves no
    pre-activation by more than about 1e-4, so it crosses no kink.
    """
    step = 1e-5
    losses = []
    for sign in (1, -1):
        parameters = reference.flat
        parameters[entry] += sign * step
        losses.append(reference.with_flat(parameters).loss_value(X, y))
    return (losses[0] - losses[1]) / (2 * step)


def some_entries(reference, gradient):
    """Of each weight and bias: the entry with the largest gradient, and two others."""
    rng = np.random.default_rng(0)
    entries, start = [], 0
    for weight, bias in zip(reference.weights, reference.biases, strict=True):
        for size in (weight.size, bias.size):
            largest = start + np.abs(gradient[start : start + size]).argmax()
            entries += [largest, *rng.integers(start, start + size, size=2)]
            start += size
    return np.unique(entries)


@every_dtype
@every_loss
@every_output
@every_hidden
def test_against_reference(hidden, output, loss, dtype, record_error):
    tolerance = TOLERANCE[dtype]
    for n_hidden in range(4):
        for reference, X, y in problems(hidden, output, loss, n_hidden, shapes(n_hidden)):
            reference = reference.rounded(dtype)
            X = X.astype(dtype)
            if y.dtype == np.float64:
                y = y.astype(dtype)
            net = fastbp_twin(reference, dtype)

            assert relative_error(net.predict(X), reference.predict(X)) <= tolerance

            value, gradient = net.loss_and_gradient(X, y)
            expected = reference.gradient(X, y)
            assert isinstance(value, float)
            assert abs(value - reference.loss_value(X, y)) <= tolerance * abs(value)
            assert net.evaluate(X, y) == pytest.approx(value, rel=tolerance, abs=0)
            assert gradient.dtype == dtype
            assert gradient.shape == (reference.flat.size,) == net.parameters.shape
            assert_no_layer_is_all_zero(gradient, reference)
            error = relative_error(gradient, expected)
            assert record_error(f"reference, {dtype}", error) <= tolerance


@every_loss
@every_output
@every_hidden
def test_against_central_differences(hidden, output, loss, record_error):
    for n_hidden in range(4):
        # Three of the shapes for each depth, others for each, to save time.
        some_shapes = [shapes(n_hidden)[(n_hidden + i) % 5] for i in range(3)]
        for reference, X, y in problems(hidden, output, loss, n_hidden, some_shapes):
            _, gradient = fastbp_twin(reference, "float64").loss_and_gradient(X, y)
            entries = some_entries(reference, gradient)
            differences = np.array([central_difference(reference, X, y, e) for e in entries])
            assert_no_layer_is_all_zero(gradient, reference)
            error = relative_error(gradient[entries], differences)
            assert record_error("central differences", error) <= 1e-7


@every_loss
@every_output
@every_hidden
def test_check_gradient(hidden, output, loss, record_error):
    for n_hidden in range(4):
        for reference, X, y in problems(hidden, output, loss, n_hidden, shapes(n_hidden)):
            net = fastbp_twin(reference, "float64")
            before = net.parameters.copy()
            error = net.check_gradient(X, y, n_checks=20, seed=n_hidden)
            assert record_error("check_gradient", error) <= 1e-7
            assert net.parameters.tobytes() == before.tobytes()


def test_check_gradient_of_every_parameter(record_error):
    reference, X, targets = random_problem([17, 33, 3], "tanh", "softmax", "cross_entropy", 7)
    net = fastbp_twin(reference, "float64")
    assert record_error("check_gradient", net.check_gradient(X, targets[0])) <= 1e-7


def test_check_gradient_in_float32(record_error):
    """The differences are float64's, so what is left is the rounding of the gradient."""
    reference, X, targets = random_problem([17, 33, 3], "tanh", "softmax", "cross_entropy", 7)
    net = fastbp_twin(reference, "float32")
    error = net.check_gradient(X.astype(np.float32), targets[0])
    assert record_error("check_gradient, float32", error) <= 1e-5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_check_gradient_finds_a_wrong_gradient(dtype):
    """At the kink of a ReLU, z = 0, no gradient is right.

    With L = (relu(w) - 1)^2 / 2 at w = 0 the slope is 0 to the left and -1 to the right. The
    central difference is -1/2, and a derivative of 0 or of -1 is off by 1/2: by 100 %.
    """
    net = Network(1, [Dense(1, "relu")], dtype=dtype)
    net.parameters[...] = 0
    assert net.check_gradient([[1.0]], [[1.0]]) == pytest.approx(1, abs=1e-3)


@every_dtype
@every_loss
@every_output
@every_hidden
def test_through_the_update(hidden, output, loss, dtype, record_error):
    """Parameters before minus after, over the learning rate, by train_step and by fit.

    The learning rate is large, so that the update outweighs the parameters and subtracting
    them loses no digits, and a power of two, so that dividing by it is exact.
    """
    learning_rate = 2.0**12
    for n_hidden in range(4):
        some_shapes = [shapes(n_hidden)[(2 * n_hidden + i) % 5] for i in range(2)]
        for reference, X, y in problems(hidden, output, loss, n_hidden, some_shapes):
            reference = reference.rounded(dtype)
            X = X.astype(dtype)
            if y.dtype == np.float64:
                y = y.astype(dtype)
            expected = reference.gradient(X, y)
            expected_loss = pytest.approx(reference.loss_value(X, y), rel=TOLERANCE[dtype], abs=0)

            net = fastbp_twin(reference, dtype, optimizer=SGD(learning_rate))
            assert net.train_step(X, y) == expected_loss
            steps = [(reference.flat - net.parameters) / learning_rate]

            net.parameters[...] = reference.flat
            history = net.fit(X, y, batch_size=None, shuffle=False)
            assert history.loss == [expected_loss]
            steps.append((reference.flat - net.parameters) / learning_rate)

            for step in steps:
                assert_no_layer_is_all_zero(step, reference)
                error = relative_error(step, expected)
                assert record_error(f"through the update, {dtype}", error) <= TOLERANCE[dtype]


@every_dtype
@pytest.mark.parametrize("output", ["identity", "tanh", "relu"])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "cross_entropy"])
def test_clipped_predictions(loss, output, dtype, record_error):
    """Outputs outside the clip take the loss of its end and have no gradient.

    Without hidden layers, with W = 1 and b = 0, the prediction is f(x) itself. The first three
    rows are inside, and two of them would be without the next two as well: the rows below
    (far from either end, as what happens at an end itself is a matter of rounding) only add
    their constant loss.
    """
    activation = ACTIVATIONS[output]
    eps = float(np.finfo(dtype).eps)
    inside = np.array([0.25, 0.5, 0.75])
    below, above = np.array([-0.5, -3.0]), np.array([1.5, 25.0])
    if output == "tanh":
        above = np.array([25.0, 30.0])  # tanh rounds to 1 in both dtypes
    x = np.concatenate([inside, below, above]).astype(dtype)
    y = np.array([0.5, 0.25, 1.0, 1.0, 0.25, 0.0, 0.75], dtype=dtype)
    clipped_above = loss == "binary_cross_entropy"
    if loss == "cross_entropy":
        y[:] = 1  # the only distribution over one class

    net = Network(1, [Dense(1, output)], loss=loss, dtype=dtype)
    net.parameters[...] = [1, 0]
    value, gradient = net.loss_and_gradient(x[:, None], y[:, None])

    p = activation(x.astype(np.float64))
    p = np.concatenate([p[:3], [eps] * 2, [1 - eps] * 2 if clipped_above else p[5:]])
    log_p, log_rest = np.log(p), np.log(np.maximum(1 - p, eps))
    if loss == "cross_entropy":
        log_rest = np.zeros(7)
    assert value == pytest.approx(-(y * log_p + (1 - y) * log_rest).mean(), rel=TOLERANCE[dtype])

    # dL/dz of each row by hand: df/dz is 1 where it is not zero, but for tanh, 1 - p^2.
    slope = 1 - p**2 if output == "tanh" else np.ones(7)
    dp = -y / p if loss == "cross_entropy" else (p - y) / (p * (1 - p))
    dz = dp * slope / 7
    dz[3:5] = 0
    if clipped_above:
        dz[5:] = 0
    expected = np.array([(dz * x).sum(), dz.sum()])
    assert record_error("clipped", relative_error(gradient, expected)) <= TOLERANCE[dtype]

    # Alone, rows outside the clip have a gradient of exactly zero.
    outside = slice(3, 7) if clipped_above else slice(3, 5)
    _, gradient = net.loss_and_gradient(x[outside, None], y[outside, None])
    assert not gradient.any()


@every_dtype
@every_loss
def test_softmax_of_one_output(loss, dtype):
    """The prediction is 1 for any logit, so the gradient is mathematically zero."""
    for n_hidden in range(4):
        for widths in shapes(n_hidden):
            if widths[-1] == 1:
                reference, X, targets = random_problem(widths, "tanh", "softmax", loss, 7)
                for y in targets:
                    value, gradient = fastbp_twin(reference, dtype).loss_and_gradient(X, y)
                    expected = reference.rounded(dtype).loss_value(X, y)
                    assert value == pytest.approx(expected, rel=TOLERANCE[dtype], abs=0)
                    assert not gradient.any()


@every_dtype
@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_hidden_layers_and_many_rows(loss, dtype, record_error):
    """Layers of every kind in one network, with more rows and units than one block of a product.

    The outputs are softmax or sigmoid, as the loss has it.
    """
    output = "sigmoid" if loss == "binary_cross_entropy" else "softmax"
    rng = np.random.default_rng(3)
    widths = [257, 130, 65, 33, 20, 11]
    activations = ["relu", "tanh", "identity", "sigmoid", output]
    pairs = zip(widths[:-1], widths[1:], strict=True)
    weights = [rng.normal(size=pair) / np.sqrt(pair[0]) for pair in pairs]
    biases = [rng.normal(size=width) for width in widths[1:]]
    reference = ReferenceNetwork(weights, biases, activations, loss).rounded(dtype)
    X = rng.normal(size=(1000, widths[0]))
    # A float32 sum could fall on the other side of a kink than the float64 one, so the samples
    # nearest to one are dropped, about 1 in 20. The rounding of a sum is some 1e-6.
    X = X[np.abs(X @ reference.weights[0] + reference.biases[0]).min(axis=1) > 1e-4].astype(dtype)
    assert len(X) > 900
    y = rng.dirichlet(np.ones(11), size=len(X)).astype(dtype)

    net = fastbp_twin(reference, dtype)
    value, gradient = net.loss_and_gradient(X, y)
    assert value == pytest.approx(reference.loss_value(X, y), rel=TOLERANCE[dtype])
    error = relative_error(gradient, reference.gradient(X, y))
    assert record_error(f"reference, {dtype}", error) <= TOLERANCE[dtype]
    assert relative_error(net.predict(X), reference.predict(X)) <= TOLERANCE[dtype]
    assert relative_error(net.predict(X[5]), reference.predict(X[5:6])[0]) <= TOLERANCE[dtype]
    assert net.evaluate(X, y) == pytest.approx(reference.loss_value(X, y), rel=TOLERANCE[dtype])


def test_labels_are_rows_of_zero_and_one():
    """Integer labels and their one-hot rows are the same target, to the rounding of a sum."""
    for output in ACTIVATIONS:
        reference, X, (labels, _) = random_problem([17, 3, 33], "tanh", output, "cross_entropy", 64)
        net = fastbp_twin(reference, "float64")
        value, gradient = net.loss_and_gradient(X, labels)
        value_of_rows, gradient_of_rows = net.loss_and_gradient(X, np.eye(33)[labels])
        assert value == pytest.approx(value_of_rows, rel=1e-14)
        np.testing.assert_allclose(gradient, gradient_of_rows, rtol=0, atol=1e-14)


@every_dtype
@pytest.mark.parametrize("size", [1e4, 30.0])
def test_extreme_logits_behind_sigmoid(size, dtype):
    """-log sigmoid(z) is log(1 + e^-z): e^-z for large z, and -z for large negative z.

    Closed forms, exact to e^-30 = 1e-13 of themselves or better: with logits z = +-size the
    terms of the loss are size (wrong), y size or (1 - y) size (between) and log(1 + e^-size)
    (right). dL/dz is sigmoid(z) - y.
    """
    right = np.log1p(np.exp(-size))
    logits = np.array([size, size, -size, -size, size, -size])
    y = np.array([1.0, 0.0, 0.0, 1.0, 0.25, 0.25])
    losses = [right, size, right, size, 0.75 * size, 0.25 * size]
    errors = [-right, 1, right, -1, 0.75, -0.25]
    net = Network(1, [Dense(1, "sigmoid")], loss="binary_cross_entropy", dtype=dtype)
    net.parameters[...] = [1, 0]
    rounding = 4 * np.finfo(dtype).eps
    for z, target, loss, error in zip(logits, y, losses, errors, strict=True):
        value, gradient = net.loss_and_gradient([[z]], [target])
        assert value == pytest.approx(loss, rel=rounding, abs=1e-300)
        # 1 - sigmoid(30) rounds to zero in float32, and to a multiple of eps in float64
        np.testing.assert_allclose(gradient, [error * z, error], rtol=rounding, atol=size * rounding)
        assert net.evaluate([[z]], [target]) == value
    value, gradient = net.loss_and_gradient(logits[:, None], y)
    assert value == pytest.approx(np.mean(losses), rel=rounding)
    expected = [np.mean(errors * logits), np.mean(errors)]
    np.testing.assert_allclose(gradient, expected, rtol=rounding, atol=size * rounding)
    assert net.train_step(logits[:, None], y) == value
    assert np.isfinite(net.parameters).all()


@every_dtype
@pytest.mark.parametrize("size", [1e4, 30.0])
def test_extreme_logits_behind_softmax(size, dtype):
    """Logits (size, 0, -size): -log p of the classes is 0, size and 2 size, but for e^-size.

    log(1 + e^-size + e^-2size) is added to each: it is all there is for the first class.
    dL/dz is p less the row of the target, and p is (1, 0, 0) but for e^-size again.
    """
    normaliser = np.log1p(np.exp(-size) + np.exp(-2 * size))
    losses = np.array([0, size, 2 * size]) + normaliser
    p = np.exp(-losses)
    net = Network(1, [Dense(3, "softmax")], loss="cross_entropy", dtype=dtype)
    net.parameters[...] = [1, 0, -1, 0, 0, 0]
    rounding = 4 * np.finfo(dtype).eps
    for label in range(3):
        value, gradient = net.loss_and_gradient([[size]], [label])
        assert value == pytest.approx(losses[label], rel=rounding, abs=1e-300)
        D = p - np.eye(3)[label]
        expected = np.concatenate([D * size, D])
        np.testing.assert_allclose(gradient, expected, rtol=rounding, atol=size * rounding)
        assert net.evaluate([[size]], [label]) == value
    value, gradient = net.loss_and_gradient([[size]] * 3, [0, 1, 2])
    assert value == pytest.approx(losses.mean(), rel=rounding)
    value_of_rows, _ = net.loss_and_gradient([[size]], [[0.5, 0.25, 0.25]])
    assert value_of_rows == pytest.approx(losses @ [0.5, 0.25, 0.25], rel=rounding)
    assert net.train_step([[size]] * 3, [0, 1, 2]) == value
    assert np.isfinite(net.parameters).all()
