"""Every way to hand over the same numbers gives the same bits, and none of them is written to.

The oracle is the plain array (C-ordered, native, aligned, of the network's dtype) of the same
numbers; what fastbp makes of the plain array is itself held against the naive network first.
"""

import inspect
import math
import pickle
import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import ReferenceNetwork

from fastbp import SGD, Dense, Network

N_ROWS, N_INPUTS, N_OUTPUTS = 9, 5, 3
RANDOM = np.random.default_rng(20)
# Whole numbers from -3 to 3: exact in every signed dtype.
X = RANDOM.integers(-3, 4, (N_ROWS, N_INPUTS)).astype(np.float64)
Y = RANDOM.integers(-3, 4, (N_ROWS, N_OUTPUTS)).astype(np.float64)
LABELS = RANDOM.integers(0, N_OUTPUTS, N_ROWS)


class Subclass(np.ndarray):
    """An ndarray subclass that changes nothing."""


class Obstinate(np.ndarray):
    """A subclass whose own arithmetic, indexing and NumPy functions all fail."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a ufunc of the subclass was called")

    def __array_function__(self, *args, **kwargs):
        raise AssertionError("a NumPy function of the subclass was called")

    def __getitem__(self, index):
        raise AssertionError("an element of the subclass was taken")

    def __len__(self):
        raise AssertionError("the length of the subclass was taken")


class OffersArray:
    """Not an array, but converts to one, as a data frame does."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def matrix(array):
    """np.matrix, where slices of rows and sums stay two-dimensional."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(array)


def misaligned(array):
    """A copy that starts one byte past an aligned address."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    copy = np.ndarray(array.shape, array.dtype, memory.data, offset=1)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


def strided(array):
    """A view of every third row and every third column of something larger."""
    larger = np.full([3 * length for length in array.shape], 77, array.dtype)
    view = larger[(slice(1, None, 3),) * array.ndim]
    view[...] = array
    return view


def backwards(array):
    """The same numbers behind negative strides."""
    reverse = (slice(None, None, -1),) * array.ndim
    return array[reverse].copy()[reverse]


def byte_swapped(array):
    return array.astype(array.dtype.newbyteorder())


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "read-only": read_only,
    "Fortran-ordered": lambda array: array.copy(order="F"),
    "strided": strided,
    "negative strides": backwards,
    "byte-swapped": byte_swapped,
    "misaligned": misaligned,
    "misaligned and byte-swapped": lambda array: misaligned(byte_swapped(array)),
    "a subclass": lambda array: array.copy().view(Subclass),
    "an obstinate subclass": lambda array: array.copy().view(Obstinate),
    "a masked array without a masked element": lambda array: np.ma.array(array),
    "converts to an array": lambda array: OffersArray(array.copy()),
    "a list": lambda array: array.tolist(),
    "a tuple": lambda array: tuple(array.tolist()),
    "a list of arrays": lambda array: list(array.copy()),
}
LAYOUTS_2D = LAYOUTS | {
    "np.matrix": matrix,
    "a tuple of tuples": lambda array: tuple(map(tuple, array.tolist())),
}
SIGNED = ["float16", "float32", "float64", "longdouble", "int8", "int16", "int32", "int64"]
UNSIGNED = ["bool", "uint8", "uint16", "uint32", "uint64"]


def make_network(dtype="float32", activation="identity", loss="squared_error"):
    layers = [Dense(7, "tanh"), Dense(N_OUTPUTS, activation)]
    return Network(N_INPUTS, layers, loss=loss, optimizer=SGD(0.05), dtype=dtype, seed=3)


def everything(X, y, dtype, **kind):
    """The bytes of all that a fresh network makes of X and y."""
    network = make_network(dtype, **kind)
    loss, gradient = network.loss_and_gradient(X, y)
    prediction = network.predict(X)
    assert type(prediction) is np.ndarray
    results = [
        prediction,
        network.predict(X, out=np.empty_like(prediction)),
        network.evaluate(X, y),
        loss,
        gradient,
        network.check_gradient(X, y, n_checks=5),
        network.train_step(X, y),
        network.parameters.copy(),
    ]
    history = network.fit(X, y, epochs=2, batch_size=4, validation_data=(X, y))
    results += [history.loss, history.validation_loss, network.parameters]
    return [np.asarray(result).tobytes() for result in results]


