"""Options of a command as fields of a frozen dataclass: each has its flag, default, help and meaning in one place.

    @dataclass(frozen=True, kw_only=True)
    class Request:
        out: Path = option("-o", type=Path, help="output folder")
        step_size: float = option("-step_size", type=float, default=0.5, help="of the window (default: %(default)s)")

`add_options` gives the options to a parser, and `read_request` makes the dataclass of what was parsed. From Python the
dataclass is constructed as any other.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from nnunet_moe.errors import SettingsError

RequestType = TypeVar("RequestType")

_FLAGS = {"store_true": False, "store_false": True}
"""Actions without a value -> what holds if the flag is not given."""


@dataclass(frozen=True)
class _Option:
    flags: tuple[str, ...]
    help: str | None
    arguments: Mapping[str, Any]


def option(
    *flags: str,
    help: str | None = None,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    **arguments: Any,
) -> Any:
    """Make a dataclass's field that is an option; without a default it is required.

    Args:
        flags: as for argparse, or one name for a positional argument.
        help: `%(default)s` stands for the default.
        default: the field's default. For `store_true` and `store_false` it follows from the action.
        default_factory: makes the default when the request is made, for one that depends on the machine.
        arguments: of `ArgumentParser.add_argument`: `type`, `nargs`, `choices`, `action`, `metavar`.
    """
    if default is MISSING and default_factory is MISSING:
        default = _FLAGS.get(arguments.get("action", ""), MISSING)
    options = (_Option(flags, help, arguments),)
    return field(default=default, default_factory=default_factory, metadata={"options": options})


def one_of(*alternatives: Any) -> Any:
    """Make a required field that several options set, of which exactly one is given.

    Args:
        alternatives: fields that `option` made.
    """
    return field(metadata={"options": tuple(each for made in alternatives for each in made.metadata["options"])})


def options_of(nested: type, *, help: Mapping[str, str] | None = None) -> Any:
    """Make a field whose value is another dataclass with options.

    It has a default if all fields of that dataclass have one.

    Args:
        nested: the dataclass.
        help: first flag -> help, where it says something else for this command.
    """
    has_default = all(map(_has_default, fields(nested)))
    metadata = {"nested": nested, "help": help or {}}
    return field(default_factory=nested, metadata=metadata) if has_default else field(metadata=metadata)


class NamedValues(argparse.Action):
    """Collect pairs of name and value, which `type` makes of `NAME=VALUE`, in a dictionary.

    Raises:
        SettingsError: a name comes twice.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        found = dict(getattr(namespace, self.dest, {}))
        for name, value in values if isinstance(values, list) else [values]:
            if name in found:
                raise SettingsError(f"{self.option_strings[0]} names {name} twice.")
            found[name] = value
        setattr(namespace, self.dest, found)


def add_options(
    parser: argparse.ArgumentParser,
    request: type,
    *,
    help: Mapping[str, str] | None = None,
    _prefix: str = "",
) -> None:
    """Add every option of a dataclass, and of those that it holds.

    The parsed namespace contains only what was given, so the dataclass alone knows the defaults.

    Args:
        help: first flag -> help that takes the place of the field's.
    """
    for each in fields(request):
        if "nested" in each.metadata:
            nested, nested_help = each.metadata["nested"], each.metadata["help"]
            add_options(parser, nested, help=nested_help, _prefix=f"{_prefix}{each.name}.")
            continue
        options: tuple[_Option, ...] = each.metadata.get("options", ())
        target = parser
        if len(options) > 1:
            target = parser.add_mutually_exclusive_group(required=True)
        for made in options:
            text = (help or {}).get(made.flags[0], made.help)
            arguments = {**made.arguments, "help": _filled_in(text, each), "default": argparse.SUPPRESS}
            _add(target, f"{_prefix}{each.name}", made.flags, arguments, is_required=target is parser, of=each)


def read_request(request: type[RequestType], namespace: argparse.Namespace, *, _prefix: str = "") -> RequestType:
    """Make a dataclass of what was parsed; lists become tuples.

    Raises:
        SettingsError: what the dataclass itself refuses.
    """
    given, values = vars(namespace), {}
    for each in fields(request):  # pyright: ignore[reportArgumentType]
        name = f"{_prefix}{each.name}"
        if "nested" in each.metadata:
            values[each.name] = read_request(each.metadata["nested"], namespace, _prefix=f"{name}.")
        elif name in given:
            value = given[name]
            values[each.name] = tuple(value) if isinstance(value, list) else value
    return request(**values)


def _add(
    target: Any, name: str, flags: tuple[str, ...], arguments: dict[str, Any], *, is_required: bool, of: Field
) -> None:
    """Add one option whose value the namespace keeps under `name`."""
    if not flags[0].startswith("-"):
        target.add_argument(name, **{"metavar": flags[0], **arguments})
        return
    if arguments.get("action") in (None, "append", NamedValues) and "choices" not in arguments:
        arguments.setdefault("metavar", _metavar(flags))
    required = is_required and not _has_default(of)
    target.add_argument(*flags, dest=name, required=required, **arguments)


def _metavar(flags: tuple[str, ...]) -> str:
    """The placeholder that argparse itself would take if `dest` were not given."""
    longest = next((flag for flag in flags if flag.startswith("--")), flags[0])
    return longest.lstrip("-").upper()


def _has_default(of: Field) -> bool:
    return of.default is not MISSING or of.default_factory is not MISSING


def _filled_in(text: str | None, of: Field) -> str | None:
    """A help text with the field's default in it."""
    if text is None or "%(default)s" not in text:
        return text
    factory: Callable[[], Any] | Any = of.default_factory
    default = of.default if of.default is not MISSING else factory()
    return text.replace("%(default)s", str(default).replace("%", "%%"))
