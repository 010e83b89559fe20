"""Refused calls: the type of the exception, what it says, and that nothing changed.

The oracle of "nothing changed" is a twin network that never saw the refused call: after the
refusal, fitting both must give the same bits, so parameters and random state are both as before.
"""

import dataclasses
import re

import numpy as np
import pytest

from fastbp import SGD, Dense, Network
from fastbp.callbacks import Callback

ACTIVATIONS = ("identity", "sigmoid", "tanh", "relu", "softmax")
LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy")
INITS = ("auto", "he_normal", "he_uniform", "glorot_normal", "glorot_uniform")

LAST_ACTIVATION = {
    "squared_error": "identity",
    "binary_cross_entropy": "sigmoid",
    "cross_entropy": "softmax",
}
X = np.arange(15, dtype=np.float32).reshape(5, 3) / 8 - 1
TARGETS = {
    "squared_error": np.arange(10, dtype=np.float32).reshape(5, 2) / 4,
    "binary_cross_entropy": np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1]],
    "cross_entropy": np.array([0, 1, 1, 0, 1]),
}

TAKES_X_AND_Y = {
    "fit": lambda network, X, y: network.fit(X, y),
    "evaluate": lambda network, X, y: network.evaluate(X, y),
    "train_step": lambda network, X, y: network.train_step(X, y),
    "loss_and_gradient": lambda network, X, y: network.loss_and_gradient(X, y),
    "check_gradient": lambda network, X, y: network.check_gradient(X, y),
    "validation_data": lambda network, *pair: network.fit(
        X, TARGETS[loss_name(network)], validation_data=pair
    ),
}
TAKES_X = TAKES_X_AND_Y | {"predict": lambda network, X, y: network.predict(X)}


def loss_name(network):
    """The name of the loss of one of this file's networks, told by its last activation."""
    last = network.layers[-1].activation
    return next(name for name, activation in LAST_ACTIVATION.items() if activation == last)


def make_network(loss="squared_error"):
    """A network of 3 inputs and 2 outputs; the same bits every time."""
    layers = [Dense(4, "tanh"), Dense(2, LAST_ACTIVATION[loss])]
    return Network(3, layers, loss=loss, optimizer=SGD(0.1), seed=7)


def with_value(array, value):
    """A float64 copy of `array` whose last element is `value`."""
    changed = np.array(array, dtype=np.float64)
    changed.flat[-1] = value
    return changed


def check_message(caught, exception, *patterns):
    """The exception is of exactly the promised type, and its message matches every pattern."""
    assert caught.type is exception
    for pattern in patterns:
        assert re.search(pattern, str(caught.value)), f"no {pattern!r} in: {caught.value}"


def check_refused(call, exception, *patterns, loss="squared_error"):
    """`call(network)` raises as promised and leaves parameters, random state and data alone."""
    network, twin = make_network(loss), make_network(loss)
    y = TARGETS[loss]
    parameters, optimizer = network.parameters.tobytes(), network.optimizer
    data = X.tobytes(), y.tobytes()
    with pytest.raises(exception) as caught:
        call(network)
    check_message(caught, exception, *patterns)
    assert network.parameters.tobytes() == parameters
    assert network.optimizer is optimizer
    assert (X.tobytes(), y.tobytes()) == data
    for one in (network, twin):
        one.fit(X, y, epochs=2, batch_size=2)
    assert network.parameters.tobytes() == twin.parameters.tobytes()


# Per case: the value, the exception, what the message says of the value, and what is accepted.

ARRAYS_OF_WRONG_KIND = {
    "objects": (X.astype(object), TypeError, "object", "number|numeric|real"),
    "complex": (X.astype(np.complex64), TypeError, "complex64", "number|numeric|real"),
    "strings": (X.astype(str), TypeError, "<U|str", "number|numeric|real"),
    "bytes": (X.astype(bytes), TypeError, r"\|S|bytes", "number|numeric|real"),
    "dates": (np.zeros((5, 3), "M8[s]"), TypeError, "datetime64", "number|numeric|real"),
    "records": (np.zeros((5, 3), "f4,f4"), TypeError, "void|f4", "number|numeric|real"),
    "None": (None, TypeError, "None|object", "number|numeric|real"),
    "a string": ("0.5", TypeError, "<U|str", "number|numeric|real"),
    "a dictionary": ({"a": 1.0}, TypeError, "dict|object", "number|numeric|real"),
    "a generator": (iter([[1.0, 2.0, 3.0]]), TypeError, "iterator|object", "number|numeric|real"),
    "whole numbers past 64 bits": ([[10**30] * 3] * 5, TypeError, "object", "number|numeric|real"),
}