def check_same(given_X, given_y, numbers_X, numbers_y, dtype, **kind):
    """What is given leads to the bits its numbers lead to, and is not written to."""
    before = np.asarray(given_X).tobytes(), np.asarray(given_y).tobytes()
    results = everything(given_X, given_y, dtype, **kind)
    assert (np.asarray(given_X).tobytes(), np.asarray(given_y).tobytes()) == before
    plain_y = numbers_y if numbers_y.dtype.kind == "i" else np.array(numbers_y, dtype, order="C")
    assert results == everything(np.array(numbers_X, dtype, order="C"), plain_y, dtype, **kind)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_plain_array_gives_the_right_result(dtype):
    network = make_network(dtype)
    # The naive network computes in float64 from the same parameters. Each output is a sum of
    # 5 + 7 terms of at most about 3: twenty roundings of that size.
    tolerance = 20 * 3 * np.finfo(dtype).eps
    naive = ReferenceNetwork.from_flat(
        network.parameters.astype(np.float64),
        [N_INPUTS, 7, N_OUTPUTS],
        ["tanh", "identity"],
        "squared_error",
    )
    prediction = network.predict(X.astype(dtype))
    np.testing.assert_allclose(prediction, naive.predict(X), rtol=0, atol=tolerance)
    loss, gradient = network.loss_and_gradient(X.astype(dtype), Y.astype(dtype))
    assert math.isclose(loss, naive.loss_value(X, Y), rel_tol=tolerance)
    expected = naive.gradient(X, Y)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS_2D.values(), ids=LAYOUTS_2D)
def test_layouts(layout, dtype):
    numbers_X, numbers_y = X.astype(dtype), Y.astype(dtype)
    check_same(layout(numbers_X), layout(numbers_y), X, Y, dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_labels(layout):
    kind = {"activation": "softmax", "loss": "cross_entropy"}
    check_same(X, layout(LABELS), X, LABELS, "float32", **kind)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layouts_of_one_row(layout, dtype):
    row, target = X[0].astype(dtype), Y[0].astype(dtype)
    network, twin = make_network(dtype), make_network(dtype)
    given_row, given_target = layout(row), layout(target)
    before = np.asarray(given_row).tobytes(), np.asarray(given_target).tobytes()
    assert network.predict(given_row).tobytes() == twin.predict(row).tobytes()
    assert network.train_step(given_row, given_target) == twin.train_step(row, target)
    assert network.parameters.tobytes() == twin.parameters.tobytes()
    assert (np.asarray(given_row).tobytes(), np.asarray(given_target).tobytes()) == before


@pytest.mark.parametrize("dtype", SIGNED + UNSIGNED)
@pytest.mark.parametrize("network_dtype", ["float32", "float64"])
def test_dtypes(dtype, network_dtype):
    numbers_X, numbers_y = (X, Y) if dtype in SIGNED else (X > 0, Y > 0)
    numbers_X, numbers_y = numbers_X.astype(np.float64), numbers_y.astype(np.float64)
    check_same(
        numbers_X.astype(dtype), numbers_y.astype(dtype), numbers_X, numbers_y, network_dtype
    )


@pytest.mark.parametrize("dtype", SIGNED + UNSIGNED[1:])
def test_dtypes_of_labels(dtype):
    kind = {"activation": "softmax", "loss": "cross_entropy"}
    check_same(X, LABELS.astype(dtype), X, LABELS, "float64", **kind)


def test_labels_as_rows_of_booleans():
    kind = {"activation": "softmax", "loss": "cross_entropy"}
    rows = np.eye(N_OUTPUTS)[LABELS]
    check_same(X, rows.astype(bool), X, rows, "float64", **kind)


def test_memory_mapped(tmp_path):
    mapped = []
    for name, numbers in (("X", X), ("y", Y)):
        np.save(tmp_path / name, numbers)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    check_same(*mapped, X, Y, "float64")
    check_same(*mapped, X, Y, "float32")


def test_broadcast_rows():
    # All rows are one row in memory: strides of zero.
    row, target = X[:1], Y[:1]
    check_same(
        np.broadcast_to(row, X.shape),
        np.broadcast_to(target, Y.shape),
        np.repeat(row, N_ROWS, axis=0),
        np.repeat(target, N_ROWS, axis=0),
        "float64",
    )


def test_masked_elements_are_refused():
    # A masked element is a missing one, like NaN. scikit-learn drops the mask without a word and
    # trains on whatever lies beneath; refusing is right, as there is no number to train on.
    network = make_network()
    before = network.parameters.tobytes()
    masked_X, masked_y = np.ma.array(X), np.ma.array(Y)
    masked_X[2, 1] = masked_y[3, 0] = np.ma.masked
    for call in (
        lambda: network.predict(masked_X),
        lambda: network.fit(masked_X, Y),
        lambda: network.train_step(masked_X[2], Y[2]),
    ):
        with pytest.raises(TypeError, match=r"\bX\b.*mask"):
            call()
    with pytest.raises(TypeError, match=r"\by\b.*mask"):
        network.fit(X, masked_y)
    assert network.parameters.tobytes() == before


OUT_LAYOUTS = ["Fortran-ordered", "strided", "negative strides", "misaligned", "a subclass"]


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_out(layout, dtype):
    network = make_network(dtype)
    plain = X.astype(dtype)
    for given_X, shape in ((plain, Y.shape), (plain[0], Y[0].shape)):
        out = LAYOUTS[layout](np.zeros(shape, dtype))
        assert network.predict(given_X, out=out) is out
        assert out.tobytes() == network.predict(given_X).tobytes()


def test_out_is_memory_mapped(tmp_path):
    network = make_network()
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=Y.shape)
    assert network.predict(X, out=out) is out
    out.flush()
    assert (tmp_path / "out").read_bytes() == network.predict(X).tobytes()


