"""A run: which cells against which peers, in which processes, and what they answered."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, startup, threads
from benchmarks.groups import DEFAULT, chosen
from benchmarks.peers import PEERS, Peer, ours
from benchmarks.workloads import Cell

FORMAT = 1  # of the JSON
QUICK_SECONDS = 150.0  # after which nothing new is begun in a short run
GRACE = 15.0  # after which a process that has not ended is ended
ROOT = Path(__file__).resolve().parent.parent

Result = dict[str, Any]
Tick = Callable[[str], None]  # told what is measured next, or an empty string when it is done


@dataclass(frozen=True)
class Group:
    """The cells that one process measures."""

    peer: Peer
    threads: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """What a run will measure, and what it will not."""

    groups: tuple[Group, ...]
    skipped: tuple[tuple[str, str], ...]
    startup: bool
    quick: bool

    @property
    def n_measurements(self) -> int:
        """Number of pairs of cell and peer."""
        return sum(len(group.cells) for group in self.groups)


def offered(cells: list[Cell]) -> tuple[list[Cell], list[tuple[str, str]]]:
    """Drop what this version of fastbp or this machine does not have, and say so."""
    skipped = []
    for need in dict.fromkeys(need for cell in cells for need in sorted(cell.needs)):
        if reason := ours.lacks(need):
            cells = [cell for cell in cells if need not in cell.needs]
            skipped.append((need, reason))
    if not ours.offers_threads() or threads.available_cores() == 1:
        alone = [cell for cell in cells if cell.threads == "1"]
        if len(alone) < len(cells):
            reason = "one core" if ours.offers_threads() else "fastbp has no n_threads"
            skipped.append(("more than one thread", reason))
        cells = alone
    return cells, skipped


def make_plan(
    *,
    quick: bool = False,
    only: tuple[str, ...] = (),
    peers: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
) -> Plan:
    """Choose cells and peers.

    Parameters
    ----------
    quick : bool
        Take the small networks and the fast peers, unless the others say otherwise.
    only : tuple of str
        Shell patterns for names of cells, or for parts of names; also "startup".
    peers : tuple of str
        Names of `PEERS`; all of them if empty.
    groups : tuple of str
        Names of `GROUPS`; the default one if empty, or all of them if `only` is given.
    """
    cells, skipped = offered(chosen(quick=quick, only=only, groups=groups))
    processes: list[Group] = []
    for peer in PEERS.values():
        if (peers and peer.name not in peers) or not any(map(peer.supports, cells)):
            continue
        if quick and not peers and not peer.quick:
            skipped.append((peer.title, f"not in a quick run, unless --peers {peer.name} asks"))
        elif reason := peer.missing():
            skipped.append((peer.title, reason))
        else:
            processes += split(peer, cells)
    return Plan(
        groups=tuple(processes),
        skipped=tuple(skipped),
        startup="startup" in only or (not only and DEFAULT in (groups or (DEFAULT,))),
        quick=quick,
    )


def split(peer: Peer, cells: list[Cell]) -> Iterator[Group]:
    """Share a peer's cells between processes: each has its number of threads and its dtype."""
    kinds = dict.fromkeys((cell.threads, cell.dtype) for cell in cells)
    for n_threads, dtype in kinds:
        chosen = tuple(
            cell
            for cell in cells
            if peer.supports(cell) and (cell.threads, cell.dtype) == (n_threads, dtype)
        )
        if chosen:
            yield Group(peer, n_threads, chosen)


def environment(group: Group) -> dict[str, str]:
    """Return the environment of a group's process."""
    variables = {**os.environ, **threads.environment(threads.count(group.threads))}
    variables["JAX_PLATFORMS"] = "cpu"
    variables["JAX_ENABLE_X64"] = str(group.cells[0].dtype == "float64")
    return variables


def measure_group(group: Group, *, quick: bool, deadline: float, tick: Tick) -> list[Result]:
    """Start the process of a group, and collect its answers."""
    orders = {
        "peer": group.peer.name,
        "n_threads": threads.count(group.threads),
        "quick": quick,
        "deadline": deadline,
        "cells": [asdict(cell) for cell in group.cells],
    }
    results: list[Result] = []
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env=environment(group),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            with ended_by(process, deadline + GRACE):
                process.stdin.write(json.dumps(orders))
                process.stdin.close()
                for cell in group.cells:
                    tick(f"{cell.name}  {group.peer.title}")
                    line = process.stdout.readline()
                    if not line:
                        break
                    results.append(json.loads(line))
                    tick("")
                process.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines() or [f"exit status {process.returncode}"]
    reason = {"left_out": "no time left"} if time.time() > deadline else {"failed": said[-1]}
    for cell in group.cells[len(results) :]:
        results.append({"cell": cell.name, **asdict(cell), "peer": group.peer.name, **reason})
        tick("")
    return results


@contextmanager
def ended_by(process: subprocess.Popen[str], deadline: float) -> Iterator[None]:
    """End a process at a time, or when this context is left, whichever comes first."""
    limit = min(max(deadline - time.time(), 0.0), threading.TIMEOUT_MAX)
    timer = threading.Timer(limit, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()


def measure_peak() -> dict[str, float]:
    """Measure the best rate of matrix products on one core, in a process of its own."""
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak"],
        cwd=ROOT,
        env={**os.environ, **threads.environment(1)},
        capture_output=True,
        text=True,
        check=True,
    )
    rates: dict[str, float] = json.loads(made.stdout)
    return rates


def measure(plan: Plan, tick: Tick) -> Result:
    """Run a plan; return what is written as JSON."""
    distributions = [name for peer in PEERS.values() for name in peer.distributions]
    result: Result = {
        "format": FORMAT,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "quick": plan.quick,
        "machine": machine.describe(distributions),
        "skipped": [{"what": what, "why": why} for what, why in plan.skipped],
        "measurements": [],
    }
    started = time.time()
    end = started + QUICK_SECONDS if plan.quick else started + 1e9
    peaks = [measure_peak()]
    if plan.startup:
        rounds, share = (3, 0.15 * QUICK_SECONDS) if plan.quick else (9, 1e9)
        imports = startup.import_times(rounds, started + share, lambda name: tick(f"import {name}"))
        result["startup"] = {"imports": imports, "sizes": startup.installed_sizes()}
    for position, group in enumerate(plan.groups):
        # What is left of the time is shared by the measurements that are left.
        left = sum(len(later.cells) for later in plan.groups[position:])
        deadline = time.time() + (end - time.time()) * len(group.cells) / left
        result["measurements"] += measure_group(
            group, quick=plan.quick, deadline=deadline, tick=tick
        )
    peaks.append(measure_peak())
    # The better of both ends of the run: noise makes a rate only ever lower.
    result["peak"] = {dtype: max(peak[dtype] for peak in peaks) for dtype in peaks[0]}
    result["machine"]["load_at_end"] = machine.load()
    result["seconds"] = round(time.time() - started, 1)
    return result


def as_json(result: Result) -> str:
    """Write a result as JSON: a line for each measurement, so that two files can be compared."""
    rest = {name: value for name, value in result.items() if name != "measurements"}
    head = json.dumps(rest, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(each)}" for each in result["measurements"])
    return f'{head},\n "measurements": [\n{lines}\n ]\n}}\n'
