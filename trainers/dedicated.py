"""Dedicated models, one for each modality code: the paper's comparison, and what most users train today."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import channel_names, code_text
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality


class nnUNetTrainerDedicated(nnUNetTrainerMissingModality):
    """Trains one dedicated model, only for the modalities of `modality_code` in the plans.

    The model sees each batch once, and it uses no other modalities. Cases that lack one of its modalities are skipped.
    The loss is nnU-Net's.
    """

    is_dedicated = True

    def initialize(self) -> None:
        """Initialize as every trainer does; the log names the modalities of the model."""
        super().initialize()
        (code,) = self.validation_codes
        text = code_text(code, channel_names(self.dataset_json))
        self.print_to_log_file(f"Dedicated model: trained and validated only on {text}; other modalities are ignored")

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split without the cases that lack one of the model's modalities.

        Raises:
            ModalityError: no training case or no validation case remains.
        """
        split: Any = super().do_split()
        training, validation = split
        return self._having_the_code(training, "training"), self._having_the_code(validation, "validation")

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute L_seg and its gradients; see the base class.

        The network itself ignores other modalities, so none has to be dropped.
        """
        with self._autocast():
            parts = {"L_seg": self.loss(self.network(data), target)}
        self._backward(parts)
        return parts

    def _having_the_code(self, cases: Sequence[str], part: str) -> list[str]:
        (code,) = self.validation_codes
        text = code_text(code, channel_names(self.dataset_json))
        needed = [channel for channel, is_needed in enumerate(code) if is_needed]
        kept = [case for case in cases if all(self._available(case)[channel] for channel in needed)]
        if not kept:
            raise ModalityError(
                f"Fold {self.fold}: none of its {len(cases)} {part} cases has {text}. A dedicated model needs cases "
                "with all its modalities. Train another fold, or change 'modality_code'."
            )
        if left_out := sorted(set(cases) - set(kept)):
            self.print_to_log_file(f"Skipped {part} cases that do not have all of {text}: {', '.join(left_out)}")
        return kept
