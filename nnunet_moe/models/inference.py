"""What happens to one case before and after the network, in whichever process."""

import io
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import files_by_channel
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.images.reading import read_segmentation
from nnunet_moe.labels.label_sets import covered, labels_in
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.labels.volumes import volumes_of
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.settings.settings import Settings

PROBABILITIES = (".npz", ".pkl")
"""What nnU-Net writes beside a segmentation under `--save_probabilities`."""


@dataclass(frozen=True)
class InferenceContext:
    """What nnU-Net's preprocessing and export need of a model, besides its weights."""

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        return channel_names(self.dataset_json)

    def labels_under(self, code: Code) -> dict[str, int | tuple[int, ...]]:
        """The labels or regions that may appear in a case with these modalities: all, or those of their label sets."""
        settings = Settings.from_plans(self.configuration.configuration)
        if settings.label_sets is None or settings.predict_all_labels:
            return labels_of(self.dataset_json)
        by_modality = torch.tensor(settings.label_sets, dtype=torch.bool)
        return labels_in(self.dataset_json, covered(torch.tensor([code]), by_modality)[0])


@dataclass(frozen=True)
class Requirement:
    """What a case must have to be predicted at all."""

    min_modalities: int = 1
    required: tuple[str, ...] = ()

    def check(self, code: Code, modalities: Sequence[str]) -> None:
        """Refuse a code that has too little.

        Raises:
            ModalityError: it has.
        """
        has = [name for name, available in zip(modalities, code, strict=True) if available]
        if missing := [name for name in self.required if name not in has]:
            raise ModalityError(f"{'+'.join(has)} without {', '.join(missing)}, which --require asks for.")
        if len(has) < self.min_modalities:
            raise ModalityError(f"{'+'.join(has)} alone; --min_modalities asks for {self.min_modalities} modalities.")


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case."""

    name: str
    images: tuple[str, ...]
    previous_stage: str | None
    """The segmentation that a cascade's second stage takes."""


@dataclass(frozen=True)
class PreparedCase:
    """A case that the network can take."""

    data: np.ndarray
    """`(K, *space)` preprocessed, NaN in absent channels; in a cascade the previous segmentation's channels follow."""
    properties: dict[str, Any]
    code: Code
    files: dict[str, str]
    """Modality -> its file, also of those that were not used."""
    notes: str
    """What the preprocessing said of files that it did not use."""
    seconds: float


def prepare(case: CaseFiles, plan: InferenceContext, requirement: Requirement) -> PreparedCase:
    """Read and preprocess a case.

    Raises:
        ModalityError: files that cannot be used, or too few of them.
    """
    start, said = time.perf_counter(), io.StringIO()
    if case.previous_stage is not None and not Path(case.previous_stage).exists():
        raise ModalityError(f"{case.previous_stage} is not there. Predict the cascade's previous stage first.")
    with redirect_stdout(said):
        preprocessor = plan.configuration.preprocessor_class(verbose=False)
        data, seg, properties = preprocessor.run_case(
            list(case.images), case.previous_stage, plan.plans, plan.configuration, plan.dataset_json
        )
    names = plan.modalities
    code = tuple(not np.isnan(channel).all() for channel in data)
    requirement.check(code, names)
    if case.previous_stage is not None:
        _, geometry = read_segmentation(case.previous_stage, plan.plans.image_reader_writer_class())
        read = {name: properties[name] for name in geometry}  # the rest is what preprocessing did
        require_same_geometry(min(case.images), case.previous_stage, ((), read), ((), geometry))
        foreground = plan.plans.get_label_manager(plan.dataset_json).foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(seg[0], foreground, data.dtype)))
    files = {names[channel]: file for channel, file in files_by_channel(case.images, plan.dataset_json).items()}
    lines = said.getvalue().splitlines()
    notes = "; ".join(line for line in lines if not line.startswith(f"{case.name}: absent "))
    return PreparedCase(data, properties, code, files, notes, time.perf_counter() - start)


def write(
    logits_file: Path,
    properties: dict[str, Any],
    code: Code,
    plan: InferenceContext,
    target: Path,
    save_probabilities: bool,
) -> tuple[dict[str, float], float]:
    """Write what nnU-Net writes of a prediction beside its logits, and move it when it is whole, the segmentation last.

    Args:
        logits_file: of the preprocessed image, `.npy` in a folder of its own, which is removed.
        code: what the case has.
        target: path of the segmentation without its ending.

    Returns:
        The volume of each label or region that may appear (mm3; mm2 in 2D), and the seconds that it took.
    """
    start, unfinished, ending = time.perf_counter(), logits_file.parent, plan.dataset_json["file_ending"]
    truncated, segmentation_file = str(unfinished / target.name), unfinished / f"{target.name}{ending}"
    of_model = (plan.configuration, plan.plans, plan.dataset_json)
    export_prediction_from_logits(np.load(logits_file), properties, *of_model, truncated, save_probabilities)
    segmentation, _ = plan.plans.image_reader_writer_class().read_seg(str(segmentation_file))
    volumes = volumes_of(segmentation[0], properties["spacing"], plan.labels_under(code))
    for file in sorted(set(unfinished.iterdir()) - {logits_file}, key=lambda file: file == segmentation_file):
        os.replace(file, target.with_name(file.name))
    shutil.rmtree(unfinished)
    return volumes, time.perf_counter() - start
