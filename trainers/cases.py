"""The cases of a training: their modalities, their annotated labels, and the loss that respects both."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_moe.labels.label_sets import LabelSets, covered
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import Code, available_modalities, channel_names
from nnunet_moe.trainers.case_content import CaseContent, availability_lines, code_of
from nnunet_moe.trainers.label_sets import annotation_lines, label_set_loss, require_annotated, require_known_cases
from nnunet_moe.trainers.patient_splits import keep_patients_together
from nnunet_moe.trainers.preprocessed_files import require_all_channels, require_previous_stage


class CasesTrainer(nnUNetTrainer):
    """nnU-Net's trainer for cases with missing modalities and with different annotated labels."""

    label_sets: LabelSets | None
    """The labels that were annotated in each modality or case; None if all labels were annotated in all cases."""
    validation_codes: list[Code]
    """The modality codes that are validated in turn during training."""
    loss: Any

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split; if the raw dataset has a table of the patients, their cases stay together.

        Raises:
            FileError: the table or the existing splits cannot be read.
            ModalityError: there is no such split, see `keep_patients_together`.
        """
        if self.fold != "all":
            folder: Any = self.preprocessed_dataset_folder
            dataset_class: Any = self.dataset_class or infer_dataset_class(folder)
            cases = dataset_class.get_identifiers(folder)
            file = Path(str(self.preprocessed_dataset_folder_base), "splits_final.json")
            for line in keep_patients_together(self.plans_manager.dataset_name, file, cases, int(self.fold)):
                self.print_to_log_file(line)
        split: Any = super().do_split()
        return split

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's datasets; if training cases are incomplete, the log lists their modalities.

        Raises:
            ModelError: a case has no segmentation of the first stage of a cascade.
            ModalityError: the segmentation of a case contains labels outside its label set, or a case was preprocessed
                without its missing channels.
        """
        training, validation = super().get_tr_and_val_datasets()
        cases = sorted({*training.identifiers, *validation.identifiers})
        if self.is_cascaded:
            folder: Any = self.folder_with_segs_from_previous_stage
            require_previous_stage(cases, Path(folder), str(self.configuration_manager.previous_stage_name))
        for case in cases:
            self._image(case)  # refuses a case without all channels
        if self.label_sets is not None:
            labels, names = list(self._foreground()), channel_names(self.dataset_json)
            for line in annotation_lines(self.label_sets, labels, names):
                self.print_to_log_file(line)
        self._require_annotated(cases)
        self._log_availability(Counter(self._available(case) for case in training.identifiers))
        return training, validation

    def _log_availability(self, counts: Mapping[Code, int]) -> None:
        """Log the codes of the training cases, unless all cases are complete, and a warning if one is needed."""
        for line in availability_lines(counts, channel_names(self.dataset_json)):
            self.print_to_log_file(line)

    def _available(self, case: str) -> Code:
        """Return the available modalities of a preprocessed case."""
        return code_of(self._image(case))

    def _image(self, case: str) -> Any:
        """Return the preprocessed image of a case, `(K, *space)`, which is not read before its voxels are used.

        Raises:
            ModalityError: the case does not have all channels.
        """
        dataset_class: Any = self.dataset_class or infer_dataset_class(str(self.preprocessed_dataset_folder))
        image = dataset_class(self.preprocessed_dataset_folder, [case]).load_case(case)[0]
        num_channels, dataset = len(channel_names(self.dataset_json)), self.plans_manager.dataset_name
        require_all_channels(case, len(image), num_channels, dataset, self.configuration_name)
        return image

    def _content(self, case: str) -> CaseContent:
        """Return the modalities of a preprocessed case, and the labels that occur in its segmentation."""
        dataset_class: Any = self.dataset_class
        image, *_, properties = dataset_class(self.preprocessed_dataset_folder, [case]).load_case(case)
        return CaseContent.of(image, properties, self._foreground().values())

    def _foreground(self) -> dict[str, Any]:
        """Return the labels or regions that are scored, name -> value, in nnU-Net's order."""
        manager = self.label_manager
        names = {tuple(np.atleast_1d(value)): name for name, value in labels_of(self.dataset_json).items()}
        scored = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        return {names[tuple(np.atleast_1d(value))]: value for value in scored}

    def _require_annotated(self, cases: Iterable[str]) -> None:
        """Make sure that the segmentations contain only labels of their cases' label sets.

        Raises:
            ModalityError: a segmentation contains others, or dataset.json has a label set for an unknown case.
        """
        if self.label_sets is None:
            return
        dataset_class: Any = self.dataset_class
        require_known_cases(self.label_sets, dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        foreground, names = self._foreground(), channel_names(self.dataset_json)
        for case in sorted(cases):
            require_annotated(self.label_sets, case, self._content(case), foreground, names)

    def _use_label_sets(self, batch: dict, reduced: Tensor | None = None) -> None:
        """Set which labels the loss takes as annotated in the items of a batch.

        Args:
            batch: as nnU-Net's data loader gives it, on any device.
            reduced: `(B, K)` bool on the CPU, the modalities to which a validation batch was reduced; None in training.
                In validation the network predicts only the labels of these modalities, so the loss, which is then only
                logged, uses only these labels.
        """
        if self.label_sets is None:
            return
        if reduced is None:
            available = available_modalities(batch["data"][:, : self._num_modalities()]).cpu()
            self.loss.use(self.label_sets.of_items(available, batch["keys"]))
        else:
            self.loss.use(covered(reduced, self.label_sets.by_modality))

    def _build_loss(self) -> Any:
        """Build nnU-Net's loss; with label sets, each item has the loss of its own label set."""
        loss: Any = super()._build_loss()
        if self.label_sets is None:
            return loss
        return label_set_loss(loss, deep_supervision=self.enable_deep_supervision)

    def _num_modalities(self) -> int:
        return len(self.validation_codes[0])
