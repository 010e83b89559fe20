"""The report: tables for the terminal, and the same ones in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.figures import (
    Key,
    Place,
    best,
    by_cell,
    fastbp_seconds,
    peers_in,
    percent_of_peak,
)
from benchmarks.peers import FASTBP, PEERS
from benchmarks.workloads import LATENCIES

Result = dict[str, Any]

TITLES = {
    "predict": "Prediction",
    "sgd": "Training step, SGD",
    "adam": "Training step, Adam",
    "adamw": "Training step, AdamW",
    "rmsprop": "Training step, RMSProp",
    "momentum": "Training step, SGD with momentum",
    "bound": "Bound prediction of one row",
    "online": "Single step of one row, SGD, squared error",
    "online-adam": "Single step of one row, squared error, Adam beside the peer's SGD",
    "jacobian": "Jacobian of one row",
    "overhead": "What layers add to an SGD step",
}
ABSENT = "–"
BUSY = 0.9  # of one core


@dataclass(frozen=True)
class Table:
    """A table of text.

    Parameters
    ----------
    title, note : str
    columns : list of str
    rows : list of list of str
    """

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def number(value: float) -> str:
    """Three digits, and no exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def factor(value: float) -> str:
    """Write a ratio."""
    return f"{number(value)} ×"


def title_of(name: str) -> str:
    """Return a library's title."""
    return FASTBP.title if name == FASTBP.name else PEERS[name].title


def tables(result: Result, *, brief: bool = False) -> list[Table]:
    """Return all tables that a result has something for; brief ones fit a terminal."""
    found = by_cell(result)
    speeds = brief_speed_table if brief else speed_table
    made: list[Table] = []
    latencies: list[Table] = []
    for key, rows in found.items():
        if key[0] in LATENCIES:
            latencies.append(latency_table(key[0], rows, brief=brief))
        elif key[0] == "overhead":
            made.append(overhead_table(key, rows))
        elif key[0] != "digits":
            made.append(speeds(result, key, rows))
    made += [digits_table(rows) for (task, _, _), rows in found.items() if task == "digits"]
    if scaling := scaling_rows(found):
        made.append(scaling_table(scaling))
    if "startup" in result:
        made.append(startup_table(result["startup"]))
    return latencies + made


def speed_table(result: Result, key: Key, rows: dict[Place, list[Result]]) -> Table:
    """Times of fastbp, and of each peer with its ratio to them."""
    peers = peers_in([each for measured in rows.values() for each in measured])
    body = []
    for (network, batch), measured in rows.items():
        ours = fastbp_seconds(measured)
        share = percent_of_peak(result, measured[0], ours)
        cells = {each["peer"]: speed_cell(result, each) for each in measured}
        nearest = best(measured)
        body.append(
            [
                network,
                str(batch),
                number(1e6 * ours),
                f"{number(share)} %",
                *(cells.get(peer, ABSENT) for peer in peers),
                f"{factor(nearest['ratio']['median'])} {title_of(nearest['peer'])}",
            ]
        )
    return Table(
        title=speed_title(key, rows),
        note="Microseconds. Behind each peer's time: how many times longer than fastbp it took, "
        "pair by pair, and its per cent of peak.",
        columns=["network", "rows", "fastbp", "of peak", *map(title_of, peers), "best peer"],
        rows=body,
    )


def speed_title(key: Key, rows: dict[Place, list[Result]]) -> str:
    """Name a table of times."""
    task, dtype, threads = key
    count = next(iter(rows.values()))[0]["n_threads"]
    return f"{TITLES[task]}, {dtype}, {'one thread' if threads == '1' else f'{count} threads'}"


def brief_speed_table(result: Result, key: Key, rows: dict[Place, list[Result]]) -> Table:
    """Times of fastbp, and of each peer the ratio alone."""
    peers = peers_in([each for measured in rows.values() for each in measured])
    body = []
    for (network, batch), measured in rows.items():
        ours = fastbp_seconds(measured)
        ratios = {each["peer"]: number(each["ratio"]["median"]) for each in measured}
        body.append(
            [
                network,
                str(batch),
                number(1e6 * ours),
                number(percent_of_peak(result, measured[0], ours)),
                *(ratios.get(peer, ABSENT) for peer in peers),
                number(best(measured)["ratio"]["median"]),
            ]
        )
    return Table(
        title=speed_title(key, rows),
        note="fastbp in microseconds, and how many times longer each peer took.",
        columns=["network", "rows", "fastbp", "% of peak", *map(title_of, peers), "best peer"],
        rows=body,
    )


