"""The settings that users can write into a configuration of the plans, under the key `nnunet_moe`.

The same plans file works for the trainers of all methods: a trainer accepts the keys of all methods, but reads only its
own.
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
"""The key of the settings in a configuration."""
METHODS: tuple[type[Settings], ...] = (MoESDSettings, LCKDSettings, M4oESettings)

_Settings = TypeVar("_Settings", bound=Settings)


def known_settings() -> dict[str, Range]:
    """Return the settings of all methods, name -> range: first those of single methods, then the shared ones."""
    shared = _ranges(Settings)
    own = {name: values for method in METHODS for name, values in _ranges(method).items() if name not in shared}
    return own | shared


def read_settings(
    settings_class: type[_Settings], configuration: Mapping[str, Any], forced: Mapping[str, Any] | None = None
) -> _Settings:
    """Read the settings of one configuration of the plans.

    Args:
        settings_class: the settings of the trainer's method; keys of other methods are checked, but not read.
        configuration: a resolved configuration (nnU-Net's `ConfigurationManager.configuration`).
        forced: settings that the trainer fixes; they override the plans.

    Raises:
        SettingsError: a key is unknown to all methods, or a value is out of range; the message lists what is allowed.
    """
    given = given_settings(configuration)
    require_allowed(given, f"under '{PLANS_KEY}' in the plans")
    own = _ranges(settings_class)
    merged = {**{name: value for name, value in given.items() if name in own}, **(forced or {})}
    return settings_class(**{name: _frozen(value) for name, value in merged.items()})


def given_settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration as they are written there.

    Raises:
        SettingsError: the key of the settings is misspelled, or its value is not an object.
    """
    for key in configuration:
        if key != PLANS_KEY and re.sub("[^a-z]", "", key.lower()) == "nnunetmoe":
            raise SettingsError(
                f"The configuration in the plans has the key {key!r}. The key for settings is {PLANS_KEY!r}. Rename it."
            )
    given = configuration.get(PLANS_KEY, {})
    if not isinstance(given, dict):
        raise SettingsError(
            f"{PLANS_KEY!r} in the plans is {given!r}. It must be an object with names and values of settings. "
            "Correct it."
        )
    return given


def require_allowed(given: Mapping[str, Any], where: str) -> None:
    """Make sure that settings are known to a method and in range.

    Args:
        given: name -> value, as a user wrote them.
        where: where they were written, for the message.

    Raises:
        SettingsError: a name is unknown to all methods, or a value is out of range; the message lists what is allowed.
    """
    ranges = known_settings()
    for name, value in given.items():
        if name not in ranges:
            raise SettingsError(
                f"Unknown setting {name!r} {where}. Allowed are {', '.join(ranges)}. Correct or remove it."
            )
        if not ranges[name].accepts(value):
            raise SettingsError(
                f"Setting {name!r} {where} is {value!r}. The allowed value is {ranges[name].description}. Correct it."
            )


def unread_settings(given: Iterable[str], settings_class: type[Settings], forced: Iterable[str] = ()) -> list[str]:
    """Return the given settings without effect, because they belong to another method or are forced; sorted."""
    return sorted((set(given) - _ranges(settings_class).keys()) | (set(given) & set(forced)))


def _ranges(settings_class: type[Settings]) -> dict[str, Range]:
    """Return the settings that a class reads from the plans, name -> range."""
    found = {setting.name: range_of(setting) for setting in fields(settings_class)}
    return {name: values for name, values in found.items() if values is not None}


def _frozen(value: Any) -> Any:
    """Convert a list from the plans, and the lists in it, to tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
