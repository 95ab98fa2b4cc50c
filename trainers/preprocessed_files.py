"""Check that the files of the training cases are those that a trainer needs, before the first epoch."""

from collections.abc import Collection
from pathlib import Path

from nnunet_moe.errors import ModalityError, ModelError

_ENDINGS = (".b2nd", ".npy", ".npz")
"""The endings of nnU-Net's files of a previous stage."""


def require_previous_stage(cases: Collection[str], folder: Path, configuration: str) -> None:
    """Make sure that each case has a segmentation of the first stage of a cascade.

    Args:
        cases: the cases for training and for validation.
        folder: where nnU-Net stores these segmentations.
        configuration: the first stage.

    Raises:
        ModelError: cases have none.
    """
    missing = [case for case in sorted(cases) if not any((folder / f"{case}{ending}").exists() for ending in _ENDINGS)]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(cases)} cases, such as {missing[0]}, have no segmentation of configuration "
            f"{configuration} in {folder}. Train all folds of {configuration} with this trainer first. The validation "
            "at the end of each training writes them."
        )


def require_all_channels(case: str, found: int, expected: int, dataset: str, configuration: str) -> None:
    """Make sure that a preprocessed case has all channels, also those of missing files.

    Args:
        case: its name.
        found: the number of its channels.
        expected: the number of modalities of the dataset.
        dataset: its name.
        configuration: the configuration that is trained.

    Raises:
        ModalityError: the case has another number of channels.
    """
    if found != expected:
        raise ModalityError(
            f"{case} was preprocessed with {found} of {expected} channels. nnUNetv2_preprocess leaves out missing "
            f"files. Preprocess the cases again: nnunet_moe plan_and_preprocess -d {dataset} -c {configuration}"
        )
