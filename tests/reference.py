"""A network plain enough to be checked by reading it: the oracle of the tests.

Written from the definitions and from nothing of fastbp: Z = A W + b, A = f(Z), losses that sum
over outputs and average over samples, gradients by the chain rule from the loss to the first
layer. There is one path for every pairing of activation and loss, no numerically stable form
and no formula that joins a loss with an activation, so nothing fastbp does in one piece is
repeated here. It is good for moderate logits (|Z| below about 7 in float64, where 1 - p still
has 13 digits); extreme logits are tested against closed forms instead.
"""

import dataclasses
import itertools

import numpy as np
from scipy import special, stats


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


def softplus(Z, beta=1.0):
    return np.log(1 + np.exp(beta * Z)) / beta


def log_softmax(Z):
    return Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))


def softmax(Z):
    exponentials = np.exp(Z)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


ACTIVATIONS = {
    "identity": lambda Z: Z,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda Z: np.maximum(Z, 0),
    "softmax": softmax,
    "log_softmax": log_softmax,
    "hard_sigmoid": lambda Z: np.clip(Z / 6 + 0.5, 0, 1),
    "relu6": lambda Z: np.clip(Z, 0, 6),
    "leaky_relu": lambda Z: np.where(Z > 0, Z, 0.01 * Z),
    "elu": lambda Z: np.where(Z > 0, Z, np.exp(Z) - 1),
    "selu": lambda Z: SELU_SCALE * np.where(Z > 0, Z, SELU_ALPHA * (np.exp(Z) - 1)),
    "softplus": softplus,
    "softsign": lambda Z: Z / (1 + np.abs(Z)),
    "exponential": np.exp,
    "gelu": lambda Z: Z * (1 + special.erf(Z / np.sqrt(2))) / 2,
    "gelu_tanh": lambda Z: Z * (1 + np.tanh(gelu_argument(Z))) / 2,
    "silu": lambda Z: Z * sigmoid(Z),
    "mish": lambda Z: Z * np.tanh(softplus(Z)),
    "LeakyReLU(alpha=0.3)": lambda Z: np.where(Z > 0, Z, 0.3 * Z),
    "ELU(alpha=0.5)": lambda Z: np.where(Z > 0, Z, 0.5 * (np.exp(Z) - 1)),
    "Softplus(beta=3.0)": lambda Z: softplus(Z, 3.0),
}
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def gelu_argument(Z):
    return np.sqrt(2 / np.pi) * (Z + 0.044715 * Z**3)


def gelu_tanh_derivative(Z):
    t = np.tanh(gelu_argument(Z))
    return (1 + t) / 2 + Z / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * Z**2)


def mish_derivative(Z):
    t = np.tanh(softplus(Z))
    return t + Z * (1 - t**2) * sigmoid(Z)


DERIVATIVES = {
    "identity": np.ones_like,
    "sigmoid": lambda Z: sigmoid(Z) * sigmoid(-Z),
    "tanh": lambda Z: 1 / np.cosh(Z) ** 2,
    "relu": lambda Z: (Z > 0).astype(Z.dtype),
    "hard_sigmoid": lambda Z: np.where(np.abs(Z) < 3, 1 / 6, 0.0),
    "relu6": lambda Z: ((Z > 0) & (Z < 6)).astype(Z.dtype),
    "leaky_relu": lambda Z: np.where(Z > 0, 1, 0.01),
    "elu": lambda Z: np.where(Z > 0, 1, np.exp(Z)),
    "selu": lambda Z: SELU_SCALE * np.where(Z > 0, 1, SELU_ALPHA * np.exp(Z)),
    "softplus": sigmoid,
    "softsign": lambda Z: 1 / (1 + np.abs(Z)) ** 2,
    "exponential": np.exp,
    "gelu": lambda Z: (1 + special.erf(Z / np.sqrt(2))) / 2 + Z * stats.norm.pdf(Z),
    "gelu_tanh": gelu_tanh_derivative,
    "silu": lambda Z: sigmoid(Z) * (1 + Z * (1 - sigmoid(Z))),
    "mish": mish_derivative,
    "LeakyReLU(alpha=0.3)": lambda Z: np.where(Z > 0, 1, 0.3),
    "ELU(alpha=0.5)": lambda Z: np.where(Z > 0, 1, 0.5 * np.exp(Z)),
    "Softplus(beta=3.0)": lambda Z: sigmoid(3.0 * Z),
}

