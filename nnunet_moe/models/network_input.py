"""Preprocess a case for one code after another, where possible only once for all codes. No network is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.modalities.codes import Code
from nnunet_moe.models.inference import InferenceContext
from nnunet_moe.preprocessing import print_notes


@dataclass(frozen=True)
class NetworkInput:
    """How a model's input is made from the images of a case.

    nnU-Net preprocesses the channels independently, but crops all of them to the region in which any is not zero. If
    that region is the same with fewer channels, the codes share one preprocessing. Otherwise the code gets its own, and
    also if the model takes only one image type per case.
    """

    context: InferenceContext
    one_image_type: bool
    """Whether the model takes only one image type per case."""
    dedicated_code: Code | None
    """The only code that the model takes; None if it takes several."""

    def sources(self, case: CaseImages, codes: Sequence[Code]) -> dict[Code, Code]:
        """Return for each code the code whose preprocessing contains its input: a shared one, or itself."""
        if (shared := self.shared(case)) is None:
            return {code: code for code in codes}
        region = self._region(case, shared)
        return {code: shared if self._region(case, code) == region else code for code in codes}

    def shared(self, case: CaseImages) -> Code | None:
        """Return the code whose preprocessing others may share, or None if each needs its own."""
        return None if self.one_image_type else self.dedicated_code or case.available

    def preprocess(
        self, case: CaseImages, code: Code, previous_stage: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict]:
        """Preprocess a case with only the modalities of a code, and print messages on its images.

        `InferenceContext.preprocess` says more.
        """
        image = with_only(case.image, code)
        data, properties, notes = self.context.preprocess(image, case.properties, previous_stage, case.files)
        print_notes(notes)
        return data, properties

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


def with_only(image: np.ndarray, code: Code) -> np.ndarray:
    """Return a copy of an image `(K, *space)` that is NaN in all modalities but those of a code."""
    return np.where(np.array(code).reshape(-1, *[1] * (image.ndim - 1)), image, np.float32(np.nan))
