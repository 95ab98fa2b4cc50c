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
    """What every trainer reads. A method with settings of its own has a subclass, which its trainers name.

    A field without a range (`fields.range_of`) is the trainer's business and cannot stand in the plans.
    """

    num_epochs: int = whole(1000, 1)
    num_iterations_per_epoch: int = whole(250, 1)
    num_val_iterations_per_epoch: int = whole(50, 1)
    modality_code: tuple[int, ...] | None = setting(None, _is_code, "a list of 0 and 1, one a channel, not all 0")
    """The one code of a dedicated model."""
    label_sets: tuple[tuple[int, ...], ...] | None = setting(None, _is_table, "a list of lists of 0 and 1")
    """For each modality a 0 or 1 an output of the network: what its annotation covers. Trainers write it into their
    model's plans; users write `label_sets` into dataset.json."""
    predict_all_labels: bool = switch(False)
    """Whether labels outside the sets of a case's modalities may appear in predictions."""
    seed: int = whole(0, 0)
    """Fixes the initial weights, the order of the dropped codes and the noise on the codes."""