# Behind these activations a loss is a function of the logits, and nothing is clipped.
PAIRS = {("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")}


def activation_backward(activation, Z, dA):
    """dL/dZ from dL/dA. Softmax mixes the outputs of a sample, so it takes its whole Jacobian."""
    if activation in ("softmax", "log_softmax"):
        A = softmax(Z)
        identity = np.eye(A.shape[1], dtype=A.dtype)
        jacobian = identity - A[:, None, :]  # dA_i / dZ_j for each sample
        if activation == "softmax":
            jacobian = A[:, :, None] * jacobian
        return np.einsum("ni,nij->nj", dA, jacobian)
    return dA * DERIVATIVES[activation](Z)


def clip(loss, predictions, eps):
    """The probabilities a loss takes the logarithm of."""
    if loss == "binary_cross_entropy":
        return np.clip(predictions, eps, 1 - eps)
    return np.maximum(predictions, eps)


def loss_value(loss, predictions, targets, eps):
    """Mean over samples of the sum over outputs. eps = 0 clips nothing."""
    n = len(predictions)
    if loss == "squared_error":
        return ((predictions - targets) ** 2).sum() / (2 * n)
    p = clip(loss, predictions, eps)
    if loss == "binary_cross_entropy":
        return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum() / n
    return -(targets * np.log(p)).sum() / n


def loss_derivative(loss, predictions, targets, eps):
    """dL/dpredictions: the derivative at the clipped probability, and zero where clip is flat."""
    n = len(predictions)
    if loss == "squared_error":
        return (predictions - targets) / n
    p = clip(loss, predictions, eps)
    inside = p == predictions
    if loss == "binary_cross_entropy":
        return inside * ((1 - targets) / (1 - p) - targets / p) / n
    return inside * (-targets / p) / n


def dense_targets(y, n_outputs, dtype=np.float64):
    """Targets as an (n, n_outputs) array: labels become rows of 0 and 1, 1-D y one column."""
    y = np.asarray(y)
    if y.ndim == 2:
        return y.astype(dtype)
    if np.issubdtype(y.dtype, np.integer):
        return np.eye(n_outputs, dtype=dtype)[y]
    return y.astype(dtype)[:, None]


