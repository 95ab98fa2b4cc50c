"""Segment one case from its files by modality. The programs for all challenges use this."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from nnunet_moe.commands.package.any_format import AnyFormatReader, require_readable
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.images.alignment.aligned import AlignedCase
from nnunet_moe.images.alignment.case import align_case
from nnunet_moe.images.alignment.settings import OFF, AlignmentSettings
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.dimension import require_volume
from nnunet_moe.images.reading import axes_notes, read_channels
from nnunet_moe.modalities.codes import (
    Code,
    all_codes,
    channel_names,
    code_digits,
    code_of_digits,
    code_text,
    is_within,
)
from nnunet_moe.models.checkpoints import loading
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.segmenter import Segmenter
from nnunet_moe.preprocessing import training_axes
from nnunet_moe.quality.calibration import Expectation
from nnunet_moe.quality.file import FILE as QUALITY
from nnunet_moe.quality.file import read_calibrations
from nnunet_moe.quality.measuring import fast_signals
from nnunet_moe.runtime.json_files import load_json

FILE = "packaged.json"
NO_ALIGNMENT = AlignmentSettings(align=OFF)


@dataclass(frozen=True)
class PackagedModel:
    """The content of `packaged.json`, which describes its folder."""

    folder: str
    """The name of nnU-Net's model folder, TRAINER__PLANS__CONFIGURATION."""
    folds: tuple[Fold, ...]
    checkpoint: str
    trained: dict[str, list[str]] | None
    """Fold -> the codes of its training cases as digits, each only once; None if they are not known."""

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=4) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "PackagedModel":
        """Read the file that `write` wrote.

        Raises:
            ModelError: the file is missing or has another content.
        """
        try:
            content = load_json(folder / FILE)
            packaged = cls(**{**content, "folds": tuple(content["folds"])})
            packaged._check()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{folder} is not a packaged model ({type(error).__name__}: {error}). Replace it with the folder "
                "`model` that `nnunet_moe package` wrote."
            ) from error
        return packaged

    def _check(self) -> None:
        if len(self.folder.split("__")) != 3:
            raise ValueError(f"folder is {self.folder!r}")
        if not self.folds or not all(fold == "all" or isinstance(fold, int) for fold in self.folds):
            raise ValueError(f"folds is {self.folds}")
        if not isinstance(self.checkpoint, str):
            raise ValueError(f"checkpoint is {self.checkpoint!r}")
        for fold, codes in (self.trained or {}).items():
            if not isinstance(codes, list) or not all(re.fullmatch("[01]+", code) for code in codes):
                raise ValueError(f"trained is {codes!r} for fold {fold}")

    def model(self, folder: Path) -> ModelFolder:
        """Return the trained model, which lies below the folder of `packaged.json`."""
        trainer, plans, configuration = self.folder.split("__")
        return ModelFolder(trainer, plans, configuration, folder / self.folder, self.checkpoint)


@dataclass(frozen=True)
class SentImages:
    """A case whose files were read."""

    images: CaseImages
    first_file: Path
    """The file that defines the grid of the case."""
    seconds: float
    """Time for reading."""
    aligned: AlignedCase | None = None
    """How the images were brought onto one grid; None if they were used as they are."""


@dataclass(frozen=True)
class Segmented:
    """What the log says about a case."""

    modalities: str
    """The modalities that were used, joined by `+`."""
    warnings: tuple[str, ...]
    volumes: dict[str, float]
    """Label or region that may appear -> mm3 (mm2 in 2D)."""
    seconds: float
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    """Label or region that may appear -> the Dice that is expected of it; empty if nobody calibrated the model."""


