"""The process that measures one peer, on one number of threads, in one dtype.

It reads its orders from standard input and writes one line of JSON per cell to standard output.
Peers do not share a process: one's threads would disturb the other's times, and settings such as
the number of threads or JAX's 64-bit mode hold for a whole process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO

from benchmarks import threads


def own_stdout() -> TextIO:
    """Keep standard output for the results: whatever else is printed goes to standard error."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return results


def main() -> None:
    """Measure the cells that were ordered."""
    results = own_stdout()

    def send(**message: Any) -> None:
        print(json.dumps(message), file=results, flush=True)

    orders = json.load(sys.stdin)
    threads.bind(orders["n_threads"])
    # Only now: imports start threads.
    from benchmarks import cells, measure
    from benchmarks.peers import FASTBP, PEERS
    from benchmarks.workloads import Cell

    effort = measure.QUICK if orders["quick"] else measure.FULL
    peer = PEERS[orders["peer"]]
    ours, theirs = FASTBP.adapter(orders["n_threads"]), peer.adapter(orders["n_threads"])
    for order in orders["cells"]:
        cell = Cell(**order)
        if time.time() > orders["deadline"]:
            send(cell=cell.name, peer=peer.name, **order, left_out="no time left")
            continue
        try:
            send(**cells.run(cell, peer, ours, theirs, effort))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            send(cell=cell.name, peer=peer.name, **order, failed=reason)


if __name__ == "__main__":
    main()