def test_out_between_the_columns_of_X():
    # The two spans of memory overlap, but no element belongs to both.
    table = np.zeros((N_ROWS, N_INPUTS + N_OUTPUTS), np.float32)
    table[:, :N_INPUTS] = X
    network = make_network()
    network.predict(table[:, :N_INPUTS], out=table[:, N_INPUTS:])
    assert (table[:, :N_INPUTS] == X).all()
    assert table[:, N_INPUTS:].tobytes() == network.predict(X).tobytes()


def test_results_are_the_callers_own():
    network = make_network()
    _, gradient = network.loss_and_gradient(X, Y)
    prediction = network.predict(X)
    before = gradient.tobytes(), prediction.tobytes()
    network.loss_and_gradient(2 * X, Y)
    network.predict(2 * X)
    network.fit(X, Y)
    assert (gradient.tobytes(), prediction.tobytes()) == before
    for result in (gradient, prediction):
        assert result.flags.writeable
        assert not np.shares_memory(result, network.parameters)


ALIASED = {
    "predict": lambda network, X, y: network.predict(X),
    "evaluate": lambda network, X, y: network.evaluate(X, y),
    "loss_and_gradient": lambda network, X, y: network.loss_and_gradient(X, y)[1],
    "check_gradient": lambda network, X, y: network.check_gradient(X, y),
    "train_step": lambda network, X, y: network.train_step(X, y),
    "fit": lambda network, X, y: network.fit(X, y, epochs=2, batch_size=1).loss,
    "validation_data": lambda network, X, y: (
        network.fit(X.copy(), y.copy(), batch_size=2, validation_data=(X, y)).validation_loss
    ),
}


