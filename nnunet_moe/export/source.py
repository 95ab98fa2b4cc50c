"""The trained model that is exported."""

import json
from dataclasses import dataclass
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.codes import Code, all_codes, channel_names, code_text, parse_code
from nnunet_moe.errors import ModelError
from nnunet_moe.files import digest
from nnunet_moe.trained import Fold, Model, planned_network, read_checkpoint

STOCK_TRAINER = nnUNetTrainer.__name__


@dataclass(frozen=True)
class LoadedFold:
    """A fold of the source; its network is valid until the next fold is loaded."""

    fold: Fold
    network: ModalityNetwork
    mirroring_axes: tuple[int, ...] | None
    log: dict[str, list]
    """What nnU-Net's logger keeps of each epoch."""
    epoch: int
    digest: str
    """SHA-256 of the checkpoint."""


class Source:
    """A model of one of this package's trainers.

    Raises:
        ModelError: a model of another trainer, or a folder without nnU-Net's three JSON files.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.plans, self.dataset_json, self.fingerprint = (
            self._content(name) for name in ("plans", "dataset", "dataset_fingerprint")
        )
        self.modalities = channel_names(self.dataset_json)
        manager = PlansManager(self.plans)
        configuration = manager.get_configuration(model.configuration)
        self.num_channels = determine_num_input_channels(manager, configuration, self.dataset_json)
        self.previous_stage = configuration.previous_stage_name
        network = planned_network(model.trainer, manager, configuration, self.dataset_json, deep_supervision=False)
        if not isinstance(network, ModalityNetwork):
            raise ModelError(
                f"{model.folder} cannot be exported: {type(network).__name__} knows no modality codes. A model of "
                f"{STOCK_TRAINER} is an ordinary nnU-Net already; name one of this package's trainers by -tr."
            )
        self.network = network

    @property
    def is_dedicated(self) -> bool:
        """Whether it was trained for one code alone."""
        return self.network.dedicated_code is not None

    def codes(self, modalities: str | None) -> list[Code]:
        """The one code that is named, or all that the model takes.

        Raises:
            ModalityError: an unknown or empty code.
            ModelError: not the code of a dedicated model.
        """
        dedicated = self.network.dedicated_code
        if modalities is None:
            return all_codes(len(self.modalities)) if dedicated is None else [tuple(dedicated.tolist())]
        code = parse_code(modalities, self.modalities)
        if dedicated is not None and code != tuple(dedicated.tolist()):
            raise ModelError(
                f"-m {modalities}: the model is dedicated to {code_text(dedicated.tolist(), self.modalities)} and can "
                "be exported for these modalities alone."
            )
        return [code]

    def load(self, fold: Fold) -> "LoadedFold":
        """Put a fold's weights into the network.

        Raises:
            ModelError: its checkpoint is damaged, or of another network.
        """
        file = self.model.checkpoint_file(fold)
        checkpoint = read_checkpoint(file)
        try:
            self.network.load_state_dict(checkpoint["network_weights"])
            log, epoch = checkpoint["logging"], checkpoint["current_epoch"]
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"{file} does not fit the plans beside it: {error}. Train the model again.") from error
        axes = checkpoint.get("inference_allowed_mirroring_axes")
        return LoadedFold(fold, self.network.eval(), axes, log, epoch, digest(file))

    def _content(self, name: str) -> dict[str, Any]:
        file = self.model.folder / f"{name}.json"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read: {error}. It belongs to every trained model.") from error
