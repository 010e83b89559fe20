"""Random networks of every kind of layer, with statistics, for what carries networks over."""

import numpy as np
from hypothesis import strategies as st

from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual
from fastbp.activations import ELU, LeakyReLU, Softplus

ACTIVATIONS = [
    "identity", "sigmoid", "hard_sigmoid", "tanh", "relu", "relu6", "leaky_relu", "elu", "selu",
    "softplus", "softsign", "exponential", "gelu", "gelu_tanh", "silu", "mish",
    LeakyReLU(0.3), ELU(0.7), Softplus(3.0), Softplus(49.0),
]
LAST = [*ACTIVATIONS, "softmax", "log_softmax"]
# One exponential after another leaves every dtype.
HIDDEN = [activation for activation in ACTIVATIONS if activation != "exponential"]
# Sums of two powers of two, so that float32 has them exactly; and large, as 1 / sqrt(epsilon) is
# by how much a layer norm of nearly equal inputs multiplies their rounding errors.
EPSILONS = [0.125, 0.0625]


@st.composite
def layers(draw, width, *, dropout, deep=2):
    """From one to three layers, and how wide the last one is."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        kinds = ["dense", "batch_norm", "layer_norm"]
        kinds += ["residual"] * (deep > 0)
        if dropout and made and not isinstance(made[-1], Dropout):
            kinds.append("dropout")
        kind = draw(st.sampled_from(kinds))
        activation = draw(st.sampled_from(HIDDEN))
        epsilon = draw(st.sampled_from(EPSILONS))
        trainable = draw(st.booleans())
        if kind == "dense":
            width = draw(st.integers(1, 9))
            made.append(Dense(width, activation, trainable=trainable))
        elif kind == "batch_norm":
            momentum = draw(st.sampled_from([0.1, 0.03, 1.0]))
            made.append(BatchNorm(
                activation, momentum=momentum, epsilon=epsilon, trainable=trainable))
        elif kind == "layer_norm":
            made.append(LayerNorm(activation, epsilon=epsilon, trainable=trainable))
        elif kind == "dropout":
            made.append(Dropout(0.3))
        else:
            inside, end = draw(layers(width, dropout=dropout, deep=deep - 1))
            if end != width:
                inside.append(Dense(width, draw(st.sampled_from(HIDDEN))))
            made.append(Residual(inside))
    return made, width


@st.composite
def networks(draw, dtype, *, dropout=False, last=tuple(LAST)):
    """A network with parameters and statistics that are not those of its start."""
    n_inputs = draw(st.integers(1, 9))
    stack, _ = draw(layers(n_inputs, dropout=dropout))
    if draw(st.booleans()):
        stack.insert(0, Normalize())
    units = draw(st.integers(1, 5))
    stack.append(Dense(units, draw(st.sampled_from(last))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    net = Network(n_inputs, stack, dtype=dtype, seed=0)
    for weight, bias in zip(net.weights, net.biases, strict=True):
        if weight.ndim == 1:
            weight += rng.normal(size=weight.shape) / 4
        else:
            weight[...] = rng.normal(size=weight.shape) / np.sqrt(len(weight))
        bias[...] = rng.normal(size=bias.shape) / 4
    for mean, spread in net.statistics:
        mean[...], spread[...] = rng.normal(size=mean.shape), 0.5 + rng.random(mean.shape)
    return net


def rows(net, n=20, seed=0):
    """Inputs for a network."""
    return np.random.default_rng(seed).normal(size=(n, net.n_inputs)).astype(net.dtype)


def same_bits(a, b):
    """Whether parameters and statistics of two networks have the same bits."""
    mine, others = ([net.parameters, *sum(net.statistics, ())] for net in (a, b))
    return len(mine) == len(others) and all(map(np.array_equal, mine, others))
