"""One model for one modality code: what the paper compares with, and what users train today."""

from typing import Any, ClassVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_moe.codes import channel_names, code_text
from nnunet_moe.trainers.base import nnUNetTrainerMissingModality


class nnUNetTrainerDedicated(nnUNetTrainerMissingModality):
    """Trained and validated on the plans' `modality_code` alone, each batch once, by nnU-Net's own step."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": (), "alpha": 0.0, "beta": 0.0}
    is_dedicated = True

    def initialize(self) -> None:
        super().initialize()
        (code,) = self.validation_codes
        text = code_text(code, channel_names(self.dataset_json))
        self.print_to_log_file(f"Dedicated model: trained and validated on {text} only, whatever else a case has")

    def train_step(self, batch: dict) -> dict:
        """The network looks at its own modalities only, so nothing has to be dropped."""
        return nnUNetTrainer.train_step(self, batch)
