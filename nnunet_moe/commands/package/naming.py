"""Choose the names that a contract uses for the modalities of a model, unless the user gives them."""

import re
from collections.abc import Mapping, Sequence

from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.errors import SettingsError

KNOWN_INPUTS = {
    "brats": {
        "-t1c": ("t1c", "t1ce", "t1gd"),
        "-t1n": ("t1n", "t1", "t1w"),
        "-t2w": ("t2w", "t2"),
        "-t2f": ("t2f", "flair"),
        "-seg": (),
    },
    "fomo": {
        "flair": ("flair", "t2f"),
        "dwi_b1000": ("dwi_b1000", "dwi", "b1000"),
        "adc": ("adc",),
        "t2s": ("t2s", "t2*", "t2star"),
        "swi": ("swi",),
    },
}
"""The inputs of each contract, with the names (in lower case) of the modalities that they stand for."""


def make_mapping(
    target: str,
    inputs: Mapping[str, str | None] | None,
    output: str | None,
    *,
    modalities: Sequence[str],
    kept: Sequence[str],
    file_ending: str,
    step_size: float,
    mirroring: bool,
) -> InputMapping:
    """Make the mapping of a package.

    Args:
        target: one of `TARGETS`.
        inputs: socket, suffix or flag -> modality, None if it is not used. None: derived from the modalities' names.
        output: the output socket's slug, or the ending of the segmentations' files. None: set by the contract.
        modalities: the modalities of the model.
        kept: the modalities that the container uses. Inputs of others are accepted and not used.
        file_ending: the file ending of the dataset.

    Raises:
        SettingsError: a modality is unknown or has no name, or one name stands for two modalities.
    """
    if inputs is None:
        inputs = default_inputs(target, modalities)
    elif target == "brats":
        inputs = {f"-{key}" if key[0].isalnum() else key: name for key, name in inputs.items()}
    outputs = {"grand-challenge": "segmentation", "plain": file_ending}
    output = output or outputs.get(target, ".nii.gz")
    InputMapping(target, dict(inputs), output, step_size, mirroring).require_modalities(modalities)
    if lacking := [name for name in kept if name not in inputs.values()]:
        raise SettingsError(f"-inputs names nothing for {', '.join(lacking)}. Name a socket, suffix or flag for each.")
    used = {key: name if name in kept else None for key, name in inputs.items()}
    return InputMapping(target, used, output, step_size, mirroring)


def default_inputs(target: str, modalities: Sequence[str]) -> dict[str, str | None]:
    """Return the inputs that a contract sends for modalities of these names, and its other inputs.

    Raises:
        SettingsError: two modalities would get the same name, or one modality gets no name.
    """
    if target == "plain":
        return {f"_{channel:04d}": name for channel, name in enumerate(modalities)}
    known = KNOWN_INPUTS.get(target, {})
    inputs: dict[str, str | None] = {}
    for name in modalities:
        key = next((key for key, names in known.items() if name.lower() in names), None) or _key(target, name)
        if key in inputs:
            raise SettingsError(f"{inputs[key]} and {name} would both get the name {key!r}. Name them with -inputs.")
        inputs[key] = name
    return inputs | {key: None for key in known if key not in inputs}


def slug(text: str, separator: str = "-") -> str:
    """Turn a text into (a part of) a name for sockets, flags and images: a-z, 0-9 and the separator."""
    return re.sub(r"[^a-z0-9]+", separator, text.lower()).strip(separator)


def _key(target: str, modality: str) -> str:
    name = slug(modality, "_" if target == "fomo" else "-")
    if not name:
        raise SettingsError(
            f"{modality!r} has no letter (a-z) or digit for the name of a socket, suffix or flag. Name it with -inputs."
        )
    return f"-{name}" if target == "brats" else name
