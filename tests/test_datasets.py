"""The embedded digits: the right numbers, the caller's own copy, and their source named."""

from importlib import resources

import numpy as np
import pytest

import fastbp.datasets
from fastbp.datasets import load_digits

# Images of each digit, as the UCI repository counts them in the testing set this is.
CLASS_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_shape_dtype_and_range():
    X, y = load_digits()
    assert type(X) is type(y) is np.ndarray
    assert (X.shape, X.dtype) == ((1797, 64), np.float32)
    assert (y.shape, y.dtype) == ((1797,), np.int64)
    assert (X.min(), X.max()) == (0, 16)
    assert (np.trunc(X) == X).all()
    assert np.bincount(y).tolist() == CLASS_COUNTS


def test_first_image():
    # The first line of the repository's optdigits.tes, as it stands there.
    line = (
        "0,0,5,13,9,1,0,0,0,0,13,15,10,15,5,0,0,3,15,2,0,11,8,0,0,4,12,0,0,8,8,0,"
        "0,5,8,0,0,9,8,0,0,4,11,0,1,12,7,0,0,2,14,5,10,12,0,0,0,0,6,13,10,0,0,0,0"
    )
    *pixels, digit = map(int, line.split(","))
    X, y = load_digits()
    assert X[0].tolist() == pixels
    assert y[0] == digit


def test_equal_to_the_copy_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets", reason="the oracle is scikit-learn's copy")
    expected = datasets.load_digits()
    X, y = load_digits()
    assert (expected.data == X).all()
    assert (expected.target == y).all()


def test_every_call_returns_arrays_of_its_own():
    X, y = load_digits()
    again_X, again_y = load_digits()
    assert X.flags.writeable
    assert y.flags.writeable
    X[:], y[:] = -1, -1
    assert (again_X >= 0).all()
    assert (again_y >= 0).all()
    assert load_digits()[0].min() == 0


def test_licence_and_source_are_shipped():
    files = resources.files(fastbp.datasets).iterdir()
    text = "".join(file.read_text("utf-8") for file in files if file.name.endswith(".txt"))
    assert "Alpaydin" in text
    assert "UCI Machine Learning Repository" in text
    assert "CC BY 4.0" in text