@dataclasses.dataclass
class ReferenceNetwork:
    """Layers as lists: weights[l] (n_in, n_out), biases[l] (n_out,), activations[l] a name.

    It computes in the dtype of its parameters. Losses clip at `eps`.
    Integer targets are class labels, so give other targets as floating point.
    """

    weights: list
    biases: list
    activations: list
    loss: str
    eps: float = float(np.finfo(np.float64).eps)

    @classmethod
    def from_flat(cls, parameters, widths, activations, loss):
        """Layers cut from the flat vector W0 (row by row), b0, W1, b1, ..."""
        weights, biases, start = [], [], 0
        parameters = np.array(parameters)
        for n_in, n_out in itertools.pairwise(widths):
            weights.append(parameters[start : start + n_in * n_out].reshape(n_in, n_out))
            start += n_in * n_out
            biases.append(parameters[start : start + n_out])
            start += n_out
        assert start == parameters.size
        eps = float(np.finfo(parameters.dtype).eps)
        return cls(weights, biases, list(activations), loss, eps)

    @property
    def widths(self):
        return [len(self.weights[0])] + [len(bias) for bias in self.biases]

    @property
    def flat(self):
        """A copy of the parameters as one vector."""
        pairs = zip(self.weights, self.biases, strict=True)
        return np.concatenate([np.concatenate([W.ravel(), b]) for W, b in pairs])

    def with_flat(self, parameters):
        """The same network with other parameters, and the same eps."""
        other = self.from_flat(parameters, self.widths, self.activations, self.loss)
        return dataclasses.replace(other, eps=self.eps)

    def astype(self, dtype):
        """The network computed in `dtype`."""
        return self.from_flat(self.flat.astype(dtype), self.widths, self.activations, self.loss)

    def rounded(self, dtype):
        """Parameters and eps as `dtype` has them, computed in float64 all the same."""
        cast = self.astype(dtype)
        return dataclasses.replace(cast.with_flat(cast.flat.astype(np.float64)), eps=cast.eps)

    def forward(self, X):
        """Logits of every layer, and activations from the input on."""
        logits, activations = [], [np.asarray(X, dtype=self.weights[0].dtype)]
        for W, b, activation in zip(self.weights, self.biases, self.activations, strict=True):
            logits.append(activations[-1] @ W + b)
            activations.append(ACTIVATIONS[activation](logits[-1]))
        return logits, activations

    def predict(self, X):
        return self.forward(X)[1][-1]

    def _clip_eps(self):
        return 0 if (self.activations[-1], self.loss) in PAIRS else self.eps

    def loss_value(self, X, y):
        predictions = self.predict(X)
        targets = dense_targets(y, predictions.shape[1], predictions.dtype)
        return float(loss_value(self.loss, predictions, targets, self._clip_eps()))

    def gradient(self, X, y):
        """Flat gradient, in the order of `flat`."""
        logits, activations = self.forward(X)
        targets = dense_targets(y, activations[-1].shape[1], activations[-1].dtype)
        dA = loss_derivative(self.loss, activations[-1], targets, self._clip_eps())
        pieces = []
        for layer in reversed(range(len(self.weights))):
            D = activation_backward(self.activations[layer], logits[layer], dA)  # dL/dZ
            dW = activations[layer].T @ D
            db = D.sum(axis=0)
            dA = D @ self.weights[layer].T
            pieces = [dW.ravel(), db, *pieces]
        return np.concatenate(pieces)

    def sgd_step(self, X, y, learning_rate):
        """One step of gradient descent. Returns the network after it and the loss before it."""
        after = self.with_flat(self.flat - learning_rate * self.gradient(X, y))
        return after, self.loss_value(X, y)

    def epoch(self, X, y, learning_rate, permutation, batch_size):
        """Steps over batches in the order of `permutation`, the last one perhaps smaller.

        Returns the network after the epoch and the mean over samples of their loss, each taken
        before the step that used the sample.
        """
        network, total = self, 0.0
        for start in range(0, len(permutation), batch_size):
            rows = permutation[start : start + batch_size]
            network, loss = network.sgd_step(X[rows], y[rows], learning_rate)
            total += loss * len(rows)
        return network, total / len(permutation)


def reference_of(net):
    """The reference of a network of Dense layers, whatever drops in between, as it is now."""
    dense = [layer for layer in net.layers if hasattr(layer, "units")]
    return ReferenceNetwork.from_flat(
        net.parameters, [net.n_inputs, *(layer.units for layer in dense)],
        [layer.activation for layer in dense], net.loss.name,
    )


# --- layers of every kind -------------------------------------------------------------------


@dataclasses.dataclass
class Passed:
    """What a way through the layers has found."""

    outputs: np.ndarray
    statistics: list  # as they are afterwards
    penalty: complex  # of the weights that are trained
    trained: np.ndarray  # for each parameter, whether it is


