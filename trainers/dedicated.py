"""One model for one modality code: what the paper compares with, and what users train today."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import channel_names, code_text
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality


class nnUNetTrainerDedicated(nnUNetTrainerMissingModality):
    """Trained and validated on the plans' `modality_code` alone, each batch once."""

    is_dedicated = True

    def initialize(self) -> None:
        super().initialize()
        (code,) = self.validation_codes
        text = code_text(code, channel_names(self.dataset_json))
        self.print_to_log_file(f"Dedicated model: trained and validated on {text} only, whatever else a case has")

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's, without the cases that lack one of the model's modalities.

        Raises:
            ModalityError: no case is left to train on, or none to validate on.
        """
        split: Any = super().do_split()
        training, validation = split
        return self._having_the_code(training, "training"), self._having_the_code(validation, "validation")

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate L_seg; the network looks at its own modalities only, so nothing has to be dropped."""
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
                f"Fold {self.fold} has no {part} case with {text}, which this model is dedicated to (of {len(cases)}). "
                "Train another fold, or another 'modality_code'."
            )
        if left_out := sorted(set(cases) - set(kept)):
            self.print_to_log_file(f"Left out, since they lack some of {text}: {part} cases {', '.join(left_out)}")
        return kept
