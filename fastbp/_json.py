"""Layers, activations, losses, optimizers and schedules as JSON, and back through their checks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from reprlib import repr as quoted  # which is short, however large a thing is
from typing import Any, NoReturn, get_args

import numpy as np

from fastbp import schedules
from fastbp.activations import Activation
from fastbp.layers import Layer
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS

__all__ = ["from_json", "read_json", "to_json", "write_json"]

# A kind is the name of a class after that of its module, as there are two called Cosine.
KINDS: dict[str, type] = {
    f"{each.__module__.rpartition('.')[2]}.{each.__name__}": each
    for each in (
        *get_args(Layer), *get_args(Activation), *LOSSES.values(), *OPTIMIZERS.values(),
        schedules.StepDecay, schedules.Exponential, schedules.InverseScaling, schedules.Polynomial,
        schedules.Cosine, schedules.WarmUp, schedules.OneCycle, schedules.Plateau,
    )
}
NAMES = {each: kind for kind, each in KINDS.items()}
# Settings within settings; more would come near the depth that Python's own calls may have.
DEEPEST = 64
# Of a number; more take time to read that grows with their square.
MOST_DIGITS = 400


def to_json(thing: Any, name: str = "settings") -> Any:
    """Return settings as what JSON holds: each dataclass with its kind and all of its fields.

    A callable `init` becomes "auto": who reads it has the weights that it made.

    Raises
    ------
    TypeError
        If there is something else in it, such as a function; `name` and the fields' names say
        where.
    """
    if isinstance(thing, np.generic):
        thing = thing.item()
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if type(thing) in (list, tuple):
        return [to_json(each, name) for each in thing]
    if isinstance(thing, Mapping) and "kind" not in thing and all(map(_is_text, thing)):
        return {key: to_json(value, f"{name}[{key!r}]") for key, value in thing.items()}
    if type(thing) not in NAMES:
        raise TypeError(f"{name} is no setting that JSON can hold: {thing!r}")
    written = {"kind": NAMES[type(thing)]}
    for each in fields(thing):
        value = getattr(thing, each.name)
        if each.name == "init" and callable(value):
            value = "auto"
        written[each.name] = to_json(value, f"{type(thing).__name__}.{each.name}")
    return written


def _is_text(thing: object) -> bool:
    return isinstance(thing, str)


def from_json(data: Any, room: int = DEEPEST) -> Any:
    """Return what `to_json` has written, made by the dataclasses themselves.

    Raises
    ------
    TypeError, ValueError
        If a kind or a field is unknown, a field is missing, a value is not accepted, or there is
        too much within one another.
    """
    if room == 0:
        raise ValueError(f"settings lie within settings, more than {DEEPEST} deep")
    if isinstance(data, list):
        return [from_json(each, room - 1) for each in data]
    if not isinstance(data, dict):
        return data
    if "kind" not in data:
        return {name: from_json(value, room - 1) for name, value in data.items()}
    kind = data["kind"]
    if not (isinstance(kind, str) and kind in KINDS):
        raise ValueError(f"unknown kind {quoted(kind)}")
    names = {each.name for each in fields(KINDS[kind])}
    if names != data.keys() - {"kind"}:
        missing, unknown = sorted(names - data.keys()), sorted(data.keys() - names - {"kind"})
        raise ValueError(
            f"{kind} lacks the fields {quoted(missing)} and has unknown ones {quoted(unknown)}"
        )
    values = {name: from_json(data[name], room - 1) for name in names}
    try:
        return KINDS[kind](**values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{kind}: {error}") from None


def write_json(data: Any) -> str:
    """Return JSON on one line, as short as it gets.

    Raises
    ------
    ValueError
        If a number in it is not finite, which JSON does not know.
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def read_json(text: str | bytes) -> Any:
    """Read JSON as its standard has it, and no name twice in one object.

    Raises
    ------
    ValueError
        If it is no such JSON, or goes too deep.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")  # the only encoding that the standard leaves
    try:
        return json.loads(
            text, object_pairs_hook=_each_once, parse_constant=_refuse, parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError("arrays or objects lie too deep within one another") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {quoted(twice)} is there twice in one object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{quoted(digits)} is too large for a float")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, more than {MOST_DIGITS}")
    return int(digits)