def speed_cell(result: Result, each: Result) -> str:
    """One peer's time, ratio and per cent of peak."""
    seconds = each["theirs"]["median"]
    share = percent_of_peak(result, each, seconds)
    return f"{number(1e6 * seconds)} ({factor(each['ratio']['median'])}, {number(share)} %)"


def share(ratio: float) -> str:
    """Write by how much a ratio exceeds 1."""
    return f"{100 * (ratio - 1):+.1f} %"


def overhead_table(key: Key, rows: dict[Place, list[Result]]) -> Table:
    """How much longer a step takes with additional layers, in each library by itself."""
    peers = peers_in([each for measured in rows.values() for each in measured])
    body = []
    for (network, batch), measured in rows.items():
        cells = {each["peer"]: share(each["theirs"]["median"]) for each in measured}
        ours = share(median(each["ours"]["median"] for each in measured))
        body.append([network, str(batch), ours, *(cells.get(peer, ABSENT) for peer in peers)])
    return Table(
        title=speed_title(key, rows),
        note="The step with the layers over the same library's step without them, measured by "
        "turns, less 1.",
        columns=["network", "rows", "fastbp", *map(title_of, peers)],
        rows=body,
    )


def percentiles(side: Result) -> str:
    """Three percentiles in microseconds."""
    return " / ".join(number(1e6 * side[label]) for label in ("p50", "p99", "p99.9"))


def latency_table(task: str, rows: dict[Place, list[Result]], *, brief: bool) -> Table:
    """Percentiles of the time of one call; of the peers in brief the ratio of medians alone."""
    peers = peers_in([each for measured in rows.values() for each in measured])
    body = []
    for (network, _), measured in rows.items():
        ours = {
            label: median(each["ours"][label] for each in measured)
            for label in ("p50", "p99", "p99.9")
        }
        cells = {
            each["peer"]: number(each["ratio"]["p50"])
            if brief
            else f"{percentiles(each['theirs'])} ({factor(each['ratio']['p50'])})"
            for each in measured
        }
        body.append([network, percentiles(ours), *(cells.get(peer, ABSENT) for peer in peers)])
    bound = ", bound calls" if task == "bound-latency" else ""
    clock = median(each["clock"] for measured in rows.values() for each in measured)
    return Table(
        title=f"Latency of one row{bound}, float32, one thread",
        note="Microseconds: p50 / p99 / p99.9 of single calls, and the ratio of the medians. "
        f"Reading the clock accounts for {number(1e6 * clock)} of each.",
        columns=["network", "fastbp", *map(title_of, peers)],
        rows=body,
    )


def scaling_rows(found: dict[Key, dict[Place, list[Result]]]) -> list[list[str]]:
    """Compare fastbp's times on all threads with those on one, where both were measured."""
    body = []
    for (task, dtype, threads), rows in found.items():
        alone = found.get((task, dtype, "1"), {})
        for place in rows if threads == "all" else ():
            if place in alone:
                one, many = fastbp_seconds(alone[place]), fastbp_seconds(rows[place])
                network, batch = place
                times = [number(1e6 * one), number(1e6 * many), factor(one / many)]
                body.append([network, task, str(batch), *times])
    return body


def scaling_table(rows: list[list[str]]) -> Table:
    """Show what more threads gain."""
    return Table(
        title="fastbp on one and on all threads, float32",
        note="Microseconds, and how many times faster all threads are than one. The two were "
        "measured in different processes of this run, not by turns.",
        columns=["network", "task", "rows", "one thread", "all threads", "gain"],
        rows=rows,
    )


def digits_table(rows: dict[Place, list[Result]]) -> Table:
    """Whole trainings on the digits."""
    body = []
    for measured in rows.values():
        for each in measured:
            for side, name in (("ours", FASTBP.name), ("theirs", each["peer"])):
                ratio = factor(each["ratio"]["median"]) if side == "theirs" else ""
                body.append(
                    [
                        title_of(name),
                        number(1e3 * each[side]["median"]),
                        ratio,
                        f"{each['accuracy'][side]:.1%}",
                    ]
                )
    return Table(
        title="A whole training on the digits, float32, one thread",
        note="Milliseconds: 64-64-10, SGD, batches of 32, 30 epochs.",
        columns=["library", "time", "ratio", "held-out accuracy"],
        rows=body,
    )


