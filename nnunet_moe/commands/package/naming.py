"""What a contract calls the modalities of a model, unless it is told otherwise."""

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
"""What a contract sends, and the names, in lower case, under which modalities are known for it."""


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
    """The mapping of a package.

    Args:
        target: one of `TARGETS`.
        inputs: socket, suffix or flag -> modality, None if it is not used; None: by the modalities' names.
        output: the output socket's slug, or the ending of the segmentations' files; None: the contract's.
        modalities: of the model.
        kept: those that the container takes; what stands for others is known and not used.
        file_ending: of the dataset.

    Raises:
        SettingsError: an unknown modality, one without a name, or a name for two of them.
    """
    if inputs is None:
        inputs = default_inputs(target, modalities)
    elif target == "brats":
        inputs = {f"-{key}" if key[0].isalnum() else key: name for key, name in inputs.items()}
    outputs = {"grand-challenge": "segmentation", "plain": file_ending}
    output = output or outputs.get(target, ".nii.gz")
    InputMapping(target, dict(inputs), output, step_size, mirroring).require_modalities(modalities)
    if lacking := [name for name in kept if name not in inputs.values()]:
        raise SettingsError(f"-inputs has nothing for {', '.join(lacking)}. Name a socket, suffix or flag for each.")
    used = {key: name if name in kept else None for key, name in inputs.items()}
    return InputMapping(target, used, output, step_size, mirroring)


def default_inputs(target: str, modalities: Sequence[str]) -> dict[str, str | None]:
    """What a contract calls modalities of these names, and what else it sends.

    Raises:
        SettingsError: it would call two of them the same, or has no name for one.
    """
    if target == "plain":
        return {f"_{channel:04d}": name for channel, name in enumerate(modalities)}
    known = KNOWN_INPUTS.get(target, {})
    inputs: dict[str, str | None] = {}
    for name in modalities:
        key = next((key for key, names in known.items() if name.lower() in names), None) or _key(target, name)
        if key in inputs:
            raise SettingsError(f"{inputs[key]} and {name} would both be {key!r}. Name them by -inputs.")
        inputs[key] = name
    return inputs | {key: None for key in known if key not in inputs}


def slug(text: str, separator: str = "-") -> str:
    """A text as (part of) a name for sockets, flags and images: lower-case letters, digits and the separator."""
    return re.sub(r"[^a-z0-9]+", separator, text.lower()).strip(separator)


def _key(target: str, modality: str) -> str:
    name = slug(modality, "_" if target == "fomo" else "-")
    if not name:
        raise SettingsError(f"No socket, suffix or flag can be made of {modality!r}. Name it by -inputs.")
    return f"-{name}" if target == "brats" else name
