"""What all settings share: fields that are set once, checks in one go, and a short repr."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:
    def dataclass_transform(**_: bool) -> Callable[[type], type]:
        """Stand in for what Python has from 3.11 on: it tells type checkers only."""
        return lambda made: made

__all__ = ["Frozen", "check_fields", "short_repr"]


@dataclass_transform(frozen_default=True)
class Frozen:
    """Each subclass is a dataclass whose fields are set once, by its ``__init__``.

    As ``dataclass(frozen=True)`` has it, which compiles five more functions for every class: with
    these, an import of fastbp would take a third longer.
    """

    def __init_subclass__(cls) -> None:
        """Make the class a dataclass."""
        dataclass(eq=False, repr=False)(cls)

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field that is not set yet."""
        if name in vars(self) or all(name != each.name for each in fields(self)):  # type: ignore[arg-type]
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse it."""
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        """Whether it is the same class with equal fields."""
        if not isinstance(other, Frozen) or other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        """Hash the fields."""
        return hash(self._values())

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return short_repr(self, *(each.name for each in fields(self)))  # type: ignore[arg-type]


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
