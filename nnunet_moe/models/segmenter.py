"""Segment a case for one code after another. Reading and, where possible, preprocessing happen only once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.backends import cudnn

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

    It accepts models of any trainer. A model of nnU-Net's own trainers takes only complete cases.

    Raises:
        ModelError: this package cannot load the model, or the model is a pre-training.
    """

    def __init__(self, model: ModelFolder, folds: Sequence[Fold], settings: PredictionSettings) -> None:
        device = torch.device(settings.device)
        options = {"tile_step_size": settings.step_size, "use_mirroring": settings.mirroring, "device": device}
        self._predictor = load_predictor(model, folds, **options)
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
        """Check that the weights of each fold fit the network, because nnU-Net loads them only when it predicts.

        Raises:
            ModelError: weights are NaN or infinite.
            RuntimeError: the weights belong to another network.
        """
        for weights in self._predictor.list_of_parameters:
            self._predictor.network.load_state_dict(weights)
            if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
                raise ModelError(
                    "A fold has weights that are NaN or infinite. Choose another checkpoint, or train again."
                )

    def takes(self, code: Code) -> bool:
        """Return whether the model segments cases that have exactly these modalities."""
        return self.network.takes(code)

    @property
    def is_dedicated(self) -> bool:
        return self._dedicated_code is not None

    @property
    def _dedicated_code(self) -> Code | None:
        dedicated = self.network.dedicated_code
        return None if dedicated is None else tuple(dedicated.tolist())

    def read(self, image_files: Sequence[str]) -> CaseImages:
        """Read the images of a case.

        Raises:
            ModalityError: a file cannot be used.
        """
        return self.context.read(image_files)

    def segment(self, case: CaseImages, code: Code) -> np.ndarray:
        """Segment a case with only the modalities of a code.

        On the same CPU, the result equals that of `nnUNetv2_predict` with only these files, voxel by voxel. On a
        GPU, nnU-Net's command lets cuDNN choose algorithms by time, so single voxels may differ.

        Args:
            case: the images that `read` returned; successive codes of one case share its preprocessing.
            code: a subset of the available modalities.

        Returns:
            Labels, `(*space)` in the reader's order of axes.
        """
        if self._previous is None:
            data, properties = self._shared_preprocessing(case, code)
        else:
            previous = self._previous.segment(case, code).astype(
                np.float32
            )  # the type in which nnU-Net reads it from a file
            data, properties = self._preprocess(case, code, previous)
        # nnU-Net lets cuDNN choose algorithms by time, but scores must not depend on that
        with cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            logits = predict_logits(self._predictor, data)
        return self.context.segmentation(logits, properties)

    def write(self, segmentation: np.ndarray, file: str, case: CaseImages) -> None:
        """Write a segmentation as nnU-Net does, with the geometry of the images."""
        self.reader.write_seg(segmentation, file, case.properties)

    def _shared_preprocessing(self, case: CaseImages, code: Code) -> tuple[np.ndarray, dict]:
        """Return the preprocessed images for a code, and share the preprocessing between codes if possible.

        nnU-Net preprocesses each channel by itself, but crops all of them to the region in which any is not zero. If
        that region is the same with fewer channels, the codes share one preprocessing. Otherwise the code gets its own,
        and also if the model takes only one image type per case.
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
        """Return the region to which nnU-Net crops and, if a channel needs that, the one in which it normalizes."""
        nonzero = np.logical_or.reduce([channel != 0 for channel in case.image[np.array(code)]])
        box = tuple(
            (int(where[0]), int(where[-1]))
            for axis in range(nonzero.ndim)
            if len(where := np.flatnonzero(nonzero.any(axis=tuple(set(range(nonzero.ndim)) - {axis}))))
        )
        masked = any(self.context.configuration.use_mask_for_norm)
        return box, np.packbits(nonzero).tobytes() if masked else b""
