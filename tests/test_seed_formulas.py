"""The formulas of the text this project started from, with numbers worked by hand.

The text derives backpropagation for x -> h = sigma(W1^T x + b1) -> yhat = sigma(W2^T h + b2)
with L = 1/2 ||yhat - y||^2 for one sample. Its section 3.2 and its section 4.1 disagree about
the error of the output layer, delta2 = dL/dz2:

    section 3.2:  delta2 = (yhat - y) * sigma'       (the chain rule)
    section 4.1:  delta2 =  yhat - y                 (this is dL/dyhat)

and for W1^T x to have a meaning W1 must be n x m (inputs x hidden units), as fastbp has it, not
m x n as section 4.1 says. What the text writes sigma'(yhat) is the derivative at the logit that
gives yhat, which is yhat (1 - yhat).
"""

import math

import numpy as np
import pytest

from fastbp import SGD, Dense, Network

# The logits are chosen so that every sigmoid is a fraction:
# sigma(ln 3) = 3/4, sigma(-ln 3) = 1/4, sigma(ln 4) = 4/5, sigma(0) = 1/2.
LN3, LN4 = math.log(3), math.log(4)
X = np.array([1.0, 2.0])
Y = np.array([0.3, 0.9])
W1 = np.array([[LN3, LN3], [0.0, -LN3]])
B1 = np.zeros(2)
W2 = np.array([[4.0, -4.0], [-8.0, 8.0]])
B2 = np.array([LN4 - 1, 1.0])
# Forward:  z1 = (LN3 * 1 + 0 * 2, LN3 * 1 - LN3 * 2) = (ln 3, -ln 3)         h = (3/4, 1/4)
#           z2 = (4 * 3/4 - 8 * 1/4 + ln 4 - 1, -4 * 3/4 + 8 * 1/4 + 1)
#              = (ln 4, 0)                                                  yhat = (4/5, 1/2)
# Loss:     yhat - y = (0.5, -0.4)             L = 1/2 (0.25 + 0.16) = 0.205
H = np.array([0.75, 0.25])
Y_HAT = np.array([0.8, 0.5])
LOSS = 0.205
# Section 3.2's errors: yhat (1 - yhat) = (0.16, 0.25), h (1 - h) = (3/16, 3/16)
#           delta2 = (0.5 * 0.16, -0.4 * 0.25) = (0.08, -0.1)
#           W2 delta2 = (4 * 0.08 + 4 * 0.1, -8 * 0.08 - 8 * 0.1) = (0.72, -1.44)
#           delta1 = (0.72 * 3/16, -1.44 * 3/16) = (0.135, -0.27)
DELTA2 = np.array([0.08, -0.1])
DELTA1 = np.array([0.135, -0.27])
# Gradients: an input times an error, each in its row and column.
DW2 = np.array([[0.06, -0.075], [0.02, -0.025]])
DW1 = np.array([[0.135, -0.27], [0.27, -0.54]])
# Section 4.1's output error is yhat - y.
DELTA2_OF_SECTION_4_1 = np.array([0.5, -0.4])

ROUNDING = {"float64": 1e-14, "float32": 1e-6}  # a handful of roundings of numbers near 1


def seed_loss(W1, b1, W2, b2):
    """Section 3.2's forward pass and loss, term by term in plain floats."""

    def sigma(z):
        return 1 / (1 + math.exp(-z))

    h = [sigma(sum(W1[i, j] * X[i] for i in range(2)) + b1[j]) for j in range(2)]
    y_hat = [sigma(sum(W2[j, k] * h[j] for j in range(2)) + b2[k]) for k in range(2)]
    return sum((y_hat[k] - Y[k]) ** 2 for k in range(2)) / 2


def central_differences(parameters, which):
    """dL/dparameter of every entry of one of (W1, b1, W2, b2).

    The truncation error of the step 1e-5 is some 1e-11, the rounding error too.
    """
    step = 1e-5
    result = np.empty(parameters[which].shape)
    for index in np.ndindex(*result.shape):
        losses = []
        for sign in (1, -1):
            moved = [parameter.copy() for parameter in parameters]
            moved[which][index] += sign * step
            losses.append(seed_loss(*moved))
        result[index] = (losses[0] - losses[1]) / (2 * step)
    return result


