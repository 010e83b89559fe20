"""The arithmetic of the tables: medians and how sure they are, ratios, percentiles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

PER_DECADE = 20  # ranges of a histogram: 12 % each


@dataclass(frozen=True)
class Summary:
    """A sample of positive numbers in short.

    Parameters
    ----------
    median : float
    low, high : float
        A confidence interval of the median, of 95 % or as near below as the sample allows.
    q1, q3 : float
        The quartiles.
    """

    median: float
    low: float
    high: float
    q1: float
    q3: float

    @property
    def uncertainty(self) -> float:
        """Half the width of the confidence interval, relative to the median."""
        return (self.high - self.low) / (2 * self.median)


def percentile(values: Sequence[float], q: float) -> float:
    """Return the smallest value that at least q per cent of all values do not exceed.

    Parameters
    ----------
    values : sequence of float
        Sorted.
    q : float
        Above 0 and at most 100.
    """
    # 99.9 / 100 * 1000 is 999.0000000000001 in floating point, which is the 999th value.
    rank = math.ceil(q * len(values) / 100 - 1e-9)
    return values[max(rank, 1) - 1]


def log_histogram(values: Sequence[float]) -> list[list[float]]:
    """Count positive numbers in ranges of one width on a logarithmic scale.

    Returns
    -------
    list of [low, count]
        For each range that is not empty, from its low end, 10 ** (k / `PER_DECADE`), to the next.
    """
    places = Counter(math.floor(PER_DECADE * math.log10(value)) for value in values)
    lows = {place: float(f"{10 ** (place / PER_DECADE):.4g}") for place in places}
    return [[lows[place], places[place]] for place in sorted(places)]


def summarize(values: Sequence[float]) -> Summary:
    """Summarize a sample.

    The confidence interval lies between two order statistics: the median is below the k-th
    smallest of n independent values with the probability that fewer than k of n coins show
    heads. It needs no assumption about the distribution, which for times is never normal.
    """
    ordered = sorted(values)
    n = len(ordered)
    k, tail = 0, 0.5**n
    while 2 * tail <= 0.05:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    # With fewer than six values no interval reaches 95 %: then it is their whole range.
    lowest = max(k - 1, 0)
    return Summary(
        median=median(ordered),
        low=ordered[lowest],
        high=ordered[n - 1 - lowest],
        q1=percentile(ordered, 25),
        q3=percentile(ordered, 75),
    )


def pair_ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Return theirs / ours of each pair: how many times faster fastbp was, side by side.

    A ratio of two medians would mix measurements made minutes apart; a pair was measured in the
    same moment, so that a machine that slows down slows both down.
    """
    return [theirs / ours for ours, theirs in pairs]