@pytest.mark.parametrize("method", ALIASED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_that_is_the_parameters(method, dtype):
    # A call works on the numbers it was given, although training changes them underneath.
    results = []
    for copies in (False, True):
        network = make_network(dtype)
        given_X = network.parameters[: 4 * N_INPUTS].reshape(4, N_INPUTS)
        given_y = network.parameters[-4 * N_OUTPUTS :].reshape(4, N_OUTPUTS)
        if copies:
            given_X, given_y = given_X.copy(), given_y.copy()
        result = ALIASED[method](network, given_X, given_y)
        results.append((np.asarray(result).tobytes(), network.parameters.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_row_that_is_the_parameters(dtype):
    results = []
    for copies in (False, True):
        network = make_network(dtype)
        row, target = network.parameters[:N_INPUTS], network.parameters[-N_OUTPUTS:]
        if copies:
            row, target = row.copy(), target.copy()
        loss = network.train_step(row, target)
        results.append((loss, network.parameters.tobytes()))
    assert results[0] == results[1]


@st.composite
def laid_out(draw, shape, dtype, fill=0):
    """An array of a shape and dtype over memory of any axis order, strides and alignment.

    Returns the memory as well; what of it the array does not reach is `fill`.
    """
    steps = draw(st.tuples(*[st.sampled_from([-3, -2, -1, 1, 2, 3]) for _ in shape]))
    axes = draw(st.permutations(range(len(shape))))
    offset = draw(st.integers(0, 9))
    lengths = [length * abs(step) for length, step in zip(shape, steps, strict=True)]
    memory = np.full(offset + math.prod(lengths) * dtype.itemsize, fill, np.uint8)
    whole = np.ndarray([lengths[axis] for axis in axes], dtype, memory.data, offset)
    view = whole.transpose(np.argsort(axes))[tuple(slice(None, None, step) for step in steps)]
    assert view.shape == tuple(shape)
    return memory, view


@st.composite
def disguised(draw, numbers):
    """The numbers in any dtype and byte order that holds them, laid out in any way."""
    dtype = np.dtype(draw(st.sampled_from(SIGNED)))
    if draw(st.booleans()):
        dtype = dtype.newbyteorder()
    _, view = draw(laid_out(numbers.shape, dtype))
    view[...] = numbers
    view.flags.writeable = draw(st.booleans())
    return view


def whole_numbers(*shape):
    return hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float))


@settings(deadline=None)  # tests of results, not of times
@given(st.data(), st.sampled_from(["float32", "float64"]))
def test_any_layout(data, dtype):
    n_rows, n_inputs, n_outputs = (data.draw(st.integers(1, 9)) for _ in range(3))
    numbers_X = data.draw(whole_numbers(n_rows, n_inputs))
    numbers_y = data.draw(whole_numbers(n_rows, n_outputs))
    given_X, given_y = data.draw(disguised(numbers_X)), data.draw(disguised(numbers_y))
    results = []
    for X, y in ((given_X, given_y), (numbers_X.astype(dtype), numbers_y.astype(dtype))):
        network = Network(n_inputs, [Dense(3, "relu"), Dense(n_outputs)], dtype=dtype, seed=1)
        loss, gradient = network.loss_and_gradient(X, y)
        history = network.fit(X, y, batch_size=2)
        results.append([loss, history.loss, gradient.tobytes(), network.predict(X).tobytes()])
    assert results[0] == results[1]
    assert (given_X == numbers_X).all()
    assert (given_y == numbers_y).all()


@settings(deadline=None)  # tests of results, not of times
@given(st.data(), st.sampled_from(["float32", "float64"]))
def test_any_layout_of_out(data, dtype):
    n_rows, n_inputs, n_outputs = (data.draw(st.integers(1, 9)) for _ in range(3))
    numbers = data.draw(whole_numbers(n_rows, n_inputs))
    network = Network(n_inputs, [Dense(n_outputs, "tanh")], dtype=dtype, seed=1)
    memory, out = data.draw(laid_out((n_rows, n_outputs), np.dtype(dtype), fill=0xAB))
    around = memory.copy()
    prediction = network.predict(numbers)
    assert network.predict(data.draw(disguised(numbers)), out=out) is out
    assert out.tobytes() == prediction.tobytes()
    # Nothing was written beside the elements of out.
    out.view(np.dtype(f"V{out.itemsize}"))[...] = b"\xab" * out.itemsize
    assert (memory == around).all()


def acceptable(value, n_inputs, dtype):
    """Whether NumPy sees finite real numbers in rows of n_inputs (or one row) in `value`."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # rows of different lengths, a whole number past float64
        return False
    if array.dtype.kind not in "biuf" or array.size == 0:
        return False
    if array.shape[-1:] != (n_inputs,) or array.ndim > 2:
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(dtype)).all())


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.dates(),
)
HOSTILE = st.one_of(
    LEAVES,
    st.lists(st.lists(LEAVES, min_size=2, max_size=2), max_size=3),
    st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=3),
    st.recursive(LEAVES, lambda children: st.lists(children, max_size=3), max_leaves=9),
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
)


@settings(deadline=None)  # tests of results, not of times
@given(HOSTILE, st.sampled_from(["float32", "float64"]))
def test_hostile_input(value, dtype):
    network = Network(2, [Dense(2)], dtype=dtype, seed=1)
    before = network.parameters.tobytes()
    if acceptable(value, 2, dtype):
        plain = np.array(np.asarray(value), dtype)
        assert network.predict(value).tobytes() == network.predict(plain).tobytes()
    else:
        for call in (network.predict, lambda X: network.evaluate(X, np.ones((1, 2)))):
            with pytest.raises((ValueError, TypeError), match=r"\bX\b") as caught:
                call(value)
            assert caught.type in (ValueError, TypeError)
    assert network.parameters.tobytes() == before


# --- predict, which is compiled around the Python method that checks ----------------------------

def test_predict_reads_like_a_method_of_pythons():
    signature = inspect.signature(Network.predict)
    assert list(signature.parameters) == ["self", "X", "out", "n_threads"]
    assert signature.return_annotation == "NDArray[Any]"
    assert "\n\nParameters\n---" in inspect.getdoc(Network.predict)
    assert pickle.loads(pickle.dumps(Network.predict)) is Network.predict


@pytest.mark.parametrize("stranger", [
    object(), types.SimpleNamespace(_plan=None), types.SimpleNamespace(_plan=3),
], ids=["an object", "no plan", "a number"])
def test_predict_of_what_is_no_network(stranger):
    with pytest.raises((AttributeError, TypeError)):
        Network.predict(stranger, np.ones(2))