BAD_X = ARRAYS_OF_WRONG_KIND | {
    "too few features": (X[:, :2], ValueError, r"\b2\b", r"\b3\b"),
    "too many features": (np.ones((5, 4)), ValueError, r"\b4\b", r"\b3\b"),
    "no features": (np.ones((5, 0)), ValueError, r"\b0\b", r"\b3\b"),
    "a row of another length": (np.ones(4), ValueError, r"\b4\b", r"\b3\b"),
    "no rows": (np.ones((0, 3)), ValueError, r"\(0, 3\)|\b0 rows|empty", "at least one|1 or more"),
    "an empty list": ([], ValueError, r"\(0,\)|empty|\b0\b", r"\b3\b|at least one"),
    "0-d": (np.float32(1), ValueError, r"0-d|\(\)", r"2-d|\(n, 3\)"),
    "3-d": (X[:, :, None], ValueError, r"3-d|\(5, 3, 1\)", r"2-d|\(n, 3\)"),
    "ragged lists": ([[1, 2, 3], [4, 5]], ValueError, "inhomogeneous|ragged|length", ""),
    "NaN": (with_value(X, np.nan), ValueError, "(?i)nan", "finite"),
    "infinity": (with_value(X, np.inf), ValueError, "inf", "finite"),
    "minus infinity": (with_value(X, -np.inf), ValueError, "inf", "finite"),
    # Finite as given, infinite in the float32 this network computes in.
    "past float32": (with_value(X, 1e300), ValueError, r"1e\+?300|inf|float32", "finite"),
    "past float32, a list": (
        with_value(X, -1e39).tolist(),
        ValueError,
        r"1e\+?39|inf|float32",
        "finite",
    ),
}

BAD_Y = {
    "0-d": (np.float32(1), ValueError, r"0-d|\(\)", r"\b5\b|1-d|2-d"),
    "3-d": (np.ones((5, 2, 1)), ValueError, r"3-d|\(5, 2, 1\)", r"\b2\b|2-d"),
    "empty": (np.ones((0, 2)), ValueError, r"\b0\b", r"\b5\b"),
} | ARRAYS_OF_WRONG_KIND

BAD_SQUARED_ERROR_TARGETS = BAD_Y | {
    "shorter than X": (np.ones((4, 2)), ValueError, r"\b4\b", r"\b5\b"),
    "longer than X": (np.ones((6, 2)), ValueError, r"\b6\b", r"\b5\b"),
    "too few columns": (np.ones((5, 1)), ValueError, r"\b1\b", r"\b2\b"),
    "too many columns": (np.ones((5, 3)), ValueError, r"\b3\b", r"\b2\b"),
    "1-d for two outputs": (np.ones(5), ValueError, r"\(5,\)|1-d", r"\(5, 2\)|\b2\b"),
    "transposed": (np.ones((2, 5)), ValueError, r"\(2, 5\)|\b2\b", r"\(5, 2\)|\b5\b"),
    "NaN": (with_value(np.ones((5, 2)), np.nan), ValueError, "(?i)nan", "finite"),
    "infinity": (with_value(np.ones((5, 2)), np.inf), ValueError, "inf", "finite"),
    "past float32": (
        with_value(np.ones((5, 2)), 1e300),
        ValueError,
        r"1e\+?300|inf|float32",
        "finite",
    ),
}

PROBABILITIES = TARGETS["binary_cross_entropy"]
BAD_BINARY_TARGETS = BAD_Y | {
    "shorter than X": (PROBABILITIES[:4], ValueError, r"\b4\b", r"\b5\b"),
    "too many columns": (np.ones((5, 3)), ValueError, r"\b3\b", r"\b2\b"),
    "above one": (with_value(PROBABILITIES, 1.5), ValueError, r"1\.5", r"0.*1"),
    "below zero": (with_value(PROBABILITIES, -0.25), ValueError, r"-0\.25", r"0.*1"),
    "NaN": (with_value(PROBABILITIES, np.nan), ValueError, "(?i)nan", "finite"),
    "infinity": (with_value(PROBABILITIES, np.inf), ValueError, "inf", "finite"),
}

