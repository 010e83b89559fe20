"""Data that comes with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_digits"]


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load the UCI optical handwritten digits: 1797 images of 8 x 8 pixels.

    Returns
    -------
    X : ndarray of float32, shape (1797, 64)
        Pixels from 0 to 16, row by row.
    y : ndarray of int64, shape (1797,)
        The digits, 0 to 9.

    References
    ----------
    Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49, test set; licence CC BY 4.0.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as data:
        return data["X"].astype(np.float32), data["y"].astype(np.int64)
