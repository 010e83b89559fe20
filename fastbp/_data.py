"""What the frozen dataclasses of settings share: checks in one go, and a short repr."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

__all__ = ["check_fields", "short_repr"]


def check_fields(thing: Any, checks: Mapping[str, Callable[[str, Any], Any]]) -> None:
    """Put each field through its check, ``check(name, value) -> value``, or raise its error."""
    for each in fields(thing):
        checked = checks[each.name](each.name, getattr(thing, each.name))
        object.__setattr__(thing, each.name, checked)


def short_repr(thing: Any, *always: str) -> str:
    """Return the call that makes it, without what is left at its default but for `always`."""
    shown = [
        f"{each.name}={getattr(thing, each.name)!r}"
        for each in fields(thing)
        if each.name in always or getattr(thing, each.name) != each.default
    ]
    return f"{type(thing).__name__}({', '.join(shown)})"
