"""Compare segmentations of moved images with those of the original ones. Print Markdown.

    python benchmarks/aligned_segmentation.py --data open_ms -d 502 -c 2d_cpu -tr nnUNetTrainerMoESD --out moved

DATA has `imagesTr` and `labelsTr` as in `alignment.py`. T2w and FLAIR of each case are moved by random motions that
their headers do not contain, on slices of 1 and of 3 mm in turn. The model segments the original images, and the moved
ones with `--align grid` (only headers) and `--align rigid`.
"""

import argparse
import csv
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from alignment import NAMES, SLICES, moved, random_motion, volume

from nnunet_moe.images.alignment.settings import GRID, OFF, RIGID
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine, trainers_known

REFERENCE = NAMES[0]
ENDING = ".nii.gz"


def main() -> None:
    """Move, predict and score."""
    options = _options()
    images, labels = options.data / "imagesTr", options.data / "labelsTr"
    cases = sorted(file.name.removesuffix(ENDING) for file in labels.glob(f"*{ENDING}"))
    original, of_moved = options.out / "original", options.out / "moved"
    _copy(images, original)
    names = [_write_moved(images, case, number, of_moved) for case in cases for number in range(options.motions)]
    for folder, align in ((original, OFF), (of_moved, GRID), (of_moved, RIGID)):
        _predict(folder, options.out / f"{folder.name}_{align}", align, options.model)
    print(f"{machine()}; {' '.join(options.model)}\n")
    rows = _rows(options.out, labels, names)
    print(markdown_table(("case", "original", "moved, --align grid", "moved, --align rigid", "registered"), rows))


def _copy(images: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in images.glob(f"*{ENDING}"):
        shutil.copyfile(file, folder / file.name)


def _write_moved(images: Path, case: str, number: int, folder: Path) -> str:
    """Write a case whose T2w and FLAIR were moved, each in its own way, and return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    random, name = np.random.default_rng([int("".join(filter(str.isdigit, case))), number]), f"{case}m{number}"
    for channel, modality in enumerate(NAMES):
        read, target = volume(images, case, channel), folder / f"{name}_{channel:04d}{ENDING}"
        if modality == REFERENCE:
            shutil.copyfile(read.file, target)
        else:
            thickness = SLICES[number % len(SLICES)]
            sitk.WriteImage(moved(read, random_motion(random, read.space), thickness), str(target))
    return name


def _predict(images: Path, out: Path, align: str, model: Sequence[str]) -> None:
    reference = () if align == OFF else ("--reference", REFERENCE)
    command = ("nnunet_moe", "predict", "-i", images, "-o", out, *model, "--align", align, *reference)
    with trainers_known():
        subprocess.run([*map(str, command), "-device", "cpu", "--disable_tta", "--disable_progress_bar"], check=True)


def _rows(out: Path, labels: Path, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    with (out / f"moved_{RIGID}" / "manifest.csv").open(encoding="utf-8") as opened:
        manifest = {row["case"]: row for row in csv.DictReader(opened)}
    columns = []
    for name in names:
        case, truth = name.rpartition("m")[0], _labels(labels / f"{name.rpartition('m')[0]}{ENDING}")
        files = (f"original_{OFF}/{case}", f"moved_{GRID}/{name}", f"moved_{RIGID}/{name}")
        scores = [_dsc(_labels(out / f"{file}{ENDING}"), truth) for file in files]
        columns.append(scores)
        ways = ", ".join(f"{modality} {manifest[name][f'motion_mm_{modality}']} mm" for modality in NAMES[1:])
        yield (name, *(f"{score:.3f}" for score in scores), ways)
    yield ("mean", *(f"{score:.3f}" for score in np.mean(columns, axis=0)), "")


def _dsc(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * ((found == 1) & (truth == 1)).sum() / ((found == 1).sum() + (truth == 1).sum())


def _labels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with imagesTr and labelsTr")
    parser.add_argument("--out", type=Path, required=True, help="write everything to this folder")
    parser.add_argument("--motions", type=int, default=4, help="move each case so many times (default: %(default)s)")
    known, model = parser.parse_known_args()
    known.model = model
    return known


if __name__ == "__main__":
    main()