LABELS = TARGETS["cross_entropy"]
BAD_CROSS_ENTROPY_TARGETS = BAD_Y | {
    "fewer labels than X": (LABELS[:4], ValueError, r"\b4\b", r"\b5\b"),
    "more labels than X": (np.repeat(LABELS, 2), ValueError, r"\b10\b", r"\b5\b"),
    "label past the last": (np.array([0, 1, 2, 0, 1]), ValueError, r"\b2\b", r"\b0\b.*\b1\b"),
    "negative label": (np.array([0, 1, -1, 0, 1]), ValueError, r"-1", r"\b0\b.*\b1\b"),
    "label past int64": (
        np.array([0, 1, 2**63, 0, 1], dtype=np.uint64),
        ValueError,
        "9223372036854775808",
        r"\b0\b.*\b1\b",
    ),
    "label that wraps to 0 in 32 bits": (
        np.array([0, 1, 2**32, 0, 1]),
        ValueError,
        "4294967296",
        r"\b0\b.*\b1\b",
    ),
    "label not whole": (np.array([0, 1, 0.5, 0, 1]), ValueError, r"0\.5", "whole|integer"),
    "label NaN": (np.array([0, 1, np.nan, 0, 1]), ValueError, "(?i)nan", "finite|whole|integer"),
    "label infinite": (np.array([0, 1, np.inf, 0, 1]), ValueError, "inf", "finite|whole|integer"),
    "labels in a column": (LABELS[:, None], ValueError, r"\(5, 1\)|\b1\b", r"\(5, 2\)|\b2\b"),
    "too many probabilities": (np.eye(3)[[0] * 5], ValueError, r"\b3\b", r"\b2\b"),
    "probabilities above one in sum": (
        with_value(PROBABILITIES, 1.25),
        ValueError,
        r"1\.25",
        "sum.*1",
    ),
    "probabilities below one in sum": (np.full((5, 2), 0.25), ValueError, r"0\.5", "sum.*1"),
    "negative probability": (
        np.array([[0.5, 0.5]] * 4 + [[-0.5, 1.5]]),
        ValueError,
        r"-0\.5",
        r"\b0\b",
    ),
    "probability NaN": (with_value(PROBABILITIES, np.nan), ValueError, "(?i)nan", "finite"),
}

BAD_TARGETS = [
    pytest.param(loss, case, id=f"{loss}-{name}")
    for loss, cases in zip(
        LOSSES,
        (BAD_SQUARED_ERROR_TARGETS, BAD_BINARY_TARGETS, BAD_CROSS_ENTROPY_TARGETS),
        strict=True,
    )
    for name, case in cases.items()
]


def named(argument, method):
    """The pattern an argument's name is found by in the messages of a method."""
    return "validation_data" if method == "validation_data" else rf"\b{argument}\b"


@pytest.mark.parametrize("method", TAKES_X)
@pytest.mark.parametrize("case", BAD_X.values(), ids=BAD_X)
def test_bad_X(method, case):
    bad, exception, given, accepted = case
    check_refused(
        lambda network: TAKES_X[method](network, bad, TARGETS["squared_error"]),
        exception,
        named("X", method),
        given,
        accepted,
    )


@pytest.mark.parametrize("method", TAKES_X_AND_Y)
@pytest.mark.parametrize(("loss", "case"), BAD_TARGETS)
def test_bad_y(method, loss, case):
    bad, exception, given, accepted = case
    check_refused(
        lambda network: TAKES_X_AND_Y[method](network, X, bad),
        exception,
        named("y", method),
        given,
        accepted,
        loss=loss,
    )


