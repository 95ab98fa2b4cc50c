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
    """A fold of the source. Its network is valid until the next fold is loaded."""

    fold: Fold
    network: MissingModalityNetwork
    mirroring_axes: tuple[int, ...] | None
    log: dict[str, list]
    """The values that nnU-Net's logger keeps for each epoch; empty if they were removed from the checkpoint."""
    epoch: int | None
    digest: str
    """SHA-256 of the checkpoint."""


class Source:
    """A model that one of this package's trainers trained.

    Raises:
        ModelError: the model comes from another trainer or from a pre-training, or one of nnU-Net's three JSON files is
            missing from its folder.
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
                cut(content, complete)  # fail before any work is done
            if missing := {"labels", "file_ending"} - self.dataset_json.keys():
                raise ValueError(f"dataset.json has no {' and no '.join(sorted(missing))}")
            manager = PlansManager(self.plans)
            configuration = manager.get_configuration(model.configuration)
            self.num_channels = determine_num_input_channels(manager, configuration, self.dataset_json)
            self.previous_stage = configuration.previous_stage_name
        except (NnunetMoeError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            why = f"{type(error).__name__}: {error}".rstrip(".")
            raise ModelError(
                f"plans.json, dataset.json and dataset_fingerprint.json in {model.folder} do not describe a trained "
                f"model: {why}. Restore the files that nnU-Net wrote."
            ) from error
        planned = planned_network(model.trainer, manager, configuration, self.dataset_json, deep_supervision=False)
        network = missing_modality_network(planned)
        if not network.knows_missing_modalities:
            raise ModelError(
                f"{model.folder} cannot be exported: {type(planned).__name__} does not use modality codes. A model of "
                f"{STOCK_TRAINER} is an ordinary nnU-Net already. Choose one of this package's trainers with -tr."
            )
        network.require_segmentation()
        self.network = cast(MissingModalityNetwork, network)

    @property
    def becomes_ordinary(self) -> bool:
        """Whether nnU-Net can plan the network once the modalities are fixed."""
        return self.network.becomes_planned

    @property
    def is_dedicated(self) -> bool:
        """Whether the model was trained for only one code."""
        return self.network.dedicated_code is not None

    def codes(self, modalities: str | None) -> list[Code]:
        """Return the given code, or all codes that the model takes.

        Raises:
            ModalityError: the code is unknown or empty.
            ModelError: the model does not take this code, because it is for one code or for one modality at a time.
        """
        taken = [code for code in all_codes(len(self.modalities)) if self.network.takes(code)]
        if modalities is None:
            return taken
        code = parse_code(modalities, self.modalities)
        if code not in taken:
            texts = [code_text(each, self.modalities) for each in taken]
            kind = f"dedicated to {texts[0]}" if self.is_dedicated else "for cases of a single image type"
            raise ModelError(f"-m {modalities}: the model is {kind}. It can be exported for {' or '.join(texts)} only.")
        return [code]

    def load(self, fold: Fold) -> LoadedFold:
        """Load the weights of a fold into the network.

        Raises:
            ModelError: the checkpoint is damaged, or belongs to another network.
        """
        file = self.model.checkpoint_file(fold)
        checkpoint = read_checkpoint(file)
        found = (checkpoint["trainer_name"], checkpoint["init_args"]["configuration"])
        if found != (self.model.trainer, self.model.configuration):
            raise ModelError(
                f"{file} belongs to {' and '.join(map(str, found))}, but its folder is for {self.model.trainer} and "
                f"{self.model.configuration}. Move it to its own folder."
            )
        try:
            self.network.load_state_dict(checkpoint["network_weights"])
        except RuntimeError as error:
            raise ModelError(f"{file} does not fit plans.json of its model: {error}. Retrain the model.") from error
        axes, log = checkpoint.get("inference_allowed_mirroring_axes"), checkpoint.get("logging") or {}
        return LoadedFold(fold, self.network.eval(), axes, log, checkpoint.get("current_epoch"), digest(file))
