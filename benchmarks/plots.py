"""The plots: latency by network and its histograms, step time by batch size, per cent of peak."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.arithmetic import PER_DECADE
from benchmarks.figures import Place, by_cell, fastbp_seconds, peers_in, percent_of_peak
from benchmarks.peers import FASTBP, PEERS
from benchmarks.workloads import LATENCIES, TRAINING

matplotlib.use("Agg")
from matplotlib import pyplot

Result = dict[str, Any]
Rows = dict[Place, list[Result]]

NAMES = [FASTBP.name, *PEERS]
# The ten dark colours of the map first, then their light kin.
PALETTE = [matplotlib.colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]
COLOURS = dict(zip(PEERS, PALETTE, strict=False)) | {FASTBP.name: "black"}
TITLES = {FASTBP.name: FASTBP.title} | {name: peer.title for name, peer in PEERS.items()}


def write(result: Result, folder: Path) -> list[str]:
    """Draw what a result has figures for; return the names of the files."""
    found = by_cell(result)
    drawn = []
    if latency := found.get(("latency", "float32", "1")):
        drawn.append(save(plot_latency(latency), folder, "latency.png"))
    for task in LATENCIES:
        if latency := found.get((task, "float32", "1")):
            name = f"{task.replace('-', '_')}_histogram.png"
            drawn.append(save(plot_histograms(task, latency), folder, name))
    for task in TRAINING:
        if steps := found.get((task, "float32", "1")):
            drawn.append(save(plot_steps(task, steps), folder, f"step_time_{task}.png"))
    shares = {
        task: found[task, "float32", "1"]
        for task in ("predict", *TRAINING)
        if (task, "float32", "1") in found
    }
    if shares:
        drawn.append(save(plot_shares(result, shares), folder, "percent_of_peak.png"))
    return drawn


def save(figure: Any, folder: Path, name: str) -> str:
    """Write a figure to a file; return its name."""
    figure.savefig(folder / name, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return name


def seconds_by_library(rows: Rows) -> dict[str, dict[Place, float]]:
    """Return the time of each library in each cell."""
    times: dict[str, dict[Place, float]] = {FASTBP.name: {}}
    for place, measured in rows.items():
        times[FASTBP.name][place] = fastbp_seconds(measured)
        for each in measured:
            times.setdefault(each["peer"], {})[place] = each["theirs"]["median"]
    return {name: times[name] for name in NAMES if name in times}


def middle(sides: list[Result]) -> Result:
    """Return the side whose median is the middle one."""
    return sorted(sides, key=lambda side: float(side["p50"]))[len(sides) // 2]


def sides_by_library(measured: list[Result]) -> dict[str, Result]:
    """Return each library's latencies of one network; fastbp's beside one of the peers."""
    found = {each["peer"]: each["theirs"] for each in measured}
    found[FASTBP.name] = middle([each["ours"] for each in measured])
    return {name: found[name] for name in NAMES if name in found}


def plot_histograms(task: str, rows: Rows) -> Any:
    """How many calls took how long, both on logarithmic scales, one panel for each network."""
    figure, panels = pyplot.subplots(
        len(rows), 1, figsize=(9, 2.6 * len(rows)), squeeze=False, sharex=True,
        constrained_layout=True,
    )
    width = 10 ** (1 / PER_DECADE)
    for axes, ((network, _), measured) in zip(panels[:, 0], rows.items(), strict=True):
        for name, side in sides_by_library(measured).items():
            counts = {round(PER_DECADE * math.log10(low)): n for low, n in side["histogram"]}
            places = range(min(counts), max(counts) + 1)
            axes.stairs(
                # a range without calls has no logarithm: the line goes down below all of them
                [counts.get(place, 0) / side["calls"] for place in places],
                [1e6 * width**place for place in (*places, places[-1] + 1)],
                color=COLOURS[name],
                label=TITLES[name],
                fill=name == FASTBP.name,
                alpha=0.6 if name == FASTBP.name else 1,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(network)
        axes.set_ylabel("part of the calls")
        axes.grid(alpha=0.3)
    calls = "bound calls" if task == "bound-latency" else "single calls"
    panels[-1][0].set_xlabel(f"microseconds, {calls}, one row")
    add_legend(figure)
    return figure


def plot_latency(rows: Rows) -> Any:
    """Medians as points, and lines up to the 99th percentile."""
    figure, axes = pyplot.subplots(figsize=(9, 4.5), constrained_layout=True)
    peers = peers_in([each for measured in rows.values() for each in measured])
    networks = list(rows)
    names = [FASTBP.name, *peers]
    for position, name in enumerate(names):
        places, lows, rises = [], [], []
        for place, network in enumerate(networks):
            if side := sides_by_library(rows[network]).get(name):
                places.append(place + 0.7 * (position / max(len(names) - 1, 1) - 0.5))
                lows.append(1e6 * side["p50"])
                rises.append(1e6 * (side["p99"] - side["p50"]))
        axes.errorbar(
            places, lows, [[0] * len(lows), rises], fmt="o", color=COLOURS[name], label=TITLES[name]
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(networks)), [network for network, _ in networks])
    axes.set_ylabel("microseconds of one call")
    axes.set_title("Latency of one row: median, and up to the 99th percentile")
    axes.grid(axis="y", alpha=0.3)
    add_legend(figure)
    return figure


def plot_steps(task: str, rows: Rows) -> Any:
    """Time of an optimizer's step against batch size, one panel for each network."""
    networks = list(dict.fromkeys(network for network, _ in rows))
    width = 3 * len(networks) + 2
    figure, panels = pyplot.subplots(
        1, len(networks), figsize=(width, 4), squeeze=False, constrained_layout=True
    )
    for axes, network in zip(panels[0], networks, strict=True):
        for name, times in seconds_by_library(rows).items():
            points = sorted((batch, t) for (which, batch), t in times.items() if which == network)
            if points:
                batches, seconds = zip(*points, strict=True)
                microseconds = [1e6 * t for t in seconds]
                style = {"color": COLOURS[name], "label": TITLES[name]}
                axes.loglog(batches, microseconds, "o-", markersize=3, **style)
        axes.set_title(network)
        axes.set_xlabel("batch size")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel(f"microseconds of one step of {task}")
    add_legend(figure)
    return figure


def add_legend(figure: Any) -> None:
    """Put one legend beside all panels."""
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    ordered = {title: handles[title] for title in TITLES.values() if title in handles}
    figure.legend(ordered.values(), ordered, loc="outside right upper")


def plot_shares(result: Result, tasks: dict[str, Rows]) -> Any:
    """Per cent of peak in every cell, one panel for each task."""
    width = max(10, max(map(len, tasks.values())) / 2)
    figure, panels = pyplot.subplots(
        len(tasks), 1, figsize=(width, 3.6 * len(tasks)), squeeze=False, constrained_layout=True
    )
    for axes, (task, rows) in zip(panels[:, 0], tasks.items(), strict=True):
        places = list(rows)
        for name, times in seconds_by_library(rows).items():
            shares = [
                percent_of_peak(result, rows[place][0], times[place]) if place in times else None
                for place in places
            ]
            axes.plot(
                range(len(places)),
                [float("nan") if share is None else share for share in shares],
                "o" if name != FASTBP.name else "D",
                color=COLOURS[name],
                label=TITLES[name],
            )
        axes.set_xticks(range(len(places)), [f"{network}\n{rows}" for network, rows in places])
        axes.set_ylabel("per cent of peak")
        axes.set_title(f"{task}, float32, one thread")
        axes.grid(axis="y", alpha=0.3)
    add_legend(figure)
    return figure
