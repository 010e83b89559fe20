"""Two results compared: what became slower beyond the noise.

Ratios are compared, never times: each ratio was measured side by side, so that a slower machine,
or a busy one, does not look like a slower fastbp.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

Result = dict[str, Any]

FLOOR = 0.05  # smaller changes are none: another layout of memory or code makes as much
WIDENING = 2.0  # of the uncertainty, since a hundred cells are compared at once
LATENCY_NOISE = 0.10


@dataclass(frozen=True)
class Change:
    """How a cell changed.

    Parameters
    ----------
    cell : str
    change : float
        New speed over old speed, both relative to the same peers: 0.8 is a fifth slower.
    noise : float
        Relative change that can be chance.
    n_peers : int
    """

    cell: str
    change: float
    noise: float
    n_peers: int

    @property
    def is_regression(self) -> bool:
        """Whether it became slower beyond the noise."""
        return self.change < 1 - self.noise

    @property
    def is_gain(self) -> bool:
        """Whether it became faster beyond the noise."""
        return self.change > 1 / (1 - self.noise)


def relative_noise(*uncertainties: float) -> float:
    """Combine the uncertainties of two ratios to what their quotient may be off by chance."""
    return max(FLOOR, WIDENING * math.hypot(*uncertainties))


def uncertainty(ratio: Result) -> float:
    """Half the confidence interval of a ratio, relative to its median."""
    return float((ratio["high"] - ratio["low"]) / (2 * ratio["median"]))


def quotient(old: Result, new: Result) -> tuple[float, float]:
    """Return the change of one pair of cell and peer, and its noise."""
    if "median" in new:
        noise = relative_noise(uncertainty(old), uncertainty(new))
        return new["median"] / old["median"], noise
    return new["p50"] / old["p50"], LATENCY_NOISE


def compare(old: Result, new: Result) -> list[Change]:
    """Compare all cells that both results have measured against a common peer.

    A change of fastbp moves its ratios to all peers, a change of one peer that peer's ratio
    alone. The median over the peers tells the one from the other.
    """
    before = {(each["cell"], each["peer"]): each for each in old["measurements"]}
    changes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in new["measurements"]:
        earlier = before.get((each["cell"], each["peer"]), {})
        if "ratio" in each and "ratio" in earlier:
            changes[each["cell"]].append(quotient(earlier["ratio"], each["ratio"]))
    imports = [result.get("startup", {}).get("imports", {}).get("fastbp") for result in (old, new)]
    if all(imports):
        # Here a larger number is the slower one.
        change, noise = quotient(imports[1]["by_numpy"], imports[0]["by_numpy"])
        changes["startup"].append((change, noise))
    return [
        Change(
            cell=cell,
            change=median(change for change, _ in found),
            noise=median(noise for _, noise in found),
            n_peers=len(found),
        )
        for cell, found in changes.items()
    ]


def differences(old: Result, new: Result) -> list[str]:
    """Say what else differs between the two runs and may matter."""
    said = []
    for name in ("processor", "cores", "python", "engine"):
        was, now = old["machine"].get(name), new["machine"].get(name)
        if was != now:
            said.append(f"{name}: {was} then, {now} now")
    versions = (old["machine"]["versions"], new["machine"]["versions"])
    for name in sorted(versions[0].keys() & versions[1].keys()):
        if versions[0][name] != versions[1][name]:
            said.append(f"{name}: {versions[0][name]} then, {versions[1][name]} now")
    if old["quick"] != new["quick"]:
        said.append("one of the two runs was a quick one")
    return said


def text(changes: list[Change], old: Result, new: Result) -> str:
    """Write the comparison for the terminal."""
    lines = [f"compared with the run of {old['started']}: {len(changes)} cells"]
    lines += [f"  mind: {said}" for said in differences(old, new)]
    for word, chosen in (
        ("slower", [each for each in changes if each.is_regression]),
        ("faster", [each for each in changes if each.is_gain]),
    ):
        lines += [
            f"  {word}: {each.cell}  {each.change:.2f} times the speed "
            f"(noise {each.noise:.0%}, {each.n_peers} peers)"
            for each in sorted(chosen, key=lambda each: each.change)
        ]
    if not any(each.is_regression for each in changes):
        lines.append("  nothing became slower beyond the noise")
    return "\n".join(lines)
