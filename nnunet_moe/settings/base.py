"""The settings that all methods share."""

from dataclasses import dataclass

from nnunet_moe.settings.fields import setting, switch, whole


def _is_code(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return any(value) and all(digit in (0, 1) for digit in value)


def _is_table(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(_is_code(row) and len(row) == len(value[0]) for row in value)


@dataclass(frozen=True)
class Settings:
    """The settings that all trainers read; a method with more settings has a subclass, which its trainers name.

    A field without a range (see `fields.range_of`) is fixed by the trainer and cannot be set in the plans.
    """

    num_epochs: int = whole(1000, 1)
    """Number of epochs."""
    num_iterations_per_epoch: int = whole(250, 1)
    """Number of training batches in an epoch."""
    num_val_iterations_per_epoch: int = whole(50, 1)
    """Number of validation batches in an epoch; the modality codes take turns."""
    modality_code: tuple[int, ...] | None = setting(
        None, _is_code, "a list of 0 and 1, one for each channel, not all 0"
    )
    """The modality code of a dedicated model; only `nnUNetTrainerDedicated` accepts it."""
    label_sets: tuple[tuple[int, ...], ...] | None = setting(None, _is_table, "a list of lists of 0 and 1")
    """For each modality a list with 1 for each output of the network that its annotation covers, else 0. Trainers
    write it into the plans of their models. Users write `label_sets` into dataset.json instead."""
    predict_all_labels: bool = switch(False)
    """Whether predictions may contain labels outside the label sets of a case's modalities."""
    seed: int = whole(0, 0)
    """Seed of the random draws, such as initial weights, dropped modalities and noise on the codes."""