BAD_ROW_TARGETS = {
    "label past the last": ("cross_entropy", 2, ValueError, r"\b2\b", r"\b0\b.*\b1\b"),
    "negative label": ("cross_entropy", -1, ValueError, "-1", r"\b0\b.*\b1\b"),
    "label not whole": ("cross_entropy", 0.5, ValueError, r"0\.5", "whole|integer"),
    "label None": ("cross_entropy", None, TypeError, "None|object", "number|numeric|real"),
    "label a string": ("cross_entropy", "1", TypeError, "<U|str", "number|numeric|real"),
    "three probabilities": ("cross_entropy", [0.5, 0.25, 0.25], ValueError, r"\b3\b", r"\b2\b"),
    "sum of probabilities": ("cross_entropy", [0.5, 0.25], ValueError, r"0\.75", "sum.*1"),
    "scalar for two outputs": ("squared_error", 1.0, ValueError, r"0-d|\(\)|scalar", r"\b2\b"),
    "three targets": ("squared_error", [1.0, 2.0, 3.0], ValueError, r"\b3\b", r"\b2\b"),
    "NaN": ("squared_error", [1.0, np.nan], ValueError, "(?i)nan", "finite"),
    "past float32": ("squared_error", [1.0, 1e300], ValueError, r"1e\+?300|inf|float32", "finite"),
    "above one": ("binary_cross_entropy", [1.0, 1.5], ValueError, r"1\.5", r"0.*1"),
}


@pytest.mark.parametrize("case", BAD_ROW_TARGETS.values(), ids=BAD_ROW_TARGETS)
def test_bad_y_of_one_row(case):
    loss, bad, exception, given, accepted = case
    check_refused(
        lambda network: network.train_step(X[0], bad),
        exception,
        r"\by\b",
        given,
        accepted,
        loss=loss,
    )


BAD_ROWS = {
    "too long": (np.ones(4), ValueError, r"\b4\b", r"\b3\b"),
    "NaN": ([0.0, np.nan, 0.0], ValueError, "(?i)nan", "finite"),
    "past float32": ([0.0, 1e300, 0.0], ValueError, r"1e\+?300|inf|float32", "finite"),
    "objects": (np.array([0, 1, 2], dtype=object), TypeError, "object", "number|numeric|real"),
    "complex": ([0.0, 1j, 2.0], TypeError, "complex128", "number|numeric|real"),
}


