"""Segment a case for one code after another. Reading and, where possible, preprocessing happen only once."""

from collections.abc import Sequence

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import Tensor
from torch.backends import cudnn

from nnunet_moe.architectures.stock_network import missing_modality_network
from nnunet_moe.errors import ModelError
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.modalities.codes import Code
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.inference import InferenceContext, load_predictor, predict_logits
from nnunet_moe.models.network_input import NetworkInput, with_only
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.prediction import unwrap
from nnunet_moe.runtime.network_time import NetworkTime
from nnunet_moe.runtime.threads import cpu_threads


class Segmenter:
    """A trained model, or an ensemble of its folds, with nnU-Net's predictor.

    It accepts models of any trainer. A model of nnU-Net's own trainers takes only complete cases.

    Args:
        model: the model's folder.
        folds: the folds.
        settings: how to predict.
        network_time: counts the time in which the network runs; None if nobody asks.

    Raises:
        ModelError: this package cannot load the model, or the model is a pre-training.
    """

    def __init__(
        self,
        model: ModelFolder,
        folds: Sequence[Fold],
        settings: PredictionSettings,
        network_time: NetworkTime | None = None,
    ) -> None:
        device = torch.device(settings.device)
        options = {"tile_step_size": settings.step_size, "use_mirroring": settings.mirroring, "device": device}
        self._predictor = load_predictor(model, folds, **options)
        self.network = missing_modality_network(unwrap(self._predictor.network))
        self.network.require_segmentation()
        self.context = InferenceContext.of(self._predictor)
        self.dataset_json = self.context.dataset_json
        self.reader = self.context.reader()
        previous = model.previous_stage
        self._previous = None if previous is None else Segmenter(previous, folds, settings, network_time)
        self._network_time = network_time or NetworkTime()
        self.input = NetworkInput(self.context, self.network.takes_one_image_type, self._dedicated_code)
        self._shared: tuple[CaseImages, np.ndarray, dict] | None = None
        """A case, and what `NetworkInput.preprocess` returned for the code that its other codes share."""

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

    def computes_in_bfloat16(self) -> bool:
        """Return whether the network computes in bfloat16 on this CPU, by trying it on an empty patch."""
        context, device = self.context, self._predictor.device
        num_channels = determine_num_input_channels(context.plans, context.configuration, context.dataset_json)
        patch = torch.zeros(1, num_channels, *context.configuration.patch_size, device=device)
        if self.network.takes_one_image_type:
            patch[:, 1:] = torch.nan
        with cpu_threads(device):  # as for a prediction
            return self.network.computes_in_bfloat16(patch)

    @property
    def is_second_stage(self) -> bool:
        """Whether the model also needs the segmentation of a previous stage, for each code another one."""
        return self._previous is not None

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

    def segment(self, case: CaseImages, code: Code) -> np.ndarray:
        """Segment a case with only the modalities of a code.

        On the same CPU, the result equals that of `nnUNetv2_predict` with only these files, voxel by voxel. On a
        GPU, nnU-Net's command lets cuDNN choose algorithms by time, so single voxels may differ.

        Args:
            case: the images that `InferenceContext.read` returned. Successive codes of one case share its
                preprocessing.
            code: a subset of the available modalities.

        Returns:
            Labels, `(*space)` in the reader's order of axes.
        """
        data, properties = self.input_of(case, code)
        return self.context.segmentation(self.logits(data), properties)

    def input_of(self, case: CaseImages, code: Code) -> tuple[np.ndarray, dict]:
        """Return the network's input for a code and its properties, as `InferenceContext.preprocess` does."""
        if self._previous is not None:
            previous = self._previous.segment(case, code)
            return self.input.preprocess(case, code, previous.astype(np.float32))  # nnU-Net reads this type from a file
        source = self.input.sources(case, [code])[code]
        if source != self.input.shared(case):
            return self.input.preprocess(case, code)
        if self._shared is None or self._shared[0] is not case:
            self._shared = (case, *self.input.preprocess(case, source))
        _, data, properties = self._shared
        return with_only(data, code), properties

    def logits(self, data: np.ndarray) -> Tensor:
        """Return the logits `(C, *space)` for the network's input, on the CPU."""
        # nnU-Net lets cuDNN choose algorithms by time, but scores must not depend on that
        with self._network_time.running(), cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            return predict_logits(self._predictor, data)
