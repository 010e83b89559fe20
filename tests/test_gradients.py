"""Loss, predictions and gradient of every kind of network against two oracles.

The oracles are the naive network of reference.py and central differences of its loss.
Errors of a gradient are relative to its largest entry.
"""

import itertools
import math

import numpy as np
import pytest
from reference import ACTIVATIONS, ReferenceNetwork

from fastbp import SGD, Dense, Network

WIDTHS = (129, 1, 33, 17, 3)  # two wide layers are neighbours only at a stride of 2
BATCHES = (1, 7, 64)
HIDDEN = ("identity", "sigmoid", "tanh", "relu")
OUTPUTS = (*HIDDEN, "softmax")  # the others are in test_activations.py
LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy")
# Sums of up to 129 products, a few layers deep, lose some ten units in the last place of either
# dtype (2e-16, 1e-7); the rest of the way to these bounds is 1/p and 1/(1 - p) in the losses.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}

every_output = pytest.mark.parametrize("output", OUTPUTS)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_hidden = pytest.mark.parametrize("hidden", HIDDEN)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


def shapes(n_hidden, stride=2):
    """Widths from input to output: each of WIDTHS in each position, and one with all equal."""
    positions = range(n_hidden + 2)
    rotated = [[WIDTHS[(first + stride * p) % 5] for p in positions] for first in range(5)]
    return [*rotated, [17] * len(positions)]


