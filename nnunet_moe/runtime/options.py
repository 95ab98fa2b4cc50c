"""Options of a command as fields of a frozen dataclass: flag, default, group and help text of each in one place.

    @dataclass(frozen=True, kw_only=True)
    class Request:
        out: Path = option("-o", type=Path, group="input and output", help="write the results to this folder")
        seed: int = option("-seed", type=int, default=0, group="compute", help="seed the noise (default: %(default)s)")

`add_options` adds the options to a parser, and `read_request` makes the dataclass from the parsed options. In Python
code, construct the dataclass like any other.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from nnunet_moe.errors import SettingsError

RequestType = TypeVar("RequestType")

Group: TypeAlias = Literal[
    "input and output",
    "model",
    "modalities and labels",
    "alignment",
    "planning",
    "initial weights",
    "inference",
    "metrics",
    "container",
    "jobs",
    "compute",
]
"""The headings below which `--help` lists the options, in the order in which it shows them."""

_FLAGS = {"store_true": False, "store_false": True}
"""Action of a flag without a value -> the field's value if the flag is not given."""


@dataclass(frozen=True)
class _Option:
    flags: tuple[str, ...]
    group: Group | None
    help: str | None
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
    """Where an option is defined, and where the parsed namespace keeps its value."""

    field: Field
    name: str
    options: tuple[_Option, ...]

    @property
    def group(self) -> Group | None:
        return self.options[0].group

    @property
    def is_required(self) -> bool:
        return not _has_default(self.field)


def option(
    *flags: str,
    group: Group | None = None,
    help: str | None = None,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    **arguments: Any,
) -> Any:
    """Make a dataclass field that is an option; it is required if it has no default.

    Args:
        flags: as for argparse, or one name for a positional argument.
        group: the heading below which `--help` lists the option.
        help: the help text, which starts with a verb. `%(default)s` stands for the default.
        default: the field's default. For `store_true` and `store_false` it follows from the action.
        default_factory: computes a default that depends on the machine. It is called when the request is made.
        arguments: passed to `ArgumentParser.add_argument`: `type`, `nargs`, `choices`, `action`, `metavar`.
    """
    if default is MISSING and default_factory is MISSING:
        default = _FLAGS.get(arguments.get("action", ""), MISSING)
    options = (_Option(flags, group, help, arguments),)
    return field(default=default, default_factory=default_factory, metadata={"options": options})


def one_of(*alternatives: Any) -> Any:
    """Make a required field for which the user gives exactly one of several options.

    Args:
        alternatives: fields that `option` made, all in the same group.
    """
    return field(metadata={"options": tuple(each for made in alternatives for each in made.metadata["options"])})


def options_of(nested: type, *, help: Mapping[str, str] | None = None) -> Any:
    """Make a field whose value is another dataclass with options.

    The field has a default if all fields of that dataclass have one.

    Args:
        nested: the dataclass.
        help: first flag -> help text, for options whose text differs for this command.
    """
    has_default = all(map(_has_default, fields(nested)))
    metadata = {"nested": nested, "help": help or {}}
    return field(default_factory=nested, metadata=metadata) if has_default else field(metadata=metadata)


def named_value(text: str) -> tuple[str, str]:
    """Make a pair of name and value from `NAME=VALUE`, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: the text has another form.
    """
    name, separator, value = text.partition("=")
    if not (name.strip() and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


class NamedValues(argparse.Action):
    """Collect pairs of name and value in a dictionary; the option's `type` makes a pair from `NAME=VALUE`.

    Raises:
        SettingsError: a name is given twice.
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


def add_options(parser: argparse.ArgumentParser, request: type) -> None:
    """Add every option of a dataclass, and of the dataclasses in its fields, below the headings of their groups.

    The parsed namespace contains only the options that the user gave. Only the dataclass knows the defaults.
    """
    places = list(_places(request))
    for heading in (None, *get_args(Group)):
        of_group = [place for place in places if place.group == heading]
        if not of_group:
            continue
        target = parser if heading is None else parser.add_argument_group(heading)
        for place in of_group:
            _add(target, place)


def read_request(request: type[RequestType], namespace: argparse.Namespace, *, _prefix: str = "") -> RequestType:
    """Make the dataclass from the parsed options; lists become tuples.

    Raises:
        SettingsError: the dataclass refuses a value.
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


def _places(request: type, *, prefix: str = "", help: Mapping[str, str] | None = None) -> Iterator[_Place]:
    """Yield each option of a dataclass, and of the dataclasses in its fields, with its final help text."""
    for each in fields(request):
        name = f"{prefix}{each.name}"
        if "nested" in each.metadata:
            yield from _places(each.metadata["nested"], prefix=f"{name}.", help=each.metadata["help"])
        elif made := each.metadata.get("options", ()):
            texts = ((help or {}).get(option.flags[0], option.help) for option in made)
            pairs = zip(made, texts, strict=True)
            yield _Place(each, name, tuple(replace(option, help=_filled_in(text, each)) for option, text in pairs))


def _add(target: Any, place: _Place) -> None:
    """Add the options of one field to a parser or to a group of it."""
    exclude_each_other = len(place.options) > 1
    if exclude_each_other:
        target = target.add_mutually_exclusive_group(required=True)
    for made in place.options:
        arguments = {**made.arguments, "help": made.help, "default": argparse.SUPPRESS}
        if not made.flags[0].startswith("-"):
            target.add_argument(place.name, **{"metavar": made.flags[0], **arguments})
            continue
        if arguments.get("action") in (None, "append", NamedValues) and "choices" not in arguments:
            arguments.setdefault("metavar", _metavar(made.flags))
        required = place.is_required and not exclude_each_other
        target.add_argument(*made.flags, dest=place.name, required=required, **arguments)


def _metavar(flags: tuple[str, ...]) -> str:
    """Return the placeholder that argparse itself would use if `dest` were not given."""
    longest = next((flag for flag in flags if flag.startswith("--")), flags[0])
    return longest.lstrip("-").upper()


def _has_default(of: Field) -> bool:
    return of.default is not MISSING or of.default_factory is not MISSING


def _filled_in(text: str | None, of: Field) -> str | None:
    """Return a help text with the field's default in it, written as on the command line."""
    if text is None or "%(default)s" not in text:
        return text
    factory: Callable[[], Any] | Any = of.default_factory
    default = of.default if of.default is not MISSING else factory()
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return text.replace("%(default)s", shown.replace("%", "%%"))
