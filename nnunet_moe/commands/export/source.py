"""The trained model that is exported."""

from dataclasses import dataclass
from typing import cast

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.stock_network import missing_modality_network
from nnunet_moe.commands.export.channels import fingerprint_of, plans_of
from nnunet_moe.errors import ModelError, NnunetMoeError
from nnunet_moe.modalities.codes import Code, all_codes, channel_names, code_text, parse_code
from nnunet_moe.models.checkpoints import read_checkpoint
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.networks import planned_network
from nnunet_moe.runtime.files import digest

STOCK_TRAINER = nnUNetTrainer.__name__


@dataclass(frozen=True)
class LoadedFold:
    """A fold of the source; its network is valid until the next fold is loaded."""

    fold: Fold
    network: MissingModalityNetwork
    mirroring_axes: tuple[int, ...] | None
    log: dict[str, list]
    """What nnU-Net's logger keeps of each epoch; empty if the checkpoint was stripped of it."""
    epoch: int | None
    digest: str
    """SHA-256 of the checkpoint."""


class Source:
    """A model of one of this package's trainers.

    Raises:
        ModelError: a model of another trainer, a pre-training, or a folder without nnU-Net's three JSON files.
    """

    def __init__(self, model: ModelFolder) -> None:
        self.model = model
        self.plans, self.dataset_json, self.fingerprint = (
            model.content(name) for name in ("plans", "dataset", "dataset_fingerprint")
        )
        try:
            self.modalities = channel_names(self.dataset_json)
            complete = tuple(True for _ in self.modalities)
            for cut, content in ((plans_of, self.plans), (fingerprint_of, self.fingerprint)):
                cut(content, complete)  # before any work
            if missing := {"labels", "file_ending"} - self.dataset_json.keys():
                raise ValueError(f"dataset.json has no {' and no '.join(sorted(missing))}")
            manager = PlansManager(self.plans)
            configuration = manager.get_configuration(model.configuration)
            self.num_channels = determine_num_input_channels(manager, configuration, self.dataset_json)
            self.previous_stage = configuration.previous_stage_name
        except (NnunetMoeError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"plans.json, dataset.json and dataset_fingerprint.json in {model.folder} are not those of a trained "
                f"model: {type(error).__name__}: {error}. Put back what nnU-Net wrote."
            ) from error
        planned = planned_network(model.trainer, manager, configuration, self.dataset_json, deep_supervision=False)
        network = missing_modality_network(planned)
        if not network.knows_missing_modalities:
            raise ModelError(
                f"{model.folder} cannot be exported: {type(planned).__name__} knows no modality codes. A model of "
                f"{STOCK_TRAINER} is an ordinary nnU-Net already; name one of this package's trainers by -tr."
            )
        network.require_segmentation()
        self.network = cast(MissingModalityNetwork, network)

    @property
    def becomes_ordinary(self) -> bool:
        """Whether its network is one that nnU-Net plans once the modalities are fixed."""
        return self.network.becomes_planned

    @property
    def is_dedicated(self) -> bool:
        """Whether it was trained for one code alone."""
        return self.network.dedicated_code is not None

    def codes(self, modalities: str | None) -> list[Code]:
        """The one code that is named, or all that the model takes.

        Raises:
            ModalityError: an unknown or empty code.
            ModelError: a code that a model for one code, or for one modality at a time, does not take.
        """
        taken = [code for code in all_codes(len(self.modalities)) if self.network.takes(code)]
        if modalities is None:
            return taken
        code = parse_code(modalities, self.modalities)
        if code not in taken:
            texts = [code_text(each, self.modalities) for each in taken]
            kind = f"dedicated to {texts[0]}" if self.is_dedicated else f"for cases of one kind, {' or '.join(texts)},"
            raise ModelError(f"-m {modalities}: the model is {kind} and can be exported for that alone.")
        return [code]

    def load(self, fold: Fold) -> LoadedFold:
        """Put a fold's weights into the network.

        Raises:
            ModelError: its checkpoint is damaged, or of another network.
        """
        file = self.model.checkpoint_file(fold)
        checkpoint = read_checkpoint(file)
        found = (checkpoint["trainer_name"], checkpoint["init_args"]["configuration"])
        if found != (self.model.trainer, self.model.configuration):
            raise ModelError(
                f"{file} is of {' and '.join(map(str, found))}, its folder of {self.model.trainer} and "
                f"{self.model.configuration}. Put it where it belongs."
            )
        try:
            self.network.load_state_dict(checkpoint["network_weights"])
        except RuntimeError as error:
            raise ModelError(f"{file} does not fit the plans beside it: {error}. Train the model again.") from error
        axes, log = checkpoint.get("inference_allowed_mirroring_axes"), checkpoint.get("logging") or {}
        return LoadedFold(fold, self.network.eval(), axes, log, checkpoint.get("current_epoch"), digest(file))