@dataclasses.dataclass
class LayeredReference:
    """A network of any layers, as they are defined; its gradient knows no formula of its own.

    Whatever is computed here is an analytic function of the parameters, so a step along the
    imaginary axis has the derivative in its imaginary part without any cancellation (Squire and
    Trapp 1998): to the last digits, from the way forward alone. `parameters` is flat, in the order
    in which the layers are met; `statistics` has the pair of each layer that has one.
    """

    layers: tuple
    loss: str
    parameters: np.ndarray
    statistics: list

    def forward(self, X, parameters=None, mask=None, training=False):
        """`mask(record, width, rate)` is what Dropout multiplies by; without one it does nothing.

        Records are counted as the engine does: layers but for Dropout, a Residual after what is
        in it.
        """
        theta = self.parameters if parameters is None else parameters
        statistics, after, trained = iter(self.statistics), [], np.zeros(len(theta), bool)
        at, records, penalty = 0, 0, 0.0

        def take(layer, *shape):
            nonlocal at
            start, at = at, at + int(np.prod(shape))
            trained[start:at] = layer.trainable
            return theta[start:at].reshape(shape)

        def through(layers, A):
            nonlocal records, penalty
            for layer in layers:
                kind = type(layer).__name__
                if kind == "Dropout":
                    A = A * mask(records - 1, A.shape[1], layer.rate) if mask else A
                    continue
                if kind == "Dense":
                    W, b = take(layer, A.shape[1], layer.units), take(layer, layer.units)
                    Z = A @ W + b
                    size = np.where(np.real(W) < 0, -W, W)
                    penalty += layer.trainable * (layer.l1 * size + layer.l2 / 2 * W**2).sum()
                elif kind == "Residual":
                    Z = A + through(layer.layers, A)
                elif kind == "Normalize":
                    mean, deviation = next(statistics)
                    after.append((mean, deviation))
                    Z = (A - mean) / deviation
                else:
                    gain, shift = take(layer, A.shape[1]), take(layer, A.shape[1])
                    if kind == "LayerNorm":
                        mean = A.mean(axis=1, keepdims=True)
                        variance = ((A - mean) ** 2).mean(axis=1, keepdims=True)
                    else:
                        pair = mean, variance = next(statistics)
                        if training and layer.trainable and len(A) > 1:
                            mean = A.mean(axis=0)
                            variance = ((A - mean) ** 2).mean(axis=0)
                            population = variance * len(A) / (len(A) - 1)
                            pair = tuple(
                                old + layer.momentum * (np.real(new) - old)
                                for old, new in zip(pair, (mean, population), strict=True)
                            )
                        after.append(pair)
                    Z = gain * (A - mean) / np.sqrt(variance + layer.epsilon) + shift
                A = ACTIVATIONS[getattr(layer, "activation", "identity")](Z)
                records += 1
            return A

        outputs = through(self.layers, X)
        assert at == len(theta)
        return Passed(outputs, after, penalty, trained)

    def objective(self, X, y, weights, parameters=None, masks=None, training=False):
        """The mean loss, penalties left out; the penalty; statistics afterwards; what is trained.

        In training, batches of more than 1024 rows go through in equal parts. `masks` is `mask` of
        `forward` for a whole batch.
        """
        n_parts = -(-len(X) // 1024) if training else 1
        size, total, now = -(-len(X) // n_parts), 0.0, self
        for start in range(0, len(X), size):
            rows = slice(start, start + size)
            mask = masks and (lambda *record, rows=rows: masks(*record)[rows])
            passed = now.forward(X[rows], parameters, mask, training)
            now = dataclasses.replace(now, statistics=passed.statistics)
            p, target = passed.outputs, y[rows]
            if self.loss == "squared_error":
                losses = ((p - target) ** 2).sum(axis=1) / 2
            else:
                losses = -(target * np.log(p)).sum(axis=1)
            total += (weights[rows] * losses).sum() / len(X)
        return total, passed.penalty, passed.statistics, passed.trained

    def gradient(self, X, y, weights, masks=None, training=False):
        """Of loss and penalty by all parameters that are trained, and 0 by the others."""
        step = 1e-30
        *_, trained = self.objective(X, y, weights)
        gradient = np.zeros(len(trained))
        for k in np.flatnonzero(trained):
            theta = self.parameters.astype(complex)
            theta[k] += step * 1j
            loss, penalty, *_ = self.objective(X, y, weights, theta, masks, training)
            gradient[k] = (loss + penalty).imag / step
        return gradient


def layered_reference_of(net):
    """The reference of a network of any layers, as it is now, in float64."""
    return LayeredReference(
        net.layers, net.loss.name, net.parameters.astype(float),
        [tuple(vector.astype(float) for vector in pair) for pair in net.statistics],
    )


# --- dropout

MASK = (1 << 64) - 1


def mixed(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def kept(key, step, layer, rows, width, rate):
    """The mask, already divided by what is kept, by the hash that is documented in the engine."""
    key = mixed((mixed((mixed(key) + step) & MASK) + layer + 1) & MASK)
    x = np.arange(rows * width, dtype=np.uint32)
    with np.errstate(over="ignore"):
        x = x * np.uint32(0x9E3779B9) + np.uint32(key & 0xFFFFFFFF)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        x = (x ^ (x >> np.uint32(16))) + np.uint32(key >> 32)
    return np.where(x >= int(rate * 2**32), 1 / (1 - rate), 0).reshape(rows, width)
