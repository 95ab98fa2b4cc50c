"""Dataclass fields for settings; each field carries the range of its values."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Range:
    """The values that are allowed for a setting in the plans."""

    accepts: Callable[[Any], bool]
    """Returns whether a value is allowed."""
    description: str
    """The allowed values in words, for errors and for the reference."""


def range_of(setting: Field) -> Range | None:
    """Return the range of a dataclass field; None if it cannot be set in the plans."""
    return setting.metadata.get("range")


def setting(default: object, accepts: Callable[[Any], bool], description: str) -> Any:
    """Make a setting whose allowed values are decided by a function."""
    return field(default=default, metadata={"range": Range(accepts, description)})


def number(default: float, low: float, high: float) -> Any:
    """Make a setting for a number from `low` to `high`, both included."""

    def accepts(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return setting(default, accepts, f"a number from {low} to {high}")


def choice(default: str, values: tuple[str, ...]) -> Any:
    """Make a setting that is one of several words."""
    return setting(default, lambda value: isinstance(value, str) and value in values, f"one of {', '.join(values)}")


def switch(default: bool) -> Any:
    """Make a setting that is true or false."""
    return setting(default, lambda value: isinstance(value, bool), "true or false")


def whole(default: int, low: int, high: int | None = None) -> Any:
    """Make a setting for a whole number from `low` to `high`, both included; None means no upper limit."""

    def accepts(value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return low <= value and (high is None or value <= high)

    return setting(default, accepts, f"a whole number from {low}" + ("" if high is None else f" to {high}"))