@pytest.mark.parametrize("case", BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("method", ["predict", "train_step"])
def test_bad_X_of_one_row(method, case):
    bad, exception, given, accepted = case
    check_refused(
        lambda network: TAKES_X[method](network, bad, TARGETS["squared_error"][0]),
        exception,
        r"\bX\b",
        given,
        accepted,
    )


@pytest.mark.parametrize("method", ["fit", "evaluate", "loss_and_gradient", "check_gradient"])
def test_row_for_a_network_of_one_input(method):
    # Five samples of one feature come as (5, 1); a plain (5,) could be either and is refused.
    network = Network(1, [Dense(1)], seed=0)
    with pytest.raises(ValueError) as caught:
        TAKES_X[method](network, np.ones(5), np.ones(5))
    check_message(caught, ValueError, r"\bX\b", r"\(5,\)|\b5\b", r"\b1\b")


def read_only(array):
    array.flags.writeable = False
    return array


OTHER_ORDER = np.dtype("f4").newbyteorder()
BAD_OUT = {
    "too few rows": (np.ones((4, 2), "f4"), ValueError, r"\(4, 2\)", r"\(5, 2\)"),
    "too many columns": (np.ones((5, 3), "f4"), ValueError, r"\(5, 3\)", r"\(5, 2\)"),
    "transposed": (np.ones((2, 5), "f4"), ValueError, r"\(2, 5\)", r"\(5, 2\)"),
    "flat": (np.ones(10, "f4"), ValueError, r"\(10,\)", r"\(5, 2\)"),
    "3-d": (np.ones((5, 2, 1), "f4"), ValueError, r"\(5, 2, 1\)", r"\(5, 2\)"),
    "float64": (np.ones((5, 2)), TypeError, "float64|<f8", "float32"),
    "integers": (np.ones((5, 2), "i4"), TypeError, "int32|<i4", "float32"),
    "objects": (np.ones((5, 2), object), TypeError, r"object|\|O", "float32"),
    "byte-swapped": (np.ones((5, 2), OTHER_ORDER), TypeError, OTHER_ORDER.str, "float32"),
    "a list": ([[0.0, 0.0]] * 5, TypeError, "list", "ndarray"),
    "memory": (memoryview(np.ones((5, 2), "f4")), TypeError, "memoryview", "ndarray"),
    "read-only": (read_only(np.ones((5, 2), "f4")), ValueError, "read-only", "writ"),
}


@pytest.mark.parametrize("case", BAD_OUT.values(), ids=BAD_OUT)
def test_bad_out(case):
    bad, exception, given, accepted = case
    before = np.asarray(bad).tobytes()
    check_refused(
        lambda network: network.predict(X, out=bad), exception, r"\bout\b", given, accepted
    )
    assert np.asarray(bad).tobytes() == before


def test_bad_out_for_one_row():
    for bad in (np.ones((1, 2), "f4"), np.ones(3, "f4"), np.ones((), "f4")):
        before = bad.tobytes()
        check_refused(
            lambda network, bad=bad: network.predict(X[0], out=bad),
            ValueError,
            r"\bout\b",
            re.escape(str(bad.shape)),
            r"\(2,\)",
        )
        assert bad.tobytes() == before


@pytest.mark.parametrize("method_input", BAD_X.values(), ids=BAD_X)
def test_out_is_not_written_when_X_is_refused(method_input):
    bad, exception, *_ = method_input
    out = np.full((5, 2), 3, "f4")
    with pytest.raises(exception):
        make_network().predict(bad, out=out)
    assert (out == 3).all()


def test_out_overlapping_the_input():
    buffer = np.linspace(-1, 1, 40, dtype=np.float32)
    overlaps = {
        "the end of X": (buffer[:15].reshape(5, 3), buffer[14:24].reshape(5, 2)),
        "the start of X": (buffer[9:24].reshape(5, 3), buffer[:10].reshape(5, 2)),
        "X reversed": (buffer[14::-1].reshape(5, 3), buffer[:10].reshape(5, 2)),
        "a view of X": (buffer[:15].reshape(5, 3), buffer[:15].reshape(5, 3)[:, 1:]),
        "one row": (buffer[:3], buffer[2:4]),
        "what X converts from": (memoryview(buffer[:15].reshape(5, 3)), buffer[:10].reshape(5, 2)),
    }
    before = buffer.tobytes()
    for name, (overlapped, out) in overlaps.items():
        check_refused(
            lambda network, X=overlapped, out=out: network.predict(X, out=out),
            ValueError,
            r"\bout\b",
            "overlap|memory",
            "X|input",
        )
        assert buffer.tobytes() == before, name


def test_out_that_is_the_input():
    network = Network(2, [Dense(2)], seed=0)
    square = np.ones((5, 2), np.float32)
    with pytest.raises(ValueError, match=r"\bout\b.*(overlap|memory)"):
        network.predict(square, out=square)
    assert (square == 1).all()


def test_out_overlapping_the_parameters():
    # Predictions written there would change the network that predicts.
    def predict_into_parameters(network):
        network.predict(X, out=network.parameters[:10].reshape(5, 2))

    check_refused(predict_into_parameters, ValueError, r"\bout\b", "overlap|memory", "parameters")


BAD_FIT_SETTINGS = [
    ("batch_size", 0, ValueError, r"\b0\b", "None"),
    ("batch_size", -3, ValueError, "-3", "None"),
    ("batch_size", 2.5, TypeError, r"2\.5|float", "int|None"),
    ("batch_size", "32", TypeError, "'32'|str", "int|None"),
    ("epochs", 0, ValueError, r"\b0\b", "positive|at least 1|from 1"),
    ("epochs", -1, ValueError, "-1", "positive|at least 1|from 1"),
    ("epochs", 1.5, TypeError, r"1\.5|float", "int"),
    ("epochs", None, TypeError, "None", "int"),
    ("epochs", "10", TypeError, "'10'|str", "int"),
    ("validation_data", 3, TypeError, "int|3", r"\(X, y\)|pair"),
    ("validation_data", (X,), ValueError, r"\b1\b", r"\(X, y\)|pair"),
    ("validation_data", (X, X, X, X), ValueError, r"\b4\b", r"\(X, y\)|pair"),
    ("callbacks", 3, TypeError, "3|int", "Callback"),
    ("callbacks", [Callback(), "stop"], TypeError, "'stop'|str", "Callback"),
    ("callbacks", [Callback], TypeError, "class|type", "Callback"),
    ("tol", -0.5, ValueError, r"-0\.5", "None"),
    ("tol", float("nan"), ValueError, "nan", "None"),
    ("tol", "small", TypeError, "'small'|str", "None|number"),
]


@pytest.mark.parametrize(("argument", "bad", "exception", "given", "accepted"), BAD_FIT_SETTINGS)
def test_bad_fit_settings(argument, bad, exception, given, accepted):
    check_refused(
        lambda network: network.fit(X, TARGETS["squared_error"], **{argument: bad}),
        exception,
        rf"\b{argument}\b",
        given,
        accepted,
    )


@pytest.mark.parametrize(
    ("bad", "exception", "given"),
    [
        (0, ValueError, r"\b0\b"),
        (-1, ValueError, "-1"),
        (1.5, TypeError, r"1\.5|float"),
        ("3", TypeError, "'3'|str"),
    ],
)
def test_bad_n_checks(bad, exception, given):
    check_refused(
        lambda network: network.check_gradient(X, TARGETS["squared_error"], n_checks=bad),
        exception,
        r"\bn_checks\b",
        given,
        "positive|at least 1|from 1",
    )


def test_refused_fit_calls_no_callback():
    class Refused(Callback):
        def on_train_begin(self, network, epochs):
            raise AssertionError("the callback heard of a refused call")

        on_epoch_end = on_train_end = on_train_begin

    y = TARGETS["squared_error"]
    with pytest.raises(ValueError):
        make_network().fit(X, y, callbacks=[Refused()], validation_data=(X[:, :2], y))


def valid_network(**changed):
    arguments = {"n_inputs": 3, "layers": [Dense(2)], "seed": 0} | changed
    return Network(**arguments)


BAD_NETWORKS = [
    ("n_inputs", 0, ValueError, r"\b0\b", "positive|at least 1|from 1"),
    ("n_inputs", -4, ValueError, "-4", "positive|at least 1|from 1"),
    ("n_inputs", 2.5, TypeError, r"2\.5|float", "int"),
    ("n_inputs", "64", TypeError, "'64'|str", "int"),
    ("n_inputs", None, TypeError, "None", "int"),
    ("layers", [], ValueError, r"empty|\[\]|\b0\b|none", "at least one|Dense"),
    ("layers", [Dense(2), 3], TypeError, r"\b3\b|int", "Dense"),
    ("layers", [Dense], TypeError, "Dense|type", "Dense"),
    ("layers", 10, TypeError, "10|int", "Dense"),
    ("layers", None, TypeError, "None", "Dense"),
    ("loss", "mse", ValueError, "mse", ".*".join(sorted(LOSSES)) + "|" + ".*".join(LOSSES)),
    ("loss", 3, TypeError, "3|int", "squared_error|SquaredError"),
    ("loss", None, TypeError, "None", "squared_error|SquaredError"),
    ("optimizer", "adamm", ValueError, "adamm", "sgd"),
    ("optimizer", 0.1, TypeError, r"0\.1|float", "sgd|SGD"),
    ("optimizer", SGD, TypeError, "SGD|type", "sgd|SGD"),
    ("dtype", "float16", ValueError, "float16", "float32.*float64"),
    ("dtype", "int32", ValueError, "int32", "float32.*float64"),
    ("dtype", "real", ValueError, "real", "float32.*float64"),
    ("dtype", np.complex64, ValueError, "complex64", "float32.*float64"),
    ("seed", -1, ValueError, "-1", "None|int"),
    ("seed", "zero", TypeError, "'zero'|str", "None|int"),
]


@pytest.mark.parametrize(("argument", "bad", "exception", "given", "accepted"), BAD_NETWORKS)
def test_bad_network(argument, bad, exception, given, accepted):
    with pytest.raises((ValueError, TypeError)) as caught:
        valid_network(**{argument: bad})
    check_message(caught, exception, rf"\b{argument}\b", given, accepted)


def test_softmax_before_the_last_layer():
    with pytest.raises(ValueError) as caught:
        Network(3, [Dense(4, "softmax"), Dense(2)])
    check_message(caught, ValueError, r"\bactivation\b|\blayers\b", "softmax", "last")


BAD_LAYERS = [
    ("units", 0, ValueError, r"\b0\b", "positive|at least 1|from 1"),
    ("units", -2, ValueError, "-2", "positive|at least 1|from 1"),
    ("units", 2.5, TypeError, r"2\.5|float", "int"),
    ("units", "8", TypeError, "'8'|str", "int"),
    ("units", None, TypeError, "None", "int"),
    ("activation", "rellu", ValueError, "rellu", None),
    ("activation", 3, TypeError, "3|int", "relu"),
    ("activation", None, TypeError, "None", "identity"),
    ("init", "xavier", ValueError, "xavier", None),
    ("init", 3, TypeError, "3|int", "callable|glorot_uniform"),
    ("init", None, TypeError, "None", "callable|glorot_uniform"),
]


@pytest.mark.parametrize(("argument", "bad", "exception", "given", "accepted"), BAD_LAYERS)
def test_bad_layer(argument, bad, exception, given, accepted):
    with pytest.raises((ValueError, TypeError)) as caught:
        Dense(**({"units": 2} | {argument: bad}))
    check_message(caught, exception, rf"\b{argument}\b", given)
    # An unknown name is answered with every valid one.
    valid = {"activation": ACTIVATIONS, "init": INITS}
    for pattern in valid[argument] if accepted is None else [accepted]:
        assert re.search(pattern, str(caught.value))


BAD_INITS = {
    "transposed": (lambda rng, n_in, n_out: np.ones((n_out, n_in)), ValueError, r"\(2, 3\)"),
    "a scalar": (lambda rng, n_in, n_out: 0.5, ValueError, r"\(\)|0-d"),
    "NaN": (lambda rng, n_in, n_out: np.full((n_in, n_out), np.nan), ValueError, "(?i)nan"),
    "past float32": (
        lambda rng, n_in, n_out: np.full((n_in, n_out), 1e300),
        ValueError,
        r"1e\+?300|inf|float32",
    ),
    "complex": (lambda rng, n_in, n_out: np.ones((n_in, n_out), "c8"), TypeError, "complex64"),
    "nothing": (lambda rng, n_in, n_out: None, TypeError, "None|object"),
}


@pytest.mark.parametrize("case", BAD_INITS.values(), ids=BAD_INITS)
def test_bad_result_of_init(case):
    init, exception, given = case
    with pytest.raises((ValueError, TypeError)) as caught:
        Network(3, [Dense(2, init=init)])
    check_message(caught, exception, r"\binit\b", given)


BAD_LEARNING_RATES = [
    (0, ValueError, r"\b0\b", "positive|> 0"),
    (-0.0, ValueError, "0", "positive|> 0"),
    (-0.1, ValueError, r"-0\.1", "positive|> 0"),
    (float("nan"), ValueError, "nan", "finite"),
    (float("inf"), ValueError, "inf", "finite"),
    (float("-inf"), ValueError, "-inf", "finite"),
    ("fast", TypeError, "'fast'|str", "number|float"),
    (None, TypeError, "None", "number|float"),
    (1j, TypeError, "1j|complex", "number|float"),
    ([0.1], TypeError, r"0\.1|list", "number|float"),
]


@pytest.mark.parametrize(("bad", "exception", "given", "accepted"), BAD_LEARNING_RATES)
def test_bad_learning_rate(bad, exception, given, accepted):
    with pytest.raises((ValueError, TypeError)) as caught:
        SGD(bad)
    check_message(caught, exception, r"\blearning_rate\b", given, accepted)


@pytest.mark.parametrize(
    ("bad", "exception", "given"),
    [("adamm", ValueError, "adamm"), (0.1, TypeError, r"0\.1|float"), (SGD, TypeError, "SGD|type")],
)
def test_bad_optimizer_set_later(bad, exception, given):
    def set_optimizer(network):
        network.optimizer = bad

    check_refused(set_optimizer, exception, r"\boptimizer\b", given, "sgd|SGD")


@pytest.mark.parametrize(("checked", "field"), [(SGD(0.1), "learning_rate"), (Dense(2), "units")])
def test_what_was_checked_stays(checked, field):
    before = getattr(checked, field)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(checked, field, -1)
    assert getattr(checked, field) == before
