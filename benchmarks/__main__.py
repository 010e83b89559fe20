"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.groups import DEFAULT, GROUPS, all_cells, chosen
from benchmarks.peers import PEERS

NEEDED = ("fastbp", "scipy", "packaging", "rich", "matplotlib")
EXAMPLES = """\
examples:
  python -m benchmarks --quick
  python -m benchmarks --only 'sgd/small/*/float32/1' --peers jax-scan numpy
  python -m benchmarks --only wide
  python -m benchmarks --only 'momentum/small/*'
  python -m benchmarks --group layers --only 'overhead/*' --peers torch
  python -m benchmarks --compare old/results.json --output new
"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    about = "\n".join(f"  {name:12} {group.about}" for name, group in GROUPS.items())
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure fastbp beside its peers, on the same work in the same run.",
        epilog=f"groups:\n{about}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="a first impression within three minutes: few samples, without torch.compile, and of "
        "the default group the small networks on one thread",
    )
    made.add_argument(
        "--group",
        nargs="+",
        default=[],
        choices=list(GROUPS),
        metavar="GROUP",
        help=f"the groups to measure, of {', '.join(GROUPS)} (default: {DEFAULT})",
    )
    made.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="cells whose name, or a part of it between slashes, fits a shell pattern, of the "
        "groups named or else of all; 'startup' is one",
    )
    made.add_argument(
        "--list",
        action="store_true",
        help="print the names of all cells, or of those that were asked for, and end",
    )
    made.add_argument(
        "--peers", nargs="+", default=[], choices=list(PEERS), metavar="PEER", help=", ".join(PEERS)
    )
    made.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="compare with an earlier result; exit status 1 if something became slower beyond "
        "the noise",
    )
    made.add_argument(
        "--output",
        type=Path,
        default=Path("benchmark-results"),
        metavar="DIR",
        help="where results.json, report.md and the plots go (default: %(default)s)",
    )
    return made


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar; yield what is told of each measurement."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    # No refreshing by itself: this process must not wake up while another one measures.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("start", total=total)

        def tick(what: str) -> None:
            if what:
                bar.update(task, description=what)
            else:
                bar.advance(task)
            bar.refresh()

        yield tick


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parser().parse_args(arguments)
    choice: dict[str, Any] = {
        "quick": options.quick,
        "only": tuple(options.only),
        "groups": tuple(options.group),
    }
    if options.list:
        listed = chosen(**choice) if any(choice.values()) else all_cells()
        print(*(cell.name for cell in listed), sep="\n")
        return 0
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}. Try: pip install '.[bench]'", file=sys.stderr)
        return 2
    from benchmarks import compare, plots, report, run

    old = json.loads(options.compare.read_text()) if options.compare else None
    plan = run.make_plan(peers=tuple(options.peers), **choice)
    for what, why in plan.skipped:
        print(f"skipped: {what}: {why}", file=sys.stderr)
    if not plan.n_measurements and not plan.startup:
        print("nothing to measure: no cell fits. --list prints their names", file=sys.stderr)
        return 2
    with progress_bar(plan.n_measurements) as tick:
        result = run.measure(plan, tick)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(run.as_json(result))
    pictures = plots.write(result, options.output)
    (options.output / "report.md").write_text(report.markdown(result, pictures))
    report.show(result)
    print(f"written to {options.output}")
    status = 1 if report.problems(result) else 0
    if old is not None:
        changes = compare.compare(old, result)
        print(compare.text(changes, old, result))
        status = max(status, int(any(change.is_regression for change in changes)))
    return status


if __name__ == "__main__":
    sys.exit(main())
