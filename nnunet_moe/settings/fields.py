"""Settings as fields of a dataclass that carry the range of their values."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Range:
    """The values that a setting may have in the plans."""

    accepts: Callable[[Any], bool]
    description: str
    """For errors, to stand after "allowed is"."""


def range_of(setting: Field) -> Range | None:
    """The range of a dataclass's field; None if the field cannot stand in the plans."""
    return setting.metadata.get("range")


def setting(default: object, accepts: Callable[[Any], bool], description: str) -> Any:
    """A setting whose values a function accepts."""
    return field(default=default, metadata={"range": Range(accepts, description)})


def number(default: float, low: float, high: float) -> Any:
    """A number from `low` to `high`, both included."""

    def accepts(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return setting(default, accepts, f"a number from {low} to {high}")


def switch(default: bool) -> Any:
    """True or false."""
    return setting(default, lambda value: isinstance(value, bool), "true or false")


def whole(default: int, low: int, high: int | None = None) -> Any:
    """A whole number from `low` to `high`, both included; None: without a limit."""

    def accepts(value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return low <= value and (high is None or value <= high)

    return setting(default, accepts, f"a whole number from {low}" + ("" if high is None else f" to {high}"))