def sigmoid_network(dtype="float64", **settings):
    """Section 3.2's network with the parameters above."""
    net = Network(2, [Dense(2, "sigmoid"), Dense(2, "sigmoid")], dtype=dtype, **settings)
    net.parameters[...] = np.concatenate([W1.ravel(), B1, W2.ravel(), B2])
    return net


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_linear_regression_step(dtype):
    """Section 4.3: yhat = w^T x + b, gradient x (yhat - y) and yhat - y, then one step.

    w = (1/2, -1), b = 1/4, x = (1, 2), y = 1:  yhat = 0.5 - 2 + 0.25 = -1.25
    yhat - y = -2.25                            L = 2.25^2 / 2 = 2.53125
    dL/dw = (-2.25, -4.5), dL/db = -2.25
    With the learning rate 1/8:   w = (0.5 + 0.28125, -1 + 0.5625) = (0.78125, -0.4375)
                                  b = 0.25 + 0.28125 = 0.53125
    All of these are exact in binary, so no rounding is allowed.
    """
    net = Network(2, [Dense(1)], optimizer=SGD(1 / 8), dtype=dtype)
    net.parameters[...] = [0.5, -1, 0.25]
    x = np.array([1.0, 2.0], dtype=dtype)

    assert net.predict(x).tolist() == [-1.25]
    loss, gradient = net.loss_and_gradient(x[None], [1.0])
    assert loss == 2.53125
    assert gradient.tolist() == [-2.25, -4.5, -2.25]

    assert net.train_step(x, 1.0) == 2.53125
    assert net.parameters.tolist() == [0.78125, -0.4375, 0.53125]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_three_layer_sigmoid_step(dtype):
    """Section 3.2 from the forward pass to the update of section 4.2, theta - eta g."""
    tolerance = {"rtol": ROUNDING[dtype], "atol": ROUNDING[dtype]}
    net = sigmoid_network(dtype, optimizer=SGD(0.5))
    assert net.weights[0].shape == (2, 2)
    np.testing.assert_allclose(net.predict(X.astype(dtype)), Y_HAT, **tolerance)

    loss, gradient = net.loss_and_gradient(X[None].astype(dtype), Y[None].astype(dtype))
    assert loss == pytest.approx(LOSS, rel=ROUNDING[dtype])
    by_hand = np.concatenate([DW1.ravel(), DELTA1, DW2.ravel(), DELTA2])
    np.testing.assert_allclose(gradient, by_hand, **tolerance)

    assert net.train_step(X.astype(dtype), Y.astype(dtype)) == pytest.approx(loss, rel=1e-15)
    after = (W1 - 0.5 * DW1, B1 - 0.5 * DELTA1, W2 - 0.5 * DW2, B2 - 0.5 * DELTA2)
    for layer in range(2):
        np.testing.assert_allclose(net.weights[layer], after[2 * layer], **tolerance)
        np.testing.assert_allclose(net.biases[layer], after[2 * layer + 1], **tolerance)


def test_shape_of_the_first_weight():
    """W1^T x + b1 has m entries for x of n, so W1 is n x m."""
    net = Network(5, [Dense(3, "sigmoid"), Dense(2, "sigmoid")])
    assert [W.shape for W in net.weights] == [(5, 3), (3, 2)]
    assert [b.shape for b in net.biases] == [(3,), (2,)]


def test_which_output_error_agrees_with_finite_differences():
    """dL/db2 is delta2 itself: the differences are section 3.2's, and far from section 4.1's."""
    assert seed_loss(W1, B1, W2, B2) == pytest.approx(LOSS, rel=1e-15)
    differences = central_differences((W1, B1, W2, B2), which=3)
    np.testing.assert_allclose(differences, DELTA2, rtol=0, atol=1e-10)
    # delta2 of 4.1 lacks the factors yhat (1 - yhat), 0.16 and 0.25
    np.testing.assert_allclose(differences / DELTA2_OF_SECTION_4_1, [0.16, 0.25], rtol=1e-9)

    # The same of the weights, and of the layer below, which inherits the error.
    np.testing.assert_allclose(
        central_differences((W1, B1, W2, B2), which=2), np.outer(H, DELTA2), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        central_differences((W1, B1, W2, B2), which=0), np.outer(X, DELTA1), rtol=0, atol=1e-10
    )
    of_section_4_1 = (W2 @ DELTA2_OF_SECTION_4_1) * H * (1 - H)
    np.testing.assert_allclose(of_section_4_1 / DELTA1, 5, rtol=1e-14)  # by hand: 3.6 / 0.72

    # fastbp computes section 3.2's.
    _, gradient = sigmoid_network().loss_and_gradient(X[None], Y[None])
    np.testing.assert_allclose(gradient[-2:], DELTA2, rtol=1e-14)


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("identity", "squared_error"),
        ("sigmoid", "binary_cross_entropy"),
        ("softmax", "cross_entropy"),
    ],
)
def test_where_the_output_error_of_section_4_1_is_right(output, loss):
    """Behind a linear output, and for the cross entropies behind their own activations.

    There delta2 = yhat - y holds, by differences of the loss that fastbp evaluates. The three
    predictions are (ln 4 , 0), (4/5, 1/2) and, with 4 and 1 as exponentials, (4/5, 1/5).
    """
    y_hat = {"identity": [LN4, 0], "sigmoid": [0.8, 0.5], "softmax": [0.8, 0.2]}[output]
    net = Network(2, [Dense(2, "sigmoid"), Dense(2, output)], loss=loss, dtype="float64")
    net.parameters[...] = sigmoid_network().parameters
    y = np.array([0.3, 0.7])
    delta2 = np.array(y_hat) - y

    differences = []
    for unit in range(2):
        losses = []
        for sign in (1, -1):
            net.biases[1][unit] = B2[unit] + sign * 1e-5
            losses.append(net.evaluate(X[None], y[None]))
        net.biases[1][unit] = B2[unit]
        differences.append((losses[0] - losses[1]) / 2e-5)
    np.testing.assert_allclose(differences, delta2, rtol=0, atol=1e-9)

    _, gradient = net.loss_and_gradient(X[None], y[None])
    np.testing.assert_allclose(gradient[-2:], delta2, rtol=1e-13)