def startup_table(startup: Result) -> Table:
    """Import times and installed sizes."""
    body = []
    for name, entry in startup["imports"].items():
        size = startup["sizes"].get(name, {})
        body.append(
            [
                name,
                number(1e3 * entry["seconds"]["median"]),
                factor(entry["by_numpy"]["median"]),
                number(size["alone"] / 1e6) if size else ABSENT,
                number(size["with_needs"] / 1e6) if size else ABSENT,
            ]
        )
    return Table(
        title="Start-up",
        note="Milliseconds for the import in a new interpreter, also as a multiple of NumPy's; "
        "megabytes installed, alone and with all that it needs.",
        columns=["library", "import", "by NumPy's", "MB alone", "MB with needs"],
        rows=body,
    )


def problems(result: Result) -> list[str]:
    """Name the measurements that failed, and those where the two sides did not agree."""
    found = []
    for each in result["measurements"]:
        where = f"{each['cell']} against {each['peer']}"
        if "failed" in each:
            found.append(f"{where} failed: {each['failed']}")
        elif not each.get("agree", True):
            wrong = [check for check in each["checks"] if not check["passed"]]
            said = "; ".join(
                f"{check['what']} differ by {check['error']:.1e}, allowed are "
                f"{check['tolerance']:.1e}"
                for check in wrong
            )
            found.append(f"{where} was not timed: {said}")
    return found


def remarks(result: Result) -> list[str]:
    """Say what a reader has to know beside the tables."""
    said = [f"Skipped: {skipped['what']}: {skipped['why']}." for skipped in result["skipped"]]
    late = sum("left_out" in each for each in result["measurements"])
    if late:
        said.append(f"Left out for lack of time: {late} measurements.")
    alone = [each for each in result["measurements"] if "busy" in each and each["n_threads"] == 1]
    disturbed = sum(each["busy"] < BUSY for each in alone)
    if disturbed:
        said.append(
            f"In {disturbed} of {len(alone)} measurements on one thread the process had its core "
            f"for less than {BUSY:.0%} of the time: the machine was busy, and times are too long."
        )
    return said + [f"Problem: {problem}." for problem in problems(result)]


def facts(result: Result) -> list[str]:
    """Describe the machine and the versions."""
    machine = result["machine"]
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    peak = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in result["peak"].items())
    kind = "quick run" if result["quick"] else "run"
    load = f"load {machine['load']} before and {machine['load_at_end']} after"
    return [
        f"{machine['processor']}, {machine['cores']} cores ({caches}), {machine['system']}, {load}",
        f"{machine['python']}; {versions}; fastbp's engine {machine['engine'] or 'unknown'}, "
        f"commit {machine['commit'] or 'unknown'}",
        f"Peak of one core, the best gemm of SciPy's BLAS in this run, in GFLOP/s: {peak}",
        f"{result['started']}, a {kind} of {result['seconds']:,.0f} seconds",
    ]


def markdown_table(table: Table) -> str:
    """Write a table in Markdown."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {table.title}\n\n{table.note}\n\n{body}\n"


def markdown(result: Result, pictures: Iterable[str]) -> str:
    """Write the whole report."""
    parts = ["# fastbp beside its peers\n", "\n".join(f"- {fact}" for fact in facts(result)) + "\n"]
    if said := remarks(result):
        parts.append("\n".join(f"- {remark}" for remark in said) + "\n")
    parts += [markdown_table(table) for table in tables(result)]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in pictures]
    return "\n".join(parts)


def show(result: Result) -> None:
    """Print the report to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    if not console.is_terminal:  # a file has no width
        console = Console(width=140)
    for table in tables(result, brief=True):
        shown = RichTable(title=table.title, caption=table.note, box=box.SIMPLE_HEAD)
        for position, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if position else "left", no_wrap=not position)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in [*facts(result), *remarks(result)]:
        console.print(line, markup=False)
