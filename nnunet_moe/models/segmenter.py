"""Segment a case under one code after another; it is read once, and preprocessed once wherever that is the same."""

from collections.abc import Sequence

import numpy as np
import torch

from nnunet_moe.architectures.stock_network import missing_modality_network
from nnunet_moe.errors import ModelError
from nnunet_moe.images.reading import CaseImages
from nnunet_moe.modalities.codes import Code
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.inference import InferenceContext, load_predictor, predict_logits
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.prediction import unwrap


class Segmenter:
    """A trained model, or an ensemble of its folds, with nnU-Net's predictor.

    Any trainer's model will do. One that knows no codes, nnU-Net's own, takes complete cases alone.

    Raises:
        ModelError: a model that this package cannot load, or a pre-training.
    """

    def __init__(self, model: ModelFolder, folds: Sequence[Fold], settings: PredictionSettings) -> None:
        device = torch.device(settings.device)
        options = {"tile_step_size": settings.step_size, "use_mirroring": settings.mirroring, "device": device}
        self._predictor = load_predictor(model, folds, **options)
        if device.type == "cuda":  # nnU-Net lets cuDNN try algorithms out; figures should not depend on which won
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        self.network = missing_modality_network(unwrap(self._predictor.network))
        self.network.require_segmentation()
        self.context = InferenceContext.of(self._predictor)
        self.dataset_json = self.context.dataset_json
        self.label_manager = self.context.label_manager
        self.reader = self.context.reader()
        previous = model.previous_stage
        self._previous = None if previous is None else Segmenter(previous, folds, settings)
        self._case: CaseImages | None = None
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
        return self.network.takes(code)

    @property
    def is_dedicated(self) -> bool:
        return self._dedicated_code is not None

    @property
    def _dedicated_code(self) -> Code | None:
        dedicated = self.network.dedicated_code
        return None if dedicated is None else tuple(dedicated.tolist())

    def read(self, image_files: Sequence[str]) -> CaseImages:
        """Read a case's images.

        Raises:
            ModalityError: files that cannot be used.
        """
        return self.context.read(image_files)

    def segment(self, case: CaseImages, code: Code) -> np.ndarray:
        """The segmentation that `nnUNetv2_predict` gives with only the files of the code, voxel for voxel.

        Args:
            case: what `read` gave; successive codes of one case share its preprocessing.
            code: a subset of what the case has.

        Returns:
            Labels, `(*space)` in the reader's order of axes.
        """
        if self._previous is None:
            data, properties = self._shared_preprocessing(case, code)
        else:
            previous = self._previous.segment(case, code).astype(np.float32)  # as nnU-Net reads one from a file
            data, properties = self._preprocess(case, code, previous)
        return self.context.segmentation(predict_logits(self._predictor, data), properties)

    def write(self, segmentation: np.ndarray, file: str, case: CaseImages) -> None:
        """Write a segmentation as nnU-Net does, in the geometry of the images."""
        self.reader.write_seg(segmentation, file, case.properties)

    def _shared_preprocessing(self, case: CaseImages, code: Code) -> tuple[np.ndarray, dict]:
        """The preprocessed images under a code.

        nnU-Net treats each channel by itself, but crops all of them to where any is not zero. Where that is the same
        with fewer channels, one preprocessing serves; else the code gets its own, and so does it where a model refuses
        more than one.
        """
        if self.network.takes_one_image_type:
            return self._preprocess(case, code)
        if case is not self._case:
            shared = case.available if self._dedicated_code is None else self._dedicated_code
            data, properties = self._preprocess(case, shared)
            self._case, self._shared = case, (self._region(case, shared), data, properties)
        assert self._shared is not None
        region, data, properties = self._shared
        if self._region(case, code) != region:
            return self._preprocess(case, code)
        kept = np.array(code).reshape(-1, *[1] * (data.ndim - 1))
        return np.where(kept, data, np.float32(np.nan)), properties

    def _preprocess(
        self, case: CaseImages, code: Code, previous_stage: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict]:
        kept = np.array(code).reshape(-1, *[1] * (case.image.ndim - 1))
        image = np.where(kept, case.image, np.float32(np.nan))
        return self.context.preprocess(image, case.properties, previous_stage)

    def _region(self, case: CaseImages, code: Code) -> tuple:
        """What nnU-Net crops to and, where a channel asks for that, normalizes in: equal if a code changes neither."""
        nonzero = np.logical_or.reduce([channel != 0 for channel in case.image[np.array(code)]])
        box = tuple(
            (int(where[0]), int(where[-1]))
            for axis in range(nonzero.ndim)
            if len(where := np.flatnonzero(nonzero.any(axis=tuple(set(range(nonzero.ndim)) - {axis}))))
        )
        masked = any(self.context.configuration.use_mask_for_norm)
        return box, np.packbits(nonzero).tobytes() if masked else b""