class CaseModel:
    """A packaged model that segments one case after another, all in this process.

    Args:
        folder: the folder with `packaged.json` and nnU-Net's model folder.
        settings: how to predict.

    Raises:
        ModelError: the folder is not a packaged model, it cannot be loaded, or its weights are NaN or infinite.
    """

    def __init__(self, folder: Path, settings: PredictionSettings) -> None:
        self.device = settings.device
        """`cpu`, `cuda` or `mps`."""
        packaged = PackagedModel.read(folder)
        model = packaged.model(folder)
        for fold in packaged.folds:
            model.require_checkpoint(fold)
        self._segmenter = Segmenter(model, packaged.folds, settings)
        with loading(model.folder, packaged.folds):
            self._segmenter.require_fitting_weights()
        dataset_json = self._segmenter.dataset_json
        self.modalities = channel_names(dataset_json)
        for code in {digits for codes in (packaged.trained or {}).values() for digits in codes}:
            if len(code) != len(self.modalities):
                raise ModelError(f"{folder / FILE} has the code {code} for {len(self.modalities)} modalities.")
        self._reader = AnyFormatReader(self._segmenter.reader, dataset_json["file_ending"])
        self._context = self._segmenter.context
        self._trained = packaged.trained
        self._calibrations = read_calibrations(folder / QUALITY, model.trainer)

    def predict(self, files: Mapping[str, Path], out: Path) -> Segmented:
        """Read and segment a case. See `read` and `segment` for the arguments and errors."""
        return self.segment(self.read(files), out)

    def read(self, files: Mapping[str, Path], alignment: AlignmentSettings = NO_ALIGNMENT) -> SentImages:
        """Read a case.

        Args:
            files: available modality -> image, in any format of `IMAGE_ENDINGS`, all on one grid unless they are
                aligned. An image that is zero everywhere counts as missing.
            alignment: whether and how to align the images, as `alignment_for` returns it.

        Raises:
            ModalityError: a modality is unknown, an image cannot be used, or there is no image.
        """
        start = time.perf_counter()
        if unknown := [name for name in files if name not in self.modalities]:
            raise ModalityError(f"{', '.join(unknown)}: the model's modalities are {', '.join(self.modalities)}.")
        for file in files.values():
            require_readable(file)
        aligned = None
        if alignment.is_on:
            images, first, aligned = self._aligned(files, alignment)
        else:
            images, first = self._read(files)
        axes = axes_notes(str(first), images.axis_codes, training_axes(self._context.plans))
        images = replace(images, notes=(*images.notes, *axes))
        return SentImages(images, first, time.perf_counter() - start, aligned)

    def alignment_for(self, settings: AlignmentSettings) -> AlignmentSettings:
        """Return the settings with those of the training cases where none were given.

        Raises:
            SettingsError: they do not fit the model.
        """
        return settings.for_dataset(self._segmenter.dataset_json, self.modalities)

    def _read(self, files: Mapping[str, Path]) -> tuple[CaseImages, Path]:
        """Read images that lie on one grid, and return them and the file that defines the grid."""
        by_channel = {self.modalities.index(name): str(file) for name, file in files.items()}
        return read_channels(self._reader, by_channel, self.modalities), next(iter(files.values()))

    def _aligned(self, files: Mapping[str, Path], alignment: AlignmentSettings) -> tuple[CaseImages, Path, AlignedCase]:
        """Bring images onto one grid, and return them, the file that defines the grid, and how they were aligned."""
        in_order = {name: str(files[name]) for name in self.modalities if name in files}
        with TemporaryDirectory() as folder:
            targets = {name: Path(folder) / f"{number}.nii.gz" for number, name in enumerate(in_order)}
            aligned = align_case(in_order, targets, alignment)
            with aligned.names.in_errors():
                images, _ = self._read({name: Path(file) for name, file in aligned.files.items()})
        return aligned.names.in_images(images, aligned.notes), files[aligned.reference], aligned

    def segment(self, case: SentImages, out: Path) -> Segmented:
        """Segment a case, on the same CPU with the same result in every voxel as `nnunet_moe predict`.

        Args:
            case: the result of `read`.
            out: the file to write, in the format of its ending and on the grid of the images. Its folder is created.

        Raises:
            ModalityError: the model does not take these modalities or this grid.
        """
        start, images = time.perf_counter() - case.seconds, case.images
        code = images.available
        self._require_taken(code)
        grid = images.image.shape[1:], images.properties["spacing"]
        require_volume(*grid, self._context.configuration.patch_size, str(case.first_file))
        used = self.largest_code() if self._segmenter.is_dedicated else code
        warnings = self._warnings(used)
        data, properties = self._segmenter.input_of(images, code)
        logits = self._segmenter.logits(data)
        segmentation = self._context.segmentation(logits, properties)
        out.parent.mkdir(parents=True, exist_ok=True)
        self._reader.write_seg(segmentation, out, images.properties, case.first_file)
        volumes = self._context.volumes(segmentation, images.properties["spacing"], code)
        expected = self._expected(logits, segmentation, images, used)
        seconds = time.perf_counter() - start
        return Segmented(code_text(used, self.modalities), warnings, volumes, seconds, expected)

    def _expected(
        self, logits: Tensor, segmentation: np.ndarray, images: CaseImages, code: Code
    ) -> dict[str, Expectation]:
        """Return which Dice is expected of each label or region that may appear, from the signals of `fast`."""
        if not self._calibrations:
            return {}
        of_model = self._context.label_manager, self._context.dataset_json
        signals = fast_signals(logits, segmentation, images.properties["spacing"], *of_model)
        possible = self._context.labels_under(code)
        return {
            label: calibration.expect(code_digits(code), signals[label])
            for label, calibration in self._calibrations.items()
            if label in possible
        }

    def largest_code(self) -> Code:
        """Return a code with as many modalities as the model takes at once."""
        return self._taken()[-1]

    @property
    def used(self) -> tuple[str, ...]:
        """The modalities that the model uses: all, or those that it is dedicated to."""
        channels = range(len(self.modalities))
        return tuple(self.modalities[channel] for channel in channels if any(code[channel] for code in self._taken()))

    @property
    def takes_several_subsets(self) -> bool:
        """Whether cases may have different modalities."""
        return len(self._taken()) > 1

    @property
    def takes(self) -> str:
        """The cases that the model takes, in words."""
        names, taken = ", ".join(self.used), self._taken()
        if len(self.used) == 1:
            return f"cases that have {names}"
        if len(taken) == 1:
            return f"cases that have all of {names}"
        return f"cases that have {'any' if sum(taken[-1]) > 1 else 'just one'} of {names}"

    def _taken(self) -> list[Code]:
        return [code for code in all_codes(len(self.modalities)) if self._segmenter.takes(code)]

    def _require_taken(self, code: Code) -> None:
        """Refuse an incomplete case for nnU-Net's own networks, which would take NaN for a value.

        For the other networks, the preprocessing raises the error.
        """
        if not self._segmenter.network.knows_missing_modalities and not self._segmenter.takes(code):
            raise ModalityError(
                f"The case has {code_text(code, self.modalities)}. The model needs all of "
                f"{', '.join(self.modalities)}. Send the missing images."
            )

    def _warnings(self, code: Code) -> tuple[str, ...]:
        if self._trained is None:
            return ()
        unseen = [
            fold
            for fold, codes in self._trained.items()
            if not any(is_within(code, code_of_digits(digits)) for digits in codes)
        ]
        if not unseen:
            return ()
        return (
            f"no training case of fold {', '.join(unseen)} had {code_text(code, self.modalities)} together, so the "
            "model was not trained for this subset. The segmentation may be worse",
        )
