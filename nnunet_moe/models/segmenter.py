"""Segment a case under one code after another; it is read once, and preprocessed once wherever that is the same."""

import copy
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.commands.evaluate.models import ScoredCase
from nnunet_moe.errors import ModelError
from nnunet_moe.images.reading import read_case
from nnunet_moe.modalities.codes import Code
from nnunet_moe.models.checkpoints import loading
from nnunet_moe.models.folders import Fold, ModelFolder
from nnunet_moe.models.inference import InferenceContext
from nnunet_moe.prediction import unwrap
from nnunet_moe.runtime.environment import trainers_known


@dataclass(frozen=True)
class PredictionSettings:
    """How nnU-Net predicts; its own defaults."""

    step_size: float = 0.5
    mirroring: bool = True
    device: str = "cpu"


@dataclass
class LoadedCase:
    """The images of a case as read: `(K, *space)` with NaN in absent channels, and the reader's properties."""

    image: np.ndarray
    properties: dict

    @property
    def available(self) -> Code:
        return tuple(not np.isnan(channel).any() for channel in self.image)


class Segmenter:
    """A trained model, or an ensemble of its folds, with nnU-Net's predictor.

    Any trainer's model will do. One that knows no codes, nnU-Net's own, takes complete cases alone.

    Raises:
        ModelError: a model that this package cannot load, or a pre-training.
    """

    def __init__(self, model: ModelFolder, folds: Sequence[Fold], settings: PredictionSettings) -> None:
        device = torch.device(settings.device)
        with trainers_known(), redirect_stdout(io.StringIO()):  # nnU-Net tells what a CPU cannot do
            self._predictor: Any = nnUNetPredictor(
                tile_step_size=settings.step_size, use_mirroring=settings.mirroring, device=device, allow_tqdm=False
            )
            with loading(model.folder, folds):
                self._predictor.initialize_from_trained_model_folder(str(model.folder), tuple(folds), model.checkpoint)
        if device.type == "cuda":  # nnU-Net lets cuDNN try algorithms out; figures should not depend on which won
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        self.network = unwrap(self._predictor.network)
        if isinstance(self.network, MissingModalityNetwork):
            self.network.require_segmentation()
        self.dataset_json: dict = self._predictor.dataset_json
        self.label_manager = self._predictor.label_manager
        self.reader = self._predictor.plans_manager.image_reader_writer_class()
        previous = model.previous_stage
        self._previous = None if previous is None else Segmenter(previous, folds, settings)
        self._case: LoadedCase | None = None
        self._shared: tuple[tuple, np.ndarray, dict] | None = None

    def require_fitting_weights(self) -> None:
        """Put each fold's weights into the network, which nnU-Net does only when it predicts.

        Raises:
            ModelError: weights that are NaN or infinite.
            RuntimeError: weights of another network.
        """
        for weights in self._predictor.list_of_parameters:
            self._predictor.network.load_state_dict(weights)
            if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
                raise ModelError("A fold has weights that are NaN or infinite. Take a training that went well.")

    def takes(self, code: Code) -> bool:
        """Whether the model segments cases with just these modalities."""
        return self.network.takes(code) if isinstance(self.network, MissingModalityNetwork) else all(code)

    @property
    def is_dedicated(self) -> bool:
        return self._dedicated_code is not None

    @property
    def _dedicated_code(self) -> Code | None:
        dedicated = self.network.dedicated_code if isinstance(self.network, MissingModalityNetwork) else None
        return None if dedicated is None else tuple(dedicated.tolist())

    def read(self, case: ScoredCase) -> LoadedCase:
        """Read a case's images.

        Raises:
            ModalityError: files that cannot be used.
        """
        return LoadedCase(*read_case(case.images, self.reader, self.dataset_json))

    def segment(self, case: LoadedCase, code: Code) -> np.ndarray:
        """The segmentation that `nnUNetv2_predict` gives with only the files of the code, voxel for voxel.

        Args:
            case: what `read` gave; successive codes of one case share its preprocessing.
            code: a subset of what the case has.

        Returns:
            Labels, `(*space)` in the reader's order of axes.
        """
        predictor = self._predictor
        if self._previous is None:
            data, properties = self._preprocessed(case, code)
        else:
            previous = self._previous.segment(case, code).astype(np.float32)  # as nnU-Net reads one from a file
            data, seg, properties = self._preprocess(case, code, previous[None])
            one_hot = convert_labelmap_to_one_hot(seg[0], self.label_manager.foreground_labels, data.dtype)
            data = np.vstack((data, one_hot))
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
        segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, predictor.plans_manager, predictor.configuration_manager, self.label_manager, properties
        )
        assert isinstance(segmentation, np.ndarray)
        return segmentation

    def write(self, segmentation: np.ndarray, file: str, case: LoadedCase) -> None:
        """Write a segmentation as nnU-Net does, in the geometry of the images."""
        self.reader.write_seg(segmentation, file, case.properties)

    @property
    def plan(self) -> InferenceContext:
        """What nnU-Net's preprocessing and export need of the model."""
        return InferenceContext(self._predictor.plans_manager, self._predictor.configuration_manager, self.dataset_json)

    def _preprocessed(self, case: LoadedCase, code: Code) -> tuple[np.ndarray, dict]:
        """The preprocessed images under a code.

        nnU-Net treats each channel by itself, but crops all of them to where any is not zero. Where that is the same
        with fewer channels, one preprocessing serves; else the code gets its own, and so does it where a model refuses
        more than one.
        """
        if getattr(self.network, "takes_one_kind", False):
            data, _, properties = self._preprocess(case, code)
            return data, properties
        if case is not self._case:
            shared = case.available if self._dedicated_code is None else self._dedicated_code
            data, _, properties = self._preprocess(case, shared)
            self._case, self._shared = case, (self._region(case, shared), data, properties)
        assert self._shared is not None
        region, data, properties = self._shared
        if self._region(case, code) != region:
            data, _, properties = self._preprocess(case, code)
            return data, properties
        kept = np.array(code).reshape(-1, *[1] * (data.ndim - 1))
        return np.where(kept, data, np.float32(np.nan)), properties

    def _preprocess(
        self, case: LoadedCase, code: Code, seg: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        predictor = self._predictor
        kept = np.array(code).reshape(-1, *[1] * (case.image.ndim - 1))
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        return preprocessor.run_case_npy(
            np.where(kept, case.image, np.float32(np.nan)),
            seg,
            copy.deepcopy(case.properties),
            predictor.plans_manager,
            predictor.configuration_manager,
            self.dataset_json,
        )

    def _region(self, case: LoadedCase, code: Code) -> tuple:
        """What nnU-Net crops to and, where a channel asks for that, normalizes in: equal if a code changes neither."""
        nonzero = np.logical_or.reduce([channel != 0 for channel in case.image[np.array(code)]])
        box = tuple(
            (int(where[0]), int(where[-1]))
            for axis in range(nonzero.ndim)
            if len(where := np.flatnonzero(nonzero.any(axis=tuple(set(range(nonzero.ndim)) - {axis}))))
        )
        masked = any(self._predictor.configuration_manager.use_mask_for_norm)
        return box, np.packbits(nonzero).tobytes() if masked else b""
