"""The settings that a user may write into a configuration of the plans, under the key `nnunet_moe`.

One plans file serves the trainers of all methods: a trainer accepts the keys of every method and reads its own.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from nnunet_moe.errors import SettingsError
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import Range, range_of
from nnunet_moe.settings.lckd import LCKDSettings
from nnunet_moe.settings.m4oe import M4oESettings
from nnunet_moe.settings.moesd import MoESDSettings

PLANS_KEY = "nnunet_moe"
METHODS: tuple[type[Settings], ...] = (MoESDSettings, LCKDSettings, M4oESettings)

_Settings = TypeVar("_Settings", bound=Settings)


def known_settings() -> dict[str, Range]:
    """Name -> range of what any method reads from the plans: the methods' own settings, then those that all share."""
    shared = _ranges(Settings)
    own = {name: values for method in METHODS for name, values in _ranges(method).items() if name not in shared}
    return own | shared


def read_settings(
    settings_class: type[_Settings], configuration: Mapping[str, Any], forced: Mapping[str, Any] | None = None
) -> _Settings:
    """Read the settings of one configuration of the plans.

    Args:
        settings_class: of the trainer's method; keys of other methods are checked and not read.
        configuration: a resolved configuration (nnU-Net's `ConfigurationManager.configuration`).
        forced: settings that a trainer fixes; they win over the plans.

    Raises:
        SettingsError: a key that no method knows, or a value out of range; the message lists what is allowed.
    """
    given = given_settings(configuration)
    require_allowed(given, f"under '{PLANS_KEY}' in the plans")
    own = _ranges(settings_class)
    merged = {**{name: value for name, value in given.items() if name in own}, **(forced or {})}
    return settings_class(**{name: _frozen(value) for name, value in merged.items()})


def given_settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a configuration contains, as they are written.

    Raises:
        SettingsError: they stand under a misspelt key, or are no object.
    """
    for key in configuration:
        if key != PLANS_KEY and re.sub("[^a-z]", "", key.lower()) == "nnunetmoe":
            raise SettingsError(
                f"The configuration in the plans has a key {key!r}; the settings' key is {PLANS_KEY!r}."
            )
    given = configuration.get(PLANS_KEY, {})
    if not isinstance(given, dict):
        raise SettingsError(f"'{PLANS_KEY}' in the plans is {given!r}; it must be an object of settings.")
    return given


def require_allowed(given: Mapping[str, Any], where: str) -> None:
    """Make sure that settings as someone has written them are known to a method and in range.

    Args:
        given: name -> value.
        where: they were written, for the message.

    Raises:
        SettingsError: a name that no method knows, or a value out of range; the message lists what is allowed.
    """
    ranges = known_settings()
    for name, value in given.items():
        if name not in ranges:
            raise SettingsError(f"Unknown setting {name!r} {where}. Allowed are {', '.join(ranges)}.")
        if not ranges[name].accepts(value):
            raise SettingsError(
                f"Setting {name!r} {where} is {value!r}; allowed is {ranges[name].description}. Correct it there."
            )


def unread_settings(given: Iterable[str], settings_class: type[Settings], forced: Iterable[str] = ()) -> list[str]:
    """Those of the given names, in alphabetical order, that have no effect: of another method, or forced."""
    return sorted((set(given) - _ranges(settings_class).keys()) | (set(given) & set(forced)))


def _ranges(settings_class: type[Settings]) -> dict[str, Range]:
    """Name -> range of what a class reads from the plans."""
    found = {setting.name: range_of(setting) for setting in fields(settings_class)}
    return {name: values for name, values in found.items() if values is not None}


def _frozen(value: Any) -> Any:
    """A list of the plans' JSON as a tuple, the lists in it, too."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