def relu_layer_off_its_kinks(A, n_out, rng):
    """Weight and bias of a ReLU layer no pre-activation of which is within 0.005 of zero.

    A central difference across the kink of a ReLU is wrong by up to half the slope, and among
    thousands of random pre-activations some are as close to zero as any step. So each unit's
    bias puts the zero into a gap between its products A W, the wide enough gap that is nearest
    to their median: some samples are on, some are off, none is near. A unit without a gap is
    drawn again. Unit 0 is on for sample 0, so the gradient has a way through every layer.
    """
    samples, n_in = A.shape
    weight = rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)
    bias = np.empty(n_out)
    if samples == 1:
        bias = rng.choice([0.5, -0.5], size=n_out) - A[0] @ weight
    else:
        scale = (A @ weight).std(axis=0).mean()  # products spread by about 1, and gaps are wide
        weight /= scale
        for unit in range(n_out):
            while True:
                products = np.sort(A @ weight[:, unit])
                gaps = np.flatnonzero(np.diff(products) > 0.01)
                if gaps.size:
                    break
                weight[:, unit] = rng.normal(size=n_in) / np.sqrt(n_in) / scale
            gap = gaps[np.abs(gaps - samples // 2).argmin()]
            bias[unit] = -(products[gap] + products[gap + 1]) / 2
    if A[0] @ weight[:, 0] + bias[0] < 0:
        weight[:, 0] *= -1
        bias[0] *= -1
    return weight, bias


def random_problem(widths, hidden, output, loss, batch):
    """A well conditioned problem: network, inputs, and every form of target its loss takes.

    A layer of one unit has gradients that are one sum, and where that sum cancels to a tenth or
    less of its terms, no float32 arithmetic can be held to 1e-5. Rounding the parameters to
    float32 shows it: where this moves the gradient by 5e-7, another problem is drawn.
    """
    for seed in range(1, 100):
        rng = np.random.default_rng([seed, batch, *widths])
        reference, X, targets = draw_problem(rng, widths, hidden, output, loss, batch)
        rounded = reference.rounded(np.float32)
        gradients = [(rounded.gradient(X, y), reference.gradient(X, y)) for y in targets]
        # a gradient of zero is that of a softmax of one output
        if all(relative_error(*pair) < 5e-7 for pair in gradients if pair[1].any()):
            return reference, X, targets
    raise AssertionError("no problem of this kind is well conditioned")


def draw_problem(rng, widths, hidden, output, loss, batch):
    """Draw a problem whose gradient is neither zero nor tiny in any layer.

    Products A W of the last layer stay below 2: a saturated output has a small gradient of few
    digits, and the reference has no stable formulas for it. Logarithms behind outputs that are
    no probabilities would meet the clip at random, so there the outputs are within 0.5 +- 0.3
    before the activation, which keeps them within (0.1, 0.9) after it.
    test_clipped_predictions has the other side.
    """
    X = rng.normal(size=(batch, widths[0])) + 0.5
    if widths[0] > 3:
        X[rng.random(X.shape) < 0.3] = 0  # as sparse as some data
    probabilities = loss == "squared_error" or output in ("sigmoid", "softmax")
    activations = [hidden] * (len(widths) - 2) + [output]
    weights, biases, A = [], [], X
    for layer, activation in enumerate(activations):
        n_in, n_out = widths[layer : layer + 2]
        last = layer == len(activations) - 1
        weight = rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)
        bias = rng.normal(size=n_out) / 2
        if activation == "sigmoid" and not last:
            weight *= 4  # its slope is 1/4 at most: signals and gradients would fade away
        if last:
            weight *= min(1, (2 if probabilities else 0.3) / np.abs(A @ weight).max())
        if last and not probabilities:
            bias = np.full(n_out, 0.5)
        elif activation == "relu":
            weight, bias = relu_layer_off_its_kinks(A, n_out, rng)
        A = ACTIVATIONS[activation](A @ weight + bias)
        weights.append(weight)
        biases.append(bias)

    n_outputs = A.shape[1]
    if loss == "cross_entropy" or output == "softmax":
        targets = [rng.dirichlet(1 / np.arange(1, n_outputs + 1), size=batch)]
        if loss == "cross_entropy":
            targets.append((n_outputs * rng.random(batch) ** 3).astype(np.int64))
    elif loss == "binary_cross_entropy":
        near_zero = np.clip(rng.uniform(-0.2, 0.2, size=A.shape), 0, 1)  # and half of them at it
        targets = [np.where(A > 0.5, near_zero, 1 - near_zero)]
    else:
        targets = [A + rng.uniform(0.5, 1.5, size=A.shape) * rng.choice([-1, 1, 1], size=A.shape)]
    if n_outputs == 1 and loss != "cross_entropy":
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


def in_dtype(dtype, reference, X, y):
    """The same problem with numbers that `dtype` can hold; the reference computes in float64."""
    if y.dtype == np.float64:  # labels stay integers
        y = y.astype(dtype)
    return reference.rounded(dtype), X.astype(dtype), y


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


@every_loss
@every_output
@every_hidden
def test_against_reference(hidden, output, loss, record_error):
    for n_hidden in range(4):
        problems_of_depth = problems(hidden, output, loss, n_hidden, shapes(n_hidden))
        for problem, dtype in itertools.product(problems_of_depth, TOLERANCE):
            reference, X, y = in_dtype(dtype, *problem)
            tolerance = TOLERANCE[dtype]
            net = fastbp_twin(reference, dtype)

            assert relative_error(net.predict(X), reference.predict(X)) <= tolerance

            value, gradient = net.loss_and_gradient(X, y)
            assert isinstance(value, float)
            assert abs(value - reference.loss_value(X, y)) <= tolerance * value
            assert abs(value - net.evaluate(X, y)) <= tolerance * value
            assert gradient.dtype == dtype
            assert gradient.shape == (net.n_parameters,)
            assert_no_layer_is_all_zero(gradient, reference)
            error = relative_error(gradient, reference.gradient(X, y))
            assert record_error(f"reference, {dtype}", error) <= tolerance


@every_loss
@every_output
@every_hidden
def test_against_central_differences(hidden, output, loss, record_error):
    for n_hidden in range(4):
        some_shapes = [shapes(n_hidden)[(n_hidden + i) % 5] for i in range(2)]
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
    """On shapes of few parameters (stride 1), of which 200 drawn ones are a fair sample.

    Errors are relative to the largest gradient entry drawn, and with 4000 parameters of one
    layer and 40 of the others the large entries are easily missed.
    """
    first = HIDDEN.index(hidden) + LOSSES.index(loss)
    for n_hidden in range(4):
        some_shapes = [shapes(n_hidden, stride=1)[(first + n_hidden) % 5]]
        for reference, X, y in problems(hidden, output, loss, n_hidden, some_shapes):
            net = fastbp_twin(reference, "float64")
            before = net.parameters.copy()
            error = net.check_gradient(X, y, n_checks=200, seed=n_hidden)
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


@every_loss
@every_output
@every_hidden
def test_through_the_update(hidden, output, loss, record_error):
    """Parameters before minus after, over the learning rate, by train_step and by fit.

    The learning rate is large, so that the update outweighs the parameters and subtracting
    them loses no digits, and a power of two, so that dividing by it is exact.
    """
    learning_rate = 2.0**12
    for n_hidden in range(4):
        some_shapes = [shapes(n_hidden)[(2 * n_hidden + i) % 5] for i in range(2)]
        problems_of_depth = problems(hidden, output, loss, n_hidden, some_shapes)
        for problem, dtype in itertools.product(problems_of_depth, TOLERANCE):
            reference, X, y = in_dtype(dtype, *problem)
            tolerance = TOLERANCE[dtype]
            expected_loss = pytest.approx(reference.loss_value(X, y), rel=tolerance, abs=0)

            net = fastbp_twin(reference, dtype, optimizer=SGD(learning_rate))
            assert net.train_step(X, y) == expected_loss
            by_train_step = (reference.flat - net.parameters) / learning_rate

            net.parameters[...] = reference.flat
            history = net.fit(X, y, batch_size=None, shuffle=False)
            assert history.loss == [expected_loss]
            by_fit = (reference.flat - net.parameters) / learning_rate

            for step in (by_train_step, by_fit):
                assert_no_layer_is_all_zero(step, reference)
                error = relative_error(step, reference.gradient(X, y))
                assert record_error(f"through the update, {dtype}", error) <= tolerance


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
                    problem = in_dtype(dtype, reference, X, y)
                    value, gradient = fastbp_twin(problem[0], dtype).loss_and_gradient(X, y)
                    expected = pytest.approx(problem[0].loss_value(*problem[1:]), rel=1e-5)
                    assert value == expected
                    assert not gradient.any()


@every_dtype
@every_loss
def test_every_activation_in_one_network_and_many_rows(loss, dtype, record_error):
    """More rows than are worked on at a time, through four different hidden layers."""
    rng = np.random.default_rng(3)
    widths = [33, 129, 65, 17, 10, 3]
    output = "sigmoid" if loss == "binary_cross_entropy" else "softmax"
    pairs = itertools.pairwise(widths)
    reference = ReferenceNetwork(
        weights=[rng.normal(size=pair) / np.sqrt(pair[0]) for pair in pairs],
        biases=[rng.normal(size=width) for width in widths[1:]],
        activations=["relu", "tanh", "identity", "sigmoid", output],
        loss=loss,
    )
    X, y = rng.normal(size=(1500, widths[0])), rng.dirichlet(np.ones(3), size=1500)
    reference, X, y = in_dtype(dtype, reference, X, y)
    # Within its rounding of a kink, some 1e-6, a float32 sum may fall on the other side of it
    # than the float64 one: the few samples near one are left out.
    distance = np.abs(X @ reference.weights[0] + reference.biases[0]).min(axis=1)
    X, y = X[distance > 1e-5], y[distance > 1e-5]
    assert len(X) > 1450

    net = fastbp_twin(reference, dtype)
    value, gradient = net.loss_and_gradient(X, y)
    expected_loss = pytest.approx(reference.loss_value(X, y), rel=TOLERANCE[dtype])
    expected = reference.gradient(X, y)
    assert value == expected_loss
    assert net.evaluate(X, y) == expected_loss
    error = relative_error(gradient, expected)
    assert record_error(f"reference, {dtype}", error) <= TOLERANCE[dtype]
    assert relative_error(net.predict(X), reference.predict(X)) <= TOLERANCE[dtype]
    assert relative_error(net.predict(X[5]), reference.predict(X[5:6])[0]) <= TOLERANCE[dtype]

    net.optimizer = SGD(2.0**12)
    net.fit(X, y, batch_size=None)
    step = (reference.flat - net.parameters) / 2**12
    error = relative_error(step, expected)
    assert record_error(f"through the update, {dtype}", error) <= TOLERANCE[dtype]


@pytest.mark.parametrize("hidden", ["relu", "tanh"])
@pytest.mark.parametrize("batch", [1, 7, 64, 130])
def test_wide_layers(batch, hidden, record_error):
    """A weight of half a million parameters: more than the caches next to a core hold."""
    problem = random_problem([33, 1025, 513, 3], hidden, "softmax", "cross_entropy", batch)
    for dtype, tolerance in TOLERANCE.items():
        reference, X, y = in_dtype(dtype, *problem[:2], problem[2][0])
        expected = reference.gradient(X, y)
        net = fastbp_twin(reference, dtype, optimizer=SGD(2.0**12))
        assert relative_error(net.predict(X), reference.predict(X)) <= tolerance
        _, gradient = net.loss_and_gradient(X, y)
        error = relative_error(gradient, expected)
        assert record_error(f"reference, {dtype}", error) <= tolerance
        net.train_step(X, y)
        step = (reference.flat - net.parameters) / 2**12
        error = relative_error(step, expected)
        assert record_error(f"through the update, {dtype}", error) <= tolerance


def test_labels_are_rows_of_zero_and_one():
    """Integer labels and their one-hot rows are the same target, to the rounding of a sum."""
    for output in OUTPUTS:
        reference, X, (_, labels) = random_problem([17, 3, 33], "tanh", output, "cross_entropy", 64)
        net = fastbp_twin(reference, "float64")
        value, gradient = net.loss_and_gradient(X, labels)
        value_of_rows, gradient_of_rows = net.loss_and_gradient(X, np.eye(33)[labels])
        assert value == pytest.approx(value_of_rows, rel=1e-14)
        np.testing.assert_allclose(gradient, gradient_of_rows, rtol=0, atol=1e-14)


@every_dtype
@pytest.mark.parametrize("size", [1e4, 30.0])
def test_extreme_logits_behind_sigmoid(size, dtype):
    """-log sigmoid(z) is log(1 + e^-z), and z more of it for -log(1 - sigmoid(z)).

    So the loss is log(1 + e^-size) for the right side and size more for the wrong one, a part
    of size between. dL/dz is sigmoid(z) - y, with sigmoid(+-size) 1 and 0 but for e^-size.
    """
    least = math.log1p(math.exp(-size))  # 9e-14 at 30, and nothing at 1e4
    logits = np.array([size, size, -size, -size, size, -size])
    y = np.array([1.0, 0.0, 0.0, 1.0, 0.25, 0.25])
    losses = least + size * np.array([0, 1, 0, 1, 0.75, 0.25])
    errors = np.array([0, 1, 0, -1, 0.75, -0.25])
    net = Network(1, [Dense(1, "sigmoid")], loss="binary_cross_entropy", dtype=dtype)
    net.parameters[...] = [1, 0]
    rounding = 4 * float(np.finfo(dtype).eps)
    # sigmoid(z) is within e^-30 = 1e-13 of 0 or 1 and rounded to eps
    close = {"rtol": 0, "atol": size * max(1e-13, rounding)}
    for z, target, loss, error in zip(logits, y, losses, errors, strict=True):
        value, gradient = net.loss_and_gradient([[z]], [target])
        assert value == pytest.approx(loss, rel=rounding, abs=0)
        np.testing.assert_allclose(gradient, [error * z, error], **close)
        assert net.evaluate([[z]], [target]) == value
    value, gradient = net.loss_and_gradient(logits[:, None], y)
    assert value == pytest.approx(losses.mean(), rel=rounding, abs=0)
    np.testing.assert_allclose(gradient, [(errors * logits).mean(), errors.mean()], **close)
    assert net.train_step(logits[:, None], y) == pytest.approx(value, rel=rounding, abs=0)
    assert np.isfinite(net.parameters).all()


@every_dtype
@pytest.mark.parametrize("size", [1e4, 30.0])
def test_extreme_logits_behind_softmax(size, dtype):
    """With logits (size, 0, -size), -log p is 0, size and 2 size, but for about e^-size.

    dL/dz is p less the row of the target, and p is (1, 0, 0) but for e^-size again. e^-30 is
    1e-13: nothing beside 1 in float32, and so in the sum of exponentials, some hundred eps in
    float64.
    """
    losses = np.array([0, size, 2 * size]) + math.log1p(math.exp(-size) + math.exp(-2 * size))
    net = Network(1, [Dense(3, "softmax")], loss="cross_entropy", dtype=dtype)
    net.parameters[...] = [1, 0, -1, 0, 0, 0]
    rounding = 4 * float(np.finfo(dtype).eps)
    close = {"rtol": 0, "atol": size * max(1e-13, rounding)}
    for label in range(3):
        value, gradient = net.loss_and_gradient([[size]], [label])
        assert value == pytest.approx(losses[label], rel=rounding, abs=rounding)
        D = np.eye(3)[0] - np.eye(3)[label]
        np.testing.assert_allclose(gradient, np.concatenate([D * size, D]), **close)
        assert net.evaluate([[size]], [label]) == value
    value, _ = net.loss_and_gradient([[size]], [[0.5, 0.25, 0.25]])
    assert value == pytest.approx(losses @ [0.5, 0.25, 0.25], rel=rounding, abs=0)
    value, _ = net.loss_and_gradient([[size]] * 3, [0, 1, 2])
    assert value == pytest.approx(losses.mean(), rel=rounding, abs=0)
    assert net.train_step([[size]] * 3, [0, 1, 2]) == pytest.approx(value, rel=rounding, abs=0)
    assert np.isfinite(net.parameters).all()


@every_dtype
def test_logits_of_any_size_predict_probabilities(dtype):
    """sigmoid and softmax of +-1e4 are 0 and 1, not NaN, and the rows of softmax sum to 1."""
    X = np.array([[1e4], [-1e4], [0]], dtype=dtype)
    net = Network(1, [Dense(1, "sigmoid")], dtype=dtype)
    net.parameters[...] = [1, 0]
    assert net.predict(X)[:, 0].tolist() == [1, 0, 0.5]
    net = Network(1, [Dense(2, "softmax")], dtype=dtype)
    net.parameters[...] = [1, -1, 0, 0]
    assert net.predict(X).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
