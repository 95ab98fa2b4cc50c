"""Inputs for nnU-Net's own prediction command, one per test case and code, and scores of its predictions."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnunet_moe.modalities.codes import Code, all_codes, code_digits, code_text
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.files import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"truth": "#00a050", "prediction": "#e04040"}


@dataclass(frozen=True)
class CaseSubsets:
    """Test cases, and the folders of their images, labels and predictions.

    A case with a code is named `CASE_CODE`, with the code as digits: `phantomTs000_101`.
    """

    images: Path
    labels: Path
    predictions: Path
    cases: tuple[str, ...]
    modalities: tuple[str, ...]
    file_ending: str = ".nii.gz"

    @property
    def codes(self) -> list[Code]:
        return all_codes(len(self.modalities))

    def write_inputs(self, folder: Path) -> None:
        """Copy every case once for each code, with only the files of the code's modalities."""
        folder.mkdir(parents=True)
        for case in self.cases:
            for code in self.codes:
                for channel in np.flatnonzero(code):
                    ending = f"_{channel:04d}{self.file_ending}"
                    shutil.copyfile(self.images / f"{case}{ending}", folder / f"{case}_{code_digits(code)}{ending}")

    def image(self, case: str, channel: int) -> np.ndarray:
        return _read(self.images / f"{case}_{channel:04d}{self.file_ending}")

    def truth(self, case: str) -> np.ndarray:
        return _read(self.labels / f"{case}{self.file_ending}") > 0

    def prediction(self, case: str, code: Code) -> np.ndarray:
        return _read(self.predictions / f"{case}_{code_digits(code)}{self.file_ending}") > 0

    def dice(self) -> np.ndarray:
        """Return the foreground Dice, `(codes, cases)`, in native space; 1 if both segmentations are empty."""
        truths = [self.truth(case) for case in self.cases]
        return np.array(
            [
                [_dice(self.prediction(case, code), truth) for case, truth in zip(self.cases, truths, strict=True)]
                for code in self.codes
            ]
        )

    def table(self) -> str:
        """Return a Markdown table with the mean Dice of each code over the cases, and the mean over codes."""
        dice = self.dice().mean(axis=1)
        rows = [
            (code_text(code, self.modalities), f"{value:.3f}") for code, value in zip(self.codes, dice, strict=True)
        ]
        mean = ("**mean over codes**", f"**{dice.mean():.3f}**")
        return markdown_table(("modalities", "Dice"), [*rows, mean])

    def plot(self, case: str, file: Path) -> None:
        """Draw one row per code: available images, prediction, reference; the slice with the most lesion."""
        import matplotlib.pyplot as plt

        truth = self.truth(case)
        index = int(truth.sum(axis=(1, 2)).argmax())
        images = [self.image(case, channel)[index] for channel in range(len(self.modalities))]
        columns = [*self.modalities, "prediction", "reference"]
        figure, axes = plt.subplots(
            len(self.codes), len(columns), figsize=(1.6 * len(columns), 1.75 * len(self.codes)), squeeze=False
        )
        for row, code in zip(axes, self.codes, strict=True):
            backdrop = images[int(np.flatnonzero(code)[-1])]
            prediction = self.prediction(case, code)
            for axis, image, available in zip(row, images, code, strict=False):
                _show(axis, image, is_missing=not available)
            _show(row[-2], backdrop, prediction[index], COLOURS["prediction"])
            _show(row[-1], backdrop, truth[index], COLOURS["truth"])
            row[0].set_ylabel(code_text(code, self.modalities).replace("+", "\n+ "), fontsize=8)
            row[-2].set_xlabel(f"Dice {_dice(prediction, truth):.2f}", fontsize=8)
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title, fontsize=9)
        figure.tight_layout(pad=0.4)
        figure.savefig(file, dpi=100)
        plt.close(figure)


def median_case(subsets: CaseSubsets) -> str:
    """Return the case with the median Dice, averaged over the codes (the upper of two)."""
    order = subsets.dice().mean(axis=0).argsort()
    return subsets.cases[order[len(order) // 2]]


def cases_of(labels: Path, file_ending: str = ".nii.gz") -> tuple[str, ...]:
    """Return the names of the cases that have a label file in a folder."""
    return tuple(path.name.removesuffix(file_ending) for path in visible(labels) if path.name.endswith(file_ending))


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    size = prediction.sum() + truth.sum()
    return 1.0 if size == 0 else float(2 * (prediction & truth).sum() / size)


def _show(
    axis: "Axes", image: np.ndarray, outline: np.ndarray | None = None, colour: str = "", *, is_missing: bool = False
) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.imshow(np.ones_like(image) if is_missing else image, cmap="gray", vmin=0, vmax=1 if is_missing else None)
    if is_missing:
        axis.text(0.5, 0.5, "missing", ha="center", va="center", transform=axis.transAxes, color="0.5", fontsize=8)
    if outline is not None and outline.any():
        axis.contour(outline, levels=[0.5], colors=colour, linewidths=1)
