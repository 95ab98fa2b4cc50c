"""The one function that all programs for challenges share: files by modality in, a segmentation out."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_moe.commands.package.any_format import AnyFormatReader, require_readable
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.images.reading import CaseImages, read_channels
from nnunet_moe.modalities.codes import Code, all_codes, channel_names, code_of_digits, code_text, is_within
from nnunet_moe.models.checkpoints import loading
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.segmenter import Segmenter

FILE = "packaged.json"


@dataclass(frozen=True)
class PackagedModel:
    """What `packaged.json` tells of the folder it lies in."""

    folder: str
    """nnU-Net's model folder in it, TRAINER__PLANS__CONFIGURATION."""
    folds: tuple[Fold, ...]
    checkpoint: str
    trained: dict[str, list[str]] | None
    """Fold -> the codes of its training cases as digits, each once; None if they are not known."""

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=4) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "PackagedModel":
        """Read what `write` wrote.

        Raises:
            ModelError: there is no such file, or another one.
        """
        try:
            content = json.loads((folder / FILE).read_text())
            packaged = cls(**{**content, "folds": tuple(content["folds"])})
            packaged._check()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{folder} holds no packaged model ({type(error).__name__}: {error}). Put there what `nnunet_moe "
                "package` wrote into its folder `model`."
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
        """The trained model, below the folder that `packaged.json` lies in."""
        trainer, plans, configuration = self.folder.split("__")
        return ModelFolder(trainer, plans, configuration, folder / self.folder, self.checkpoint)


@dataclass(frozen=True)
class SentImages:
    """A case whose files were read."""

    images: CaseImages
    first_file: Path
    """Stands for the case's grid."""
    seconds: float
    """That reading took."""


@dataclass(frozen=True)
class Segmented:
    """What a log should tell of a case."""

    modalities: str
    """Those that were used, joined by `+`."""
    warnings: tuple[str, ...]
    volumes: dict[str, float]
    """Label or region that may appear -> mm3 (mm2 in 2D)."""
    seconds: float


class CaseModel:
    """A packaged model that segments one case after another, in this process alone.

    Args:
        folder: with `packaged.json` and nnU-Net's model folder.
        settings: of the prediction.

    Raises:
        ModelError: no packaged model, one that cannot be loaded, or weights that are NaN or infinite.
    """

    def __init__(self, folder: Path, settings: PredictionSettings) -> None:
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

    def predict(self, files: Mapping[str, Path], out: Path) -> Segmented:
        """Read and segment a case; arguments and errors as below."""
        return self.segment(self.read(files), out)

    def read(self, files: Mapping[str, Path]) -> SentImages:
        """Read a case.

        Args:
            files: modality -> image, for those that there are; in any format of `IMAGE_ENDINGS`, all on one grid. An
                image that is zero everywhere counts as absent.

        Raises:
            ModalityError: an unknown modality, images that cannot be used, or none.
        """
        start = time.perf_counter()
        if unknown := [name for name in files if name not in self.modalities]:
            raise ModalityError(f"{', '.join(unknown)}: the model's modalities are {', '.join(self.modalities)}.")
        for file in files.values():
            require_readable(file)
        by_channel = {self.modalities.index(name): str(file) for name, file in files.items()}
        images = read_channels(self._reader, by_channel, num_channels=len(self.modalities))
        return SentImages(images, next(iter(files.values())), time.perf_counter() - start)

    def segment(self, case: SentImages, out: Path) -> Segmented:
        """Segment a case; voxel for voxel what `nnunet_moe predict` gives.

        Args:
            case: what `read` gave.
            out: the segmentation's file, in the format of its ending and on the grid of the images; its folder is made.

        Raises:
            ModalityError: modalities or a grid that the model does not take.
        """
        start, images = time.perf_counter() - case.seconds, case.images
        code = images.available
        self._require_taken(code)
        self._require_dimension(case)
        used = self.largest_code() if self._segmenter.is_dedicated else code
        warnings = self._warnings(used)
        segmentation = self._segmenter.segment(images, code)
        out.parent.mkdir(parents=True, exist_ok=True)
        self._reader.write_seg(segmentation, out, images.properties, case.first_file)
        volumes = self._context.volumes(segmentation, images.properties["spacing"], code)
        seconds = time.perf_counter() - start
        return Segmented(code_text(used, self.modalities), warnings, volumes, seconds)

    def largest_code(self) -> Code:
        """A code with as many modalities as the model takes at once."""
        return self._taken()[-1]

    @property
    def used(self) -> tuple[str, ...]:
        """The modalities that the model looks at: all, or those that it is dedicated to."""
        channels = range(len(self.modalities))
        return tuple(self.modalities[channel] for channel in channels if any(code[channel] for code in self._taken()))

    @property
    def takes_several_subsets(self) -> bool:
        """Whether cases may have different modalities."""
        return len(self._taken()) > 1

    @property
    def takes(self) -> str:
        """In words, which cases."""
        names, taken = ", ".join(self.used), self._taken()
        if len(self.used) == 1:
            return f"cases that have {names}"
        if len(taken) == 1:
            return f"cases that have all of {names}"
        return f"cases that have {'any' if sum(taken[-1]) > 1 else 'just one'} of {names}"

    def _taken(self) -> list[Code]:
        return [code for code in all_codes(len(self.modalities)) if self._segmenter.takes(code)]

    def _require_dimension(self, case: SentImages) -> None:
        """A network of three dimensions makes something of a slice, but nothing that it was trained for."""
        if case.images.image.shape[1] == 1 and len(self._context.configuration.patch_size) == 3:
            raise ModalityError(f"{case.first_file} is a slice; the model is for volumes.")

    def _require_taken(self, code: Code) -> None:
        """A network of nnU-Net's own takes NaN for a value; the preprocessing of the others tells what they need."""
        if not self._segmenter.network.knows_missing_modalities and not self._segmenter.takes(code):
            raise ModalityError(
                f"The case has {code_text(code, self.modalities)}; the model is for cases that have all of "
                f"{', '.join(self.modalities)}."
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
            f"no training case of fold {', '.join(unseen)} had {code_text(code, self.modalities)} together: training "
            "has not shown the model this subset. Expect less of this segmentation",
        )
