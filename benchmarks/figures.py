"""Figures of a result, as the report and the plots use them."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

from benchmarks.peers import PEERS

Result = dict[str, Any]
Key = tuple[str, str, str]  # task, dtype, threads
Place = tuple[str, int]  # network, batch


def by_cell(result: Result) -> dict[Key, dict[Place, list[Result]]]:
    """Sort measurements into tables and their rows; those without times are left out."""
    tables: dict[Key, dict[Place, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for each in result["measurements"]:
        if "ratio" in each:
            key = (each["task"], each["dtype"], each["threads"])
            tables[key][each["network"], each["batch"]].append(each)
    return tables


def fastbp_seconds(measured: list[Result]) -> float:
    """Return fastbp's time in a cell: the median over the processes it was measured in."""
    return float(median(each["ours"]["median"] for each in measured))


def percent_of_peak(result: Result, each: Result, seconds: float) -> float:
    """Return the rate of a cell's products in per cent of the best rate of the cores in use."""
    peak = result["peak"][each["dtype"]] * each["n_threads"]
    return float(100 * each["flops"] / seconds / peak)


def best(measured: list[Result]) -> Result:
    """Return the measurement against the fastest peer of a cell."""
    return min(measured, key=lambda each: float(each["ratio"]["median"]))


def peers_in(measured: list[Result]) -> list[str]:
    """Return the names of the peers that occur, in the order of `PEERS`."""
    present = {each["peer"] for each in measured}
    return [name for name in PEERS if name in present]
