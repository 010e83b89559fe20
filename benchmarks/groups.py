"""The cells of the tables, in groups that can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workloads import ACTIVATIONS, Cell

BATCHES = (1, 32, 256)
EMBEDDED = ("tiny", "small", "example", "mnist")
GRID = ("tiny", "small", "mnist", "wide", "big")
DEFAULT = "grid"


@dataclass(frozen=True)
class CellGroup:
    """Cells that are measured together.

    Parameters
    ----------
    about : str
        What they are, for the command line.
    cells : tuple of Cell
        In the order of the report. A cell may be in several groups.
    """

    about: str
    cells: tuple[Cell, ...]


def grid() -> list[Cell]:
    """Every network with every batch size, by prediction, SGD and Adam."""
    cells = [Cell("latency", network, 1) for network in GRID]
    tasks = ("predict", "sgd", "adam")
    for threads in ("1", "all"):
        for task in tasks:
            cells += [
                Cell(task, network, batch, threads=threads)
                for network in GRID
                for batch in BATCHES
            ]
    for task in tasks:
        cells += [Cell(task, "small", batch, "float64") for batch in BATCHES]
    cells.append(Cell("digits", "digits", 32))
    return cells


def crossed(tasks: tuple[str, ...], networks: list[str]) -> list[Cell]:
    """Every task with every network and every batch size, in float32 on one thread."""
    return [
        Cell(task, network, batch) for task in tasks for network in networks for batch in BATCHES
    ]


def beside(networks: tuple[str, ...], variants: tuple[str, ...]) -> list[str]:
    """Each network, followed by its variants."""
    return [
        name
        for network in networks
        for name in (network, *(f"{network}-{variant}" for variant in variants))
    ]


def embedding() -> list[Cell]:
    """What a program does with one row at a time, time and again."""
    tasks = ("bound-latency", "bound", "predict", "online", "jacobian")
    cells = [
        Cell(task, network, 1)
        for task in tasks
        for network in EMBEDDED
        if task != "online" or network != "example"
    ]
    return [*cells, Cell("online-adam", "small", 1)]


LAYERS = ("dropout", "layernorm")
LAYERED = beside(("small", "mnist", "wide"), LAYERS)

GROUPS = {
    DEFAULT: CellGroup(
        "predictions, and SGD's and Adam's steps, of all networks with ReLU; start-up; the default",
        tuple(grid()),
    ),
    "optimizers": CellGroup(
        "steps of AdamW, RMSProp and SGD with momentum",
        tuple(crossed(("adamw", "rmsprop", "momentum"), list(GRID[1:]))),
    ),
    "activations": CellGroup(
        "predictions and steps with GELU, tanh and sigmoid, beside ReLU",
        tuple(crossed(("predict", "sgd"), beside(("small", "mnist"), ACTIVATIONS))),
    ),
    "layers": CellGroup(
        "steps with dropout and with layer normalisation, beside those without, and the overhead",
        (
            *crossed(("sgd",), LAYERED),
            *crossed(("overhead",), [name for name in LAYERED if "-" in name]),
        ),
    ),
    "sparse": CellGroup(
        "predictions and steps of sparse, text-like rows",
        (Cell("predict", "text", 32), Cell("sgd", "text", 32)),
    ),
    "embedding": CellGroup(
        "one row at a time: bound predictions and their latency, single steps, Jacobians",
        tuple(embedding()),
    ),
}


def all_cells() -> list[Cell]:
    """Return every cell of every group, once."""
    return list(dict.fromkeys(cell for group in GROUPS.values() for cell in group.cells))


def is_quick(cell: Cell) -> bool:
    """Whether a cell belongs to the short run: small networks, float32, one thread."""
    small = cell.network in ("tiny", "small", "mnist", "digits")
    return small and cell.dtype == "float32" and cell.threads == "1"


def chosen(
    *, quick: bool = False, only: tuple[str, ...] = (), groups: tuple[str, ...] = ()
) -> list[Cell]:
    """Return the cells of a run.

    Parameters
    ----------
    quick : bool
        Take few of the default group, unless `only` or `groups` say otherwise.
    only : tuple of str
        Shell patterns, as of `Cell.matches`: among all cells, or those of the groups.
    groups : tuple of str
        Names of `GROUPS`.
    """
    named = [cell for group in groups for cell in GROUPS[group].cells]
    if only:
        among = named if groups else all_cells()
        return list(dict.fromkeys(cell for cell in among if cell.matches(only)))
    if groups:
        return list(dict.fromkeys(named))
    return [cell for cell in GROUPS[DEFAULT].cells if is_quick(cell) or not quick]
